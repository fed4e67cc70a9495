"""What a resume does again is kept, under its own names, in a folder that the message names."""

from __future__ import annotations

import json
import logging
import shutil
import stat
from pathlib import Path

import harness
import pytest
from safetensors.torch import load_file

from fedloge.run_files import ROUND_FILES
from fedloge.server.checkpoint import CheckpointStore
from fedloge.server.run_record import RunRecord
from fedloge.server.set_aside import set_aside_later


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return harness.run_local(harness.tiny(tmp_path_factory.mktemp("runs"), rounds=4))


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def resumed(folder: Path, **changes: int) -> None:
    harness.resume_local(folder, runs_dir=str(folder.parent), **changes)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_files_newer_than_the_base_are_kept_and_named(
    folder: Path, whole: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = contents(folder)
    with caplog.at_level(logging.WARNING, logger="fedloge"):
        resumed(folder, from_round=3)
    aside = folder / "set-aside/attempt-00002"
    kept = contents(aside)
    later = [n for n in before if "round-000004" in n or n == "checkpoint/manifest.json"]
    assert len(later) > 3 and all(kept.pop(name) == before[name] for name in later)
    # Of the lines those of round 4, as they were.
    for name in [name for name in kept if name.endswith(".jsonl")]:
        old = [line for line in before[name].splitlines() if json.loads(line)["round"] == 4]
        assert kept.pop(name).splitlines() == old
    assert kept == {}
    said = [r.getMessage() for r in caplog.records if "set aside" in r.getMessage()]
    heads = sum(name.startswith("heads/") for name in later)
    assert len(said) == 1 and str(aside) in said[0] and f"{heads} personal states" in said[0]
    assert "1 files of checkpoints" in said[0]
    assert harness.differences(whole, folder) == []
    for path in (aside, *aside.rglob("*")):
        assert not path.is_dir() or stat.S_IMODE(path.stat().st_mode) == 0o700


def test_a_whole_run_that_goes_on_sets_nothing_aside(folder: Path) -> None:
    resumed(folder, rounds=5)
    assert not (folder / "set-aside").exists()


def test_each_start_has_a_folder_of_its_own(folder: Path) -> None:
    before = load_file(folder / "checkpoint/round-000004.safetensors")
    for _ in range(2):
        resumed(folder, from_round=3)
    for attempt in (2, 3):
        path = folder / f"set-aside/attempt-{attempt:05d}/checkpoint/round-000004.safetensors"
        assert harness.same_tensors(load_file(path), before)


def test_half_a_line_is_kept_too(folder: Path) -> None:
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"round": 5, "acc')
    resumed(folder, rounds=5)
    assert (folder / "set-aside/attempt-00002/metrics.jsonl").read_text() == '{"round": 5, "acc\n'


@pytest.mark.parametrize("moves", range(1, 8))
def test_a_kill_in_the_middle_loses_nothing(
    moves: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever has been moved when the process ends: the next resume moves the rest beside it."""
    record = RunRecord(folder, "", "")
    info = json.loads((folder / "run.json").read_text())
    store = CheckpointStore(record.checkpoints, info["run-id"], info["fingerprint"])
    before, left = contents(folder), moves
    replace = Path.replace

    def killed(path: Path, target: Path) -> Path:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return replace(path, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", killed)
        set_aside_later(record, store, 3)
    set_aside_later(record, store, 3)
    aside = contents(folder / "set-aside/attempt-00002")
    for name, content in before.items():
        if "round-000004" in name:
            assert aside[name] == content and not (folder / name).exists()
    for name in (f"{name}.jsonl" for name in ROUND_FILES if f"{name}.jsonl" in before):
        assert (folder / name).read_bytes() + aside.get(name, b"") == before[name]
    assert aside["checkpoint/manifest.json"] == before["checkpoint/manifest.json"]
    assert store.kept_rounds() == [3]
