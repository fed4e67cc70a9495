"""A run cut off by a power loss at any moment: resumed, it ends with the same bits or says in one line why not."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from pathlib import Path

import harness
import pytest
from power_loss import Recorder, Tree, recorded, restore

from fedloge.errors import FedlogeError

EVERY = int(os.environ.get("FEDLOGE_EVERY_POWER_LOSS", "12"))
"""Of the states that a power loss may leave every so many are tried; 1: all."""


@pytest.fixture(scope="module", params=[2, 9], ids=["few heads", "many heads"])
def cut(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Recorder]:
    """A whole run, and what was on the disk at each moment of it.

    Few heads are flushed one by one, more than eight by a flush of the whole system.
    """
    root, drawn = tmp_path_factory.mktemp("runs"), request.param
    changes = {"num_clients": max(4, drawn), "clients_per_round": drawn, "rounds": 2}
    with pytest.MonkeyPatch.context() as patch, recorded(root, patch) as recorder:
        folder = harness.run_local(harness.tiny(root, **changes))
    return folder, recorder


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recorder]:
    """A run of three rounds that is resumed from its second: what it sets aside, moment by moment."""
    root = tmp_path_factory.mktemp("resumed")
    folder = harness.run_local(harness.tiny(root, rounds=3, clients_per_round=2))
    with pytest.MonkeyPatch.context() as patch, recorded(root, patch) as recorder:
        recorder.all_flushed()
        harness.resume_local(folder, from_round=2)
    return folder, recorder


def outcome(tree: Tree, whole: Path, root: Path) -> str:
    """Resume what is left: "same" bits, "said" in one line, or nothing was begun."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    restore(tree, root)
    if not (root / "run").exists():
        return "nothing"
    try:
        folder = harness.resume_local(root / "run")
    except FedlogeError as exc:
        assert str(exc) and "\n" not in str(exc)
        return "said"
    assert harness.differences(whole, folder) == []
    return "same"


def tried(recorder: Recorder, whole: Path, tmp_path: Path) -> list[str]:
    """The outcomes of every so many states; told, for who runs all of them."""
    states = list(recorder.states.values())
    found = [outcome(tree, whole, tmp_path / "left") for tree in states[::EVERY]]
    counts = {kind: found.count(kind) for kind in ("same", "said", "nothing")}
    told = f"{recorder.boundaries} boundaries, {len(states)} states, tried {len(found)}: {counts}"
    sys.stdout.write(told + "\n")
    return found


@pytest.mark.slow
def test_a_resumed_run_has_the_same_bits_or_says_why_not(
    cut: tuple[Path, Recorder], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, recorder = cut
    assert recorder.boundaries > 100 and len(recorder.states) > 60
    with caplog.at_level(logging.ERROR, logger="fedloge"):
        found = tried(recorder, whole, tmp_path)
    assert found.count("same") > len(found) / 2


@pytest.mark.slow
def test_a_resume_that_is_cut_off_loses_nothing_that_it_sets_aside(
    resumed: tuple[Path, Recorder], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, recorder = resumed
    assert recorder.boundaries > 40
    with caplog.at_level(logging.ERROR, logger="fedloge"):
        found = tried(recorder, whole, tmp_path)
    assert set(found) == {"same"}
    # Wherever the power fails, the checkpoint that is passed over is in the run or beside it.
    name = "checkpoint/round-000003.safetensors"
    for tree in recorder.states.values():
        assert any(tree.get(f"run/{place}{name}") for place in ("", "set-aside/attempt-00002/"))


def test_a_checkpoint_is_never_without_what_it_relies_on(cut: tuple[Path, Recorder]) -> None:
    """Wherever a manifest names a round, its tensors, the lines up to it and the heads are there, whole."""
    _, recorder = cut
    seen = set()
    for tree in recorder.states.values():
        manifest = tree.get("run/checkpoint/manifest.json")
        rounds = [k for k in (1, 2) if manifest and f'"round": {k},'.encode() in manifest]
        for round in rounds:
            seen.add(round)
            assert tree[f"run/checkpoint/round-{round:06d}.safetensors"]
            lines = (tree["run/metrics.jsonl"] or b"").splitlines()
            assert len(lines) >= round and all(line.endswith(b"}") for line in lines[:round])
            heads = [n for n in tree if n.startswith("run/heads/") and n.endswith(".safetensors")]
            assert sum(bool(tree[n]) for n in heads) >= 2
    assert seen == {1, 2}
