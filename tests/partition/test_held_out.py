"""Validation examples: a stratified share of each client's, none of which it trains on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from harness import lines, run_local, tiny
from hypothesis import given
from hypothesis import strategies as st

from fedloge.federation import Federation
from fedloge.partition.held_out import hold_out
from fedloge.rng import rng


def test_a_client_gives_a_fifth_of_each_class() -> None:
    labels = np.repeat([0, 1, 2], [20, 10, 1])
    part = np.arange(31)
    kept, held = hold_out(part, labels, 0.2, rng(0, "test"))
    assert np.bincount(labels[held], minlength=3).tolist() == [4, 2, 0]
    assert sorted([*kept, *held]) == part.tolist()


@given(
    sizes=st.lists(st.integers(0, 12), min_size=1, max_size=6).filter(any),
    share=st.floats(0, 0.9),
    seed=st.integers(0, 5),
)
def test_no_class_loses_its_last_example_and_the_share_is_met_where_it_can_be(
    sizes: list[int], share: float, seed: int
) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    part = np.arange(len(labels))
    kept, held = hold_out(part, labels, share, rng(seed, "test"))
    assert sorted([*kept, *held]) == part.tolist()
    left = np.bincount(labels[kept], minlength=len(sizes))
    assert all(n >= 1 for n, size in zip(left, sizes, strict=True) if size)
    spare = sum(size - 1 for size in sizes if size)
    assert len(held) <= round(share * len(part))
    assert len(held) >= min(round(share * len(part)), spare) - len(sizes)


def test_a_run_measures_on_what_it_holds_out(tmp_path: Path) -> None:
    config = tiny(tmp_path, method="fedavg", validation_share=0.25, rounds=1)
    fed, whole = Federation(config), Federation(config.replace(validation_share=0.0))
    for client in range(config.num_clients):
        kept, held = fed.partition.train[client], fed.partition.validation[client]
        assert sorted([*kept, *held]) == whole.partition.train[client].tolist()
        assert len(held) == pytest.approx(0.25 * len(whole.partition.train[client]), abs=3)
        assert (fed.partition.test[client] == whole.partition.test[client]).all()
    assert fed.partition.digest() != whole.partition.digest()
    folder = run_local(config)
    row = lines(folder, "metrics")[-1]
    assert 0 <= row["personal/tuned/validation"] <= 1
    # By hand: every client's held-out examples through the model of the checkpoint at once.
    assert row["probe/validation/raw/all"] == pytest.approx(by_hand(fed, folder))
    assert row["images"] == sum(len(fed.partition.train[c]) for c in drawn(folder))


def by_hand(fed: Federation, folder: Path) -> float:
    from harness import newest_checkpoint

    tensors = newest_checkpoint(folder)
    fed.load({k.removeprefix("shared."): t for k, t in tensors.items() if k.startswith("shared.")})
    held = fed.train.take(np.concatenate(fed.partition.validation))
    net = fed.net.eval()
    guesses = net.head(net.backbone(fed.data.preparation.prepare(held.inputs))).argmax(dim=1)
    return float((guesses == held.classes).double().mean())


def drawn(folder: Path) -> list[int]:
    trained = [row["client"] for row in lines(folder, "clients") if row["trained-rounds"]]
    return sorted(trained)
