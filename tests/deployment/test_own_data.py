"""Images that lie with the clients already: nothing is split, and nothing of them leaves a site."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Message, RecordDict
from PIL import Image
from safetensors.torch import load_file

from fedloge import messages as wire
from fedloge.client.client_app import app as client_app
from fedloge.config import Config, from_flat
from fedloge.engines import local
from fedloge.engines.local import LocalGrid
from fedloge.engines.own_grid import client_context, partition_of
from fedloge.errors import ConfigError, DataError, RunError
from fedloge.federation import OnNodeFederation, open_federation, open_site
from fedloge.results.export import export_client
from fedloge.results.report import write_report
from fedloge.results.run import open_run
from fedloge.results.trained_model import load
from fedloge.server.server_app import app as server_app

CLASSES = ("bird", "cat", "dog")
# (client, class) -> training images; nobody holds all, and client 2 has no test images.
HELD = {0: (12, 0, 3), 1: (0, 9, 2), 2: (7, 4, 0)}


def write_images(folder: Path, counts: tuple[int, ...], seed: int) -> None:
    """Noise around a grey of its own for each class, as 10x12 PNG files."""
    draw = np.random.default_rng(seed)
    for number, (name, count) in enumerate(zip(CLASSES, counts, strict=True)):
        if count:
            (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = draw.integers(0, 60, (12, 10, 3)) + 60 * number
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{i:03d}.png")


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sites")
    write_images(folder / "test", (4, 4, 4), seed=100)
    for k, counts in HELD.items():
        write_images(folder / f"client-{k}" / "train", counts, seed=k)
        if k != 2:
            write_images(
                folder / f"client-{k}" / "test", tuple(n // 3 for n in counts), seed=10 + k
            )
    return folder


@pytest.fixture
def config(sites: Path, tmp_path: Path) -> Callable[..., Config]:
    def make(
        classes: str | list[str] = "dog, bird, cat",
        share_class_counts: bool = False,
        **changes: Any,
    ) -> Config:
        values = {
            "dataset": "image-folder",
            "data-path": str(sites),
            "image-size": 8,
            "long-tail": "none",
            "partitioner": "on-node",
            "partitioner-options.classes": classes,
            "partitioner-options.share-class-counts": share_class_counts,
            # Site 2 has no test images: as they are given, it is not measured.
            "test-split": "given",
            "num-clients": 3,
            "clients-per-round": 3,
            "rounds": 2,
            "evaluate-every": 2,
            "local-epochs": 1,
            "device": "cpu",
            "cache-dir": str(tmp_path / "cache"),
            "runs-dir": str(tmp_path / "runs"),
            "name": "own",
        }
        return from_flat(values | {key.replace("_", "-"): v for key, v in changes.items()})

    return make


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_client_holds_its_own_images_and_knows_of_no_other(config: Callable[..., Config]) -> None:
    for k, counts in HELD.items():
        site = open_site(config(), k)
        assert site.data.classes == CLASSES
        assert site.partition.train_counts.tolist() == [
            list(counts) if other == k else [0, 0, 0] for other in HELD
        ]
        data = site.client_data(k, 1, {})
        assert len(data.train) == sum(counts) and data.counts.tolist() == list(counts)
        # Each class has a grey of its own: the labels are those of the folders.
        grey = data.train.inputs.double().mean(dim=(1, 2, 3)) // 60
        assert grey.tolist() == data.train.labels.tolist()


def test_a_site_without_test_images_is_tested_on_a_fifth_of_its_own(
    config: Callable[..., Config],
) -> None:
    given, own = (open_site(config(test_split="auto"), k).partition for k in (1, 2))
    assert (given.test_split, own.test_split) == ("given", "own")
    assert given.train_counts[1].tolist() == [0, 9, 2] and len(given.own_test) == 0
    # Of 7 birds and 4 cats a fifth are two images, rounded: one of each.
    assert own.train_counts[2].tolist() == [6, 3, 0]
    assert own.local_test_counts[2].tolist() == [1, 1, 0]
    site = open_site(config(test_split="auto"), 2)
    assert site.test.classes.tolist() == [0, 1]
    assert site.client_data(2, 1, {}).counts.tolist() == [6, 3, 0]
    always = open_site(config(test_split="own"), 0)
    # Behind its own test images, which then test nobody here, stand those that are held out.
    assert always.partition.test[0].tolist() == list(range(5, 8))
    assert len(always.test) == 8


def test_the_server_trains_on_nothing_and_tests_on_its_own_images(
    config: Callable[..., Config],
) -> None:
    server = open_federation(config())
    assert isinstance(server, OnNodeFederation)
    assert len(server.train) == 0 and len(server.test) == 12
    assert server.partition.train_counts.sum() == 0


def test_all_sites_agree_on_what_is_computed(config: Callable[..., Config]) -> None:
    seen = {open_site(config(), site).fingerprint for site in (-1, 0, 1, 2)}
    assert len(seen) == 1
    assert open_site(config(classes="bird, cat, dog, cow"), -1).fingerprint not in seen
    # The order in which the classes are named is nobody's business.
    assert config().class_names == config(classes=["cat", "dog", "bird"]).class_names == CLASSES


@pytest.mark.parametrize("shared", [False, True])
def test_a_run_from_end_to_end(config: Callable[..., Config], shared: bool) -> None:
    settings = config(share_class_counts=shared)
    local.run(settings)
    folder = Path(settings.runs_dir) / "own"
    first, last = metrics(folder)
    assert first["images"] == last["images"] == sum(map(sum, HELD.values()))
    assert 0 <= last["global/realigned/all"] <= 1 and last["evaluated-clients"] == 3
    assert "personal/realigned/mean" in last and "personal/realigned/many" not in last
    info = json.loads((folder / "run.json").read_text())
    assert info["num-train"] == 37 and info["test-counts"] == [4, 4, 4]
    # bird 19, cat 13, dog 5 of 37: before dog come 32 = 86 % of the images, before cat 51 %.
    assert info["train-counts"] == ([19, 13, 5] if shared else [0, 0, 0])
    assert info["groups"] == ([0, 0, 1] if shared else [0, 0, 0])
    assert ("global/realigned/medium" in last) == shared
    tested = {row["client"]: row["num-test"] for row in map(json.loads, lines(folder, "clients"))}
    assert tested == {0: 5, 1: 3, 2: 0}
    write_report([open_run(folder)], folder / "report.html")
    assert (folder / "report.html").stat().st_size > 1000


def lines(folder: Path, name: str) -> list[str]:
    return (folder / f"{name}.jsonl").read_text().splitlines()


def test_without_test_images_the_server_measures_nothing(
    config: Callable[..., Config], sites: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "no-test"
    shutil.copytree(
        sites, moved, ignore=lambda folder, names: {"test"} if folder == str(sites) else ()
    )
    settings = config(data_path=str(moved))
    local.run(settings)
    folder = Path(settings.runs_dir) / "own"
    last = metrics(folder)[-1]
    assert not any(key.startswith("global/") for key in last)
    assert "personal/realigned/mean" in last
    write_report([open_run(folder)], folder / "report.html")


class Scattered(LocalGrid):
    """Nodes that name their folder in their own config, as SuperNodes do."""

    def __init__(self, config: Config, folders: list[Path]) -> None:
        super().__init__(config)
        self.folders = folders

    def carry(self, messages: list[Message], timeout: float | None) -> Iterator[Message]:
        for message in messages:
            client = partition_of(message)
            context = client_context(self.config, client)
            context.node_config["data-path"] = str(self.folders[client])
            yield client_app(message, context)


def test_a_node_names_its_folder_in_its_own_config(
    config: Callable[..., Config], sites: Path, tmp_path: Path
) -> None:
    folders = [
        Path(shutil.copytree(sites / f"client-{k}", tmp_path / f"elsewhere-{k}")) for k in HELD
    ]
    shutil.copytree(sites / "test", tmp_path / "server" / "test")
    scattered = config(data_path=str(tmp_path / "server"), name="scattered")
    grid = Scattered(scattered, folders)
    server_app(grid, grid.server_context())
    together = config(name="together")
    local.run(together)
    a, b = (Path(c.runs_dir) / c.name for c in (scattered, together))
    there, here = (load_file(run / "checkpoint" / "round-000002.safetensors") for run in (a, b))
    assert there and all(torch.equal(tensor, here[name]) for name, tensor in there.items())
    assert metrics(a) == metrics(b)


@pytest.mark.parametrize("shared", [False, True])
def test_class_counts_leave_a_site_only_when_told(
    config: Callable[..., Config], shared: bool
) -> None:
    grid = LocalGrid(config(share_class_counts=shared))
    question = Message(RecordDict(), dst_node_id=3, message_type="query.whoami")
    (answer,) = grid.send_and_receive([question])
    told = answer.content.metric_records[wire.METRICS]
    expected = {"partition-id": 1, wire.NUM_EXAMPLES: 11}
    assert dict(told) == expected | ({wire.CLASS_COUNTS: [0, 9, 2]} if shared else {})


def test_counts_that_do_not_add_up_are_refused(config: Callable[..., Config]) -> None:
    class Liar(LocalGrid):
        def carry(self, messages: list[Message], timeout: float | None) -> Any:
            for reply in super().carry(messages, timeout):
                reply.content.metric_records[wire.METRICS][wire.CLASS_COUNTS] = [100, 9, 2]
                yield reply

    grid = Liar(config(share_class_counts=True))
    with pytest.raises(RunError, match="do not add up"):
        server_app(grid, grid.server_context())


def test_an_unknown_class_at_a_site_is_named(config: Callable[..., Config]) -> None:
    site = open_site(config(classes="bird, cat, dig"), 0)
    with pytest.raises(DataError, match=r"unknown class 'dog' \(did you mean 'dig'\?\)"):
        site.data  # noqa: B018


def test_a_site_without_training_images_says_so(
    config: Callable[..., Config], tmp_path: Path
) -> None:
    write_images(tmp_path / "own" / "test", (1, 1, 1), seed=0)
    with pytest.raises(DataError, match=r"client 1: .* holds no images in train"):
        open_site(config(), 1, str(tmp_path / "own")).data  # noqa: B018
    with pytest.raises(DataError, match="no such folder"):
        open_site(config(), 1, str(tmp_path / "nothing")).data  # noqa: B018


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"long_tail": "exp"}, "set long-tail=none, got 'exp'"),
        ({"dataset": "digits"}, "set dataset=image-folder, got 'digits'"),
        ({"classes": ""}, r'set partitioner-options\.classes=\["NAME", "NAME"\]'),
        ({"image_size": 0}, "set image-size"),
    ],
)
def test_what_cannot_be_agreed_is_refused(
    config: Callable[..., Config], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**changes)


def test_a_site_exports_its_model_with_its_own_images(
    config: Callable[..., Config], sites: Path, tmp_path: Path
) -> None:
    settings = config()
    local.run(settings)
    run = open_run(Path(settings.runs_dir) / "own")
    manifest = export_client(run, 1, tmp_path / "out", data_path=str(sites / "client-1"))
    assert manifest["client"] == 1 and manifest["rounds-trained"] == 2
    assert tuple(manifest["classes"]) == CLASSES
    assert load(tmp_path / "out")(torch.zeros(2, 3, 8, 8, dtype=torch.uint8)).shape == (2, 3)
