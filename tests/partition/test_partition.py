from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloge.config import Config, from_flat
from fedloge.errors import ConfigError, DataError, PartitionError
from fedloge.partition import (
    BUILTIN,
    dirichlet,
    group_by_owner,
    iid,
    local_test_counts,
    local_test_indices,
    make_partition,
    partition_rng,
    pathological,
    quantity,
    resolve_partitioner,
)
from fedloge.partition.partition import counts_by_class, verify_parts
from fedloge.rng import rng

GOLDEN = json.loads(
    (Path(__file__).parents[1] / "golden" / "cifar10-lt-if0.02-alpha0.5-partition.json").read_text()
)


def config(**values: object) -> Config:
    flat = {key.replace("_", "-"): value for key, value in values.items()}
    return from_flat({"clients-per-round": 1, **flat})


def blocks(*sizes: int) -> np.ndarray:
    return np.repeat(np.arange(len(sizes)), sizes)


def random_labels(data: st.DataObject) -> np.ndarray:
    sizes = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=6), label="class sizes")
    return np.random.default_rng(0).permutation(blocks(*sizes))


def test_the_authors_split_is_reproduced_exactly() -> None:
    labels = blocks(*GOLDEN["class_sizes"])
    made = make_partition(config(seed=3407, num_clients=40), labels, blocks(*[1000] * 10), 10)
    assert made.train_counts.tolist() == GOLDEN["train_counts"]
    assert made.local_test_counts.tolist() == GOLDEN["local_test_counts"]
    drawn = counts_by_class(made.test, blocks(*[1000] * 10), 10)
    assert drawn.tolist() == GOLDEN["local_test_counts"]
    assert all(len(np.unique(test)) == len(test) for test in made.test)
    verify_parts(list(made.train), len(labels), 40, who="golden")


def test_the_split_follows_the_seed_and_nothing_else() -> None:
    labels, test_labels = blocks(*[50] * 10), blocks(*[20] * 10)
    made = make_partition(config(seed=1, num_clients=4), labels, test_labels, 10)
    np.random.seed(99)
    again = make_partition(config(seed=1, num_clients=4), labels, test_labels, 10)
    assert made.digest() == again.digest()
    other = make_partition(config(seed=2, num_clients=4), labels, test_labels, 10)
    assert made.digest() != other.digest()


def test_partition_rng_is_randomstate() -> None:
    drawn = np.random.RandomState(partition_rng(7).bit_generator).random_sample(5)
    assert drawn.tolist() == np.random.RandomState(7).random_sample(5).tolist()


# These go by more than the labels, and have tests of their own.
BY_LABELS = sorted(set(BUILTIN) - {"natural", "feature", "explicit", "flwr-datasets"})


@pytest.mark.parametrize("name", BY_LABELS)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_nothing_is_lost_and_nothing_twice(name, data) -> None:
    partitioner, labels = BUILTIN[name], random_labels(data)
    num_clients = data.draw(st.integers(1, 12), label="clients")
    given_labels = labels.copy()
    try:
        parts = partitioner(labels, num_clients, rng(data.draw(st.integers(0, 99)), "test"))
    except PartitionError:
        assert name in ("pathological", "shards", "label-and-quantity")
        return
    verify_parts(parts, len(labels), num_clients, who="property")
    assert np.array_equal(labels, given_labels)


@settings(max_examples=30, deadline=None)
@given(num_images=st.integers(1, 200), num_clients=st.integers(1, 20))
def test_iid_sizes_differ_by_one_at_most(num_images, num_clients) -> None:
    sizes = [len(part) for part in iid(np.zeros(num_images, int), num_clients, rng(0, "test"))]
    assert max(sizes) - min(sizes) <= 1


def test_iid_mixes() -> None:
    parts = iid(blocks(500, 500), 2, rng(0, "test"))
    assert 200 < counts_by_class(parts, blocks(500, 500), 2)[0, 0] < 300


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_pathological_gives_each_client_its_classes(data) -> None:
    labels = random_labels(data)
    num_classes = int(labels.max()) + 1
    num_clients = data.draw(st.integers(1, 12), label="clients")
    wanted = data.draw(st.integers(1, num_classes), label="classes a client")
    sizes = np.bincount(labels)
    feasible = num_classes <= num_clients * wanted <= np.minimum(sizes, num_clients).sum()
    draw = rng(data.draw(st.integers(0, 99)), "test")
    if not feasible:
        with pytest.raises(PartitionError, match="classes-per-client or num-clients"):
            pathological(labels, num_clients, draw, classes_per_client=wanted)
        return
    parts = pathological(labels, num_clients, draw, classes_per_client=wanted)
    counts = counts_by_class(parts, labels, num_classes)
    assert ((counts > 0).sum(axis=1) == wanted).all()
    for column in counts.T:
        held = column[column > 0]
        assert held.max() - held.min() <= 1


def test_pathological_by_hand() -> None:
    # 4 clients, 1 of 2 classes each: two holders a class, who halve it.
    parts = pathological(blocks(10, 4), 4, rng(0, "test"), classes_per_client=1)
    counts = counts_by_class(parts, blocks(10, 4), 2)
    assert sorted(counts.tolist()) == [[0, 2], [0, 2], [5, 0], [5, 0]]


def test_pathological_keeps_a_long_tail_whole() -> None:
    # 6 pairs over classes of 9, 9 and 1 images: the last has one holder, not two.
    parts = pathological(blocks(9, 9, 1), 3, rng(0, "test"), classes_per_client=2)
    counts = counts_by_class(parts, blocks(9, 9, 1), 3)
    assert (counts > 0).sum(axis=0).tolist() in ([3, 2, 1], [2, 3, 1])


def test_dirichlet_skews_more_with_a_smaller_alpha() -> None:
    labels = blocks(*[200] * 10)

    def spread(alpha: float) -> float:
        parts = dirichlet(labels, 10, partition_rng(0), alpha=alpha)
        return float(counts_by_class(parts, labels, 10).std())

    assert spread(0.1) > 2 * spread(1.0) > 4 * spread(100.0)


def test_quantity_skews_sizes_but_not_labels() -> None:
    labels = blocks(5000, 5000)
    parts = quantity(labels, 5, rng(3, "test"), alpha=0.5)
    counts = counts_by_class(parts, labels, 2)
    sizes = counts.sum(axis=1)
    assert sizes.max() > 3 * sizes.min()
    large = counts[sizes > 1000]
    assert np.abs(large[:, 0] / large.sum(axis=1) - 0.5).max() < 0.05


def test_an_alpha_beyond_arithmetic_is_refused() -> None:
    with pytest.raises(
        PartitionError, match=r"'dirichlet': alpha \(1e-300\) is too small.*raise it"
    ):
        dirichlet(blocks(5, 5), 3, partition_rng(0), alpha=1e-300)


def test_an_empty_client_is_refused_with_a_remedy() -> None:
    with pytest.raises(
        PartitionError,
        match=r"^partitioner 'dirichlet': client \d+ of 40 gets no example; "
        r"raise partitioner-options.alpha \(0.05\) or set partitioner-options.min-size=1 or "
        r"lower num-clients \(40\)$",
    ):
        make_partition(
            config(num_clients=40, partitioner_options={"alpha": 0.05}),
            blocks(30, 9),
            blocks(10, 10),
            2,
        )
    with pytest.raises(PartitionError, match=r"of 5 gets no example; lower num-clients \(5\)$"):
        make_partition(config(num_clients=5, partitioner="iid"), blocks(2, 2), blocks(10, 10), 2)


def test_local_counts_by_hand() -> None:
    # N = 10, T = 25: 3/10 of 25 is 7.5, 7/10 is 17.5.
    counts = local_test_counts(np.array([[3, 0], [0, 7]]), 10, 25)
    assert counts.tolist() == [[7, 0], [0, 17]]


@settings(max_examples=60, deadline=None)
@given(counts=st.lists(st.integers(0, 23), min_size=3, max_size=3), seed=st.integers(0, 99))
def test_local_test_images_are_those_asked_for(counts, seed) -> None:
    labels = np.array([0, 1, 2] * 5 + [2] * 5)  # 5, 5 and 10 images
    chosen = local_test_indices(group_by_owner(labels, 3), np.array(counts), rng(seed, "test"))
    assert chosen.dtype == np.int64
    assert (np.diff(chosen) >= 0).all()
    assert np.bincount(labels[chosen], minlength=3).tolist() == counts
    # Whole copies first: no image of a class stands there twice more often than another.
    for c, available in enumerate((5, 5, 10)):
        times = np.bincount(chosen[labels[chosen] == c], minlength=20)[labels == c]
        assert len(times) == available
        assert times.max() - times.min() <= 1


def test_a_class_without_test_images_is_refused() -> None:
    with pytest.raises(DataError, match="class 1 has training examples but none in the test set"):
        make_partition(config(num_clients=1), blocks(3, 3), np.zeros(5, int), 2)


def test_options_reach_the_partitioner() -> None:
    bound = resolve_partitioner(
        config(partitioner="pathological", partitioner_options="classes-per-client = 3")
    )
    assert bound.options == {"classes_per_client": 3}
    for name in ("dirichlet", "quantity"):
        own = config(partitioner=name, partitioner_options={"alpha": 0.25})
        assert resolve_partitioner(own).options["alpha"] == 0.25
        assert resolve_partitioner(config(partitioner=name)).options["alpha"] == 0.5


@pytest.mark.parametrize(
    ("partitioner", "options", "message"),
    [
        ("pathological", "classes-per-clint = 3", "did you mean 'classes-per-client'"),
        (
            "pathological",
            "classes-per-client = many",
            "classes-per-client: .*valid integer, got 'many'",
        ),
        (
            "pathological",
            "classes-per-client = true",
            "classes-per-client: .*valid integer, got True",
        ),
        ("dirichlet", "alpha = 0", "alpha: .*greater than 0, got 0"),
        ("quantity", "alpha = -1", "alpha: .*greater than 0, got -1"),
        ("dirichlet", "alpha = nan", "alpha: expected a finite number, got nan"),
        ("iid", "alpha = 0.1", "of 'iid': there are no options, got 'alpha'"),
    ],
)
def test_wrong_options_are_refused(partitioner, options, message) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_partitioner(config(partitioner=partitioner, partitioner_options=options))


PLUGIN = """
import numpy as np

def halves(labels, num_clients, rng, *, keep: int):
    return [np.arange(k, keep, num_clients) for k in range(num_clients)]

halves.lossy = True

class Rounds:
    def __init__(self, step=1):
        self.step = step

    def __call__(self, labels, num_clients, rng):
        owner = np.arange(len(labels)) // self.step % num_clients
        return [np.flatnonzero(owner == k) for k in range(num_clients)]

def careless(labels, num_clients, rng):
    return [np.arange(len(labels)) for _ in range(num_clients)]

def broken(labels, num_clients, rng):
    return labels.no_such_thing
"""


@pytest.fixture
def plugin(tmp_path: Path) -> str:
    file = tmp_path / "mine.py"
    file.write_text(PLUGIN)
    return str(file)


def test_a_partitioner_from_a_file(plugin) -> None:
    labels, test_labels = blocks(4, 4), blocks(4, 4)
    rounds = config(num_clients=2, partitioner=f"{plugin}:Rounds", partitioner_options="step = 2")
    made = make_partition(rounds, labels, test_labels, 2)
    assert [part.tolist() for part in made.train] == [[0, 1, 4, 5], [2, 3, 6, 7]]
    lossy = config(num_clients=2, partitioner=f"{plugin}:halves", partitioner_options="keep = 4")
    made = make_partition(lossy, labels, test_labels, 2)
    assert [part.tolist() for part in made.train] == [[0, 2], [1, 3]]
    # N is what was given out, so the shares of the test set still add up to all of it.
    assert made.local_test_counts.sum() == 8


def test_a_bad_partitioner_from_a_file_is_refused_in_a_line(plugin) -> None:
    def make(name: str) -> None:
        chosen = config(num_clients=2, partitioner=f"{plugin}:{name}")
        make_partition(chosen, blocks(4, 4), blocks(4, 4), 2)

    with pytest.raises(PartitionError, match="client 1: index 0 belongs to an earlier client too"):
        make("careless")
    with pytest.raises(PartitionError, match=r"failed: AttributeError: .*no_such_thing"):
        make("broken")
    with pytest.raises(
        ConfigError, match=r"partitioner-options of .*:halves': keep is missing; give it a value"
    ):
        make("halves")


def test_ten_thousand_clients_and_a_million_images_take_seconds() -> None:
    made = make_partition(
        config(num_clients=10_000, partitioner_options={"alpha": 5.0}),
        blocks(*[10_000] * 100),
        blocks(*[100] * 100),
        100,
    )
    assert made.train_counts.sum() == 1_000_000
