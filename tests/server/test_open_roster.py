"""Sites that join, leave and grow between rounds, and a resume that repeats who was there."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import harness
import numpy as np
import pytest
from flwr.app import Message, RecordDict
from PIL import Image

from fedloge.config import Config, from_flat
from fedloge.engines.local import LocalGrid
from fedloge.errors import ConfigError, RunDirError, RunError
from fedloge.federation import open_federation, opening
from fedloge.observer import Observer, RoundDone
from fedloge.server import roster as rosters
from fedloge.server.roster import Roster
from fedloge.server.sampling import drawn_clients

HELD = {0: (9, 4), 1: (5, 6), 2: (3, 12), 3: (8, 8)}


def write_images(folder: Path, counts: Iterable[int], seed: int) -> None:
    draw = np.random.default_rng(seed)
    for number, (name, count) in enumerate(zip(("a", "b"), counts, strict=True)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = draw.integers(0, 60, (8, 8, 3)) + 90 * number
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{seed:03d}-{i:03d}.png")


@pytest.fixture
def sites(tmp_path: Path) -> Path:
    write_images(tmp_path / "sites/test", (4, 4), seed=100)
    for k, counts in HELD.items():
        write_images(tmp_path / f"sites/client-{k}/train", counts, seed=k)
    return tmp_path / "sites"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rosters, "_POLL_SECONDS", 0.01)


@pytest.fixture
def config(sites: Path, tmp_path: Path) -> Callable[..., Config]:
    def make(name: str = "run", **changes: Any) -> Config:
        values: dict[str, Any] = {
            "dataset": "image-folder",
            "data-path": str(sites),
            "image-size": 8,
            "long-tail": "none",
            "test-split": "own",
            "partitioner": "on-node",
            "partitioner-options.classes": ["a", "b"],
            "partitioner-options.min-clients": 2,
            "num-clients": 4,
            "clients-per-round": 3,
            "rounds": 4,
            "evaluate-every": 1,
            "local-epochs": 1,
            "device": "cpu",
            "whoami-timeout": 0.3,
            "startup-timeout": 0.5,
            "cache-dir": str(tmp_path / "cache"),
            "runs-dir": str(tmp_path / "runs"),
            "name": name,
        }
        return from_flat(values | {key.replace("_", "-"): v for key, v in changes.items()})

    return make


class Coming(LocalGrid):
    """The nodes of some clients are there."""

    nodes_are_fixed = False

    def __init__(self, config: Config, present: Iterable[int] = range(4)) -> None:
        super().__init__(config)
        self.present = set(present)

    def get_node_ids(self) -> list[int]:
        return [client + 2 for client in sorted(self.present)]


class After(Observer):
    """After some rounds something happens."""

    def __init__(self, happens: dict[int, Callable[[], Any]]) -> None:
        self.happens = happens

    def on_round(self, event: RoundDone) -> None:
        self.happens.get(event.row["round"], lambda: None)()


def run(config: Config, grid: Coming, happens: dict[int, Callable[[], Any]] | None = None) -> Path:
    return harness.run_local(config, lambda _: grid, [After(happens or {})])


def come_and_go(config: Config) -> tuple[Path, Coming]:
    """Two start; after round 1 the third and the fourth come, after round 2 the first leaves."""
    grid = Coming(config, {0, 2})
    happens = {1: lambda: grid.present.update({1, 3}), 2: lambda: grid.present.discard(0)}
    return run(config, grid, happens), grid


def present(folder: Path) -> list[list[int]]:
    return [sorted(map(int, line["images"])) for line in harness.lines(folder, "rosters")]


def test_sites_come_and_go_between_rounds(config: Callable[..., Config]) -> None:
    folder, _ = come_and_go(config())
    assert present(folder) == [[0, 2], [0, 2], [0, 1, 2, 3], [1, 2, 3], [1, 2, 3]]
    rows = harness.lines(folder, "metrics")
    assert [(row["clients"], row["present"]) for row in rows] == [(2, 2), (3, 4), (3, 3), (3, 3)]
    assert [row["evaluated-clients"] for row in rows] == [2, 4, 3, 3]
    assert not (folder / "failures.jsonl").exists(), "who is not there fails nothing"


def test_with_all_there_it_draws_as_a_closed_roster(config: Callable[..., Config]) -> None:
    opened = config()
    for round in range(1, 30):
        everybody = drawn_clients(opened, round, [3, 0, 1, 2])
        assert everybody == drawn_clients(opened, round)
        assert drawn_clients(opened, round, [1, 3]) == [1, 3]


def test_a_resume_repeats_who_was_there(config: Callable[..., Config]) -> None:
    folder, _ = come_and_go(config(checkpoint_every=4))
    shutil.copytree(folder, folder.with_name("before"))
    # Now all four are there, from the beginning; the first too, which had left.
    harness.resume_local(folder, Coming, from_round=0)
    assert harness.differences(folder.with_name("before"), folder) == []
    assert (folder / "rosters.jsonl").read_bytes() == (
        folder.with_name("before") / "rosters.jsonl"
    ).read_bytes()


def test_a_site_that_is_missing_at_a_replay_is_named(
    config: Callable[..., Config], caplog: pytest.LogCaptureFixture
) -> None:
    folder, _ = come_and_go(config())
    with caplog.at_level(logging.WARNING, logger="fedloge"):
        harness.resume_local(folder, lambda c: Coming(c, {1, 2}), from_round=3)
    said = [r.getMessage() for r in caplog.records if "cannot be repeated" in r.getMessage()]
    assert said == [
        "round 4 cannot be repeated with the sites that it had: client 3 not there as it was; it is done with "
        "those that are"
    ]
    assert present(folder)[-1] == [1, 2]


def test_a_site_that_grows_counts_for_more_once_it_has_said_so(
    config: Callable[..., Config], sites: Path
) -> None:
    made = config()
    folder = Path(made.runs_dir) / made.name

    def grow() -> None:
        write_images(sites / "client-1/train", (10, 10), seed=50)
        opening._open.clear()  # a site's process ends with each message
        for kept in (folder / "heads").glob("client-00001/data.json"):
            kept.unlink()  # the site says that it means it

    run(made, Coming(made, {0, 1, 2}), {2: grow})
    counted = [line["images"]["1"] for line in harness.lines(folder, "rosters")]
    assert len(set(counted[:4])) == 1 and counted[4] == counted[0] + 16, "a fifth of 20 are tests"
    (failed,) = {(f["round"], f["client"]) for f in harness.lines(folder, "failures")}
    assert failed == (3, 1)
    assert [row["clients"] for row in harness.lines(folder, "metrics")] == [3, 3, 2, 3]


def test_too_few_stop_the_run_which_goes_on_once_they_are_back(
    config: Callable[..., Config],
) -> None:
    made = config()
    grid = Coming(made, {0, 2})
    with pytest.raises(RunError, match=r"1 clients are there, expected 2 or more .*min-clients"):
        run(made, grid, {2: lambda: grid.present.discard(0)})
    folder = Path(made.runs_dir) / made.name
    assert len(harness.lines(folder, "metrics")) == 2
    harness.resume_local(folder, lambda c: Coming(c, {1, 2}))
    assert present(folder)[1:] == [[0, 2], [0, 2], [1, 2], [1, 2]]


def test_classes_are_counted_as_the_run_began_whoever_comes_later(
    config: Callable[..., Config],
) -> None:
    made = config(**{"partitioner-options.share-class-counts": True})
    folder, _ = come_and_go(made)
    (first, *_) = harness.lines(folder, "rosters")
    assert first["class_counts"].keys() == {"0", "2"}
    harness.resume_local(folder, Coming, rounds=5)
    federation = open_federation(made.replace(rounds=5, resume=True))
    told = np.array(list(first["class_counts"].values())).sum(axis=0)
    assert federation.partition.train_counts.sum(axis=0).tolist() == told.tolist()


def test_a_node_that_was_refused_is_asked_again(
    config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rosters, "_REFUSED_SECONDS", 0.05)
    made = config()
    answers: list[int] = []

    class Late(Coming):
        """Client 3 first has nothing to say."""

        def carry(self, messages: list[Message], timeout: float | None) -> Any:
            for reply in super().carry(messages, timeout):
                if reply.metadata.src_node_id == 5:
                    answers.append(1)
                    if len(answers) == 1:
                        (message,) = (m for m in messages if m.metadata.dst_node_id == 5)
                        reply = Message(RecordDict(), reply_to=message)
                yield reply

    roster = Roster(Late(made), 4, open_federation(made).fingerprint, at_least=2)
    roster.wait(1)
    assert roster.missing() == [3]
    rosters.time.sleep(0.06)
    roster.refresh()
    assert roster.missing() == [] and len(answers) == 2


def test_a_damaged_record_is_refused(config: Callable[..., Config]) -> None:
    folder, _ = come_and_go(config())
    path = folder / "rosters.jsonl"
    path.write_text(path.read_text().replace('"images": {"0"', '"images": {"x"', 1))
    with pytest.raises(RunDirError, match=r"rosters\.jsonl: line 1 is damaged"):
        harness.resume_local(folder, Coming, rounds=5)


def test_a_buffer_takes_who_is_there(config: Callable[..., Config]) -> None:
    folder, _ = come_and_go(config(clients_per_round=2, buffer_size=2))
    for line, there in zip(harness.lines(folder, "arrivals"), present(folder)[1:], strict=True):
        assert {client for kind, client, _ in line["events"] if kind == "asked"} <= set(there)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"partitioner-options.min-clients": 5}, "min-clients is 5, more than the 4 places"),
        ({"dp-clip": 1.0}, "leave dp-clip or min-clients out"),
    ],
)
def test_what_does_not_fit_is_refused(
    config: Callable[..., Config], changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        config(**changes)
