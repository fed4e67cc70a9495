"""Files of a run that are missing, damaged, links, or not what they should be: one line, and nothing in silence."""

from __future__ import annotations

import itertools
import json
import logging
import shutil
import stat
import threading
from pathlib import Path
from typing import Any

import harness
import pytest

from fedloge import config as configs
from fedloge.errors import CheckpointError, FedlogeError, RunDirError, RunError
from fedloge.federation import open_federation
from fedloge.server import run_record
from fedloge.server.run_record import RunRecord, create


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return harness.run_local(harness.tiny(tmp_path_factory.mktemp("runs"), rounds=4))


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def again(folder: Path, **changes: Any) -> Path:
    config = configs.load(folder / "config.toml").replace(runs_dir=str(folder.parent), **changes)
    return harness.run_local(config.replace(resume=True))


def test_lines_that_are_lost_are_named(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = folder / "metrics.jsonl"
    kept = [line for line in file.read_text().splitlines() if '"round": 2,' not in line]
    file.write_text("\n".join(kept) + "\n")
    with caplog.at_level(logging.WARNING, logger="fedloge"):
        again(folder, rounds=5)
    said = [r.getMessage() for r in caplog.records if "no line of rounds" in r.getMessage()]
    assert len(said) == 1 and "no line of rounds 2; they are lost" in said[0]


def test_a_damaged_newest_head_does_not_stop_an_older_round(
    folder: Path, whole: Path, caplog: pytest.LogCaptureFixture
) -> None:
    heads = sorted((folder / "heads").glob("*/round-000004.safetensors"))
    assert heads
    for head in heads:
        head.write_bytes(head.read_bytes()[:20])
    with caplog.at_level(logging.WARNING, logger="fedloge"):
        again(folder, from_round=3)
    assert harness.differences(whole, folder) == []
    aside = list(folder.glob("set-aside/attempt-00002/heads/*/round-000004.safetensors"))
    assert len(aside) == len(heads) and all(len(path.read_bytes()) == 20 for path in aside)
    said = [r.getMessage() for r in caplog.records if "set aside" in r.getMessage()]
    assert len(said) == 1 and f"{len(heads)} personal states" in said[0]


def test_a_damaged_head_that_the_run_goes_on_from_is_refused(folder: Path) -> None:
    for head in (folder / "heads").glob("*/round-*.safetensors"):
        head.write_bytes(head.read_bytes()[:20])
    with pytest.raises(RunError, match="is damaged"):
        again(folder, rounds=5)


def _manifests() -> dict[str, bytes]:
    entry = {"round": 1, "attempt": 1, "file": "round-000001.safetensors", "bytes": 1, "sha256": ""}
    whole = {"format": 1, "run-id": "r", "fingerprint": "f", "round": 1, "checkpoints": [entry]}

    def with_entry(**changes: Any) -> bytes:
        return json.dumps(whole | {"checkpoints": [entry | changes]}).encode()

    return {
        "a list": b"[1, 2]",
        "a number": b"7",
        "1e400": with_entry(round=1).replace(
            b'"round": 1, "attempt"', b'"round": 1e400, "attempt"'
        ),
        "text for a round": with_entry(round="1"),
        "true for a round": with_entry(round=True),
        "a negative round": with_entry(round=-1),
        "a file elsewhere": with_entry(file="../../etc/passwd"),
        "bytes that are text": with_entry(bytes="x"),
        "entries of text": json.dumps(whole | {"checkpoints": ["x"]}).encode(),
        "entries that are none": json.dumps(whole | {"checkpoints": 5}).encode(),
        "a number for a name": json.dumps(whole | {"run-id": 5}).encode(),
        "deep nesting": b"[" * 100_000 + b"]" * 100_000,
    }


@pytest.mark.parametrize("name", _manifests())
def test_a_manifest_that_is_none_is_said_in_one_line(name: str, folder: Path) -> None:
    (folder / "checkpoint/manifest.json").write_bytes(_manifests()[name])
    with pytest.raises(
        CheckpointError, match=r"manifest.json is damaged; restore it from a backup"
    ):
        again(folder, rounds=5)


@pytest.mark.parametrize("content", [b"1e400", b'{"base-round": 1e400}', b"[" * 100_000, b"[]"])
@pytest.mark.parametrize("name", ["attempts.jsonl", "run.json"])
def test_other_files_that_are_none_are_said_in_one_line(
    name: str, content: bytes, folder: Path
) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(RunDirError, match=r"damaged") as stopped:
        again(folder, rounds=5)
    assert "\n" not in str(stopped.value)


def test_heads_and_their_folders_are_the_owners_alone(whole: Path) -> None:
    heads = list((whole / "heads").rglob("*"))
    assert any(path.is_file() for path in heads)
    for path in [whole / "heads", *heads]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)


def test_links_are_not_followed(folder: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (folder / "run.lock").unlink()
    (folder / "run.lock").symlink_to(victim)
    with pytest.raises(FedlogeError, match=r"run\.lock cannot be written"):
        again(folder, rounds=5)
    (folder / "run.lock").unlink()
    (folder / "checkpoint/round-000005.safetensors.tmp").symlink_to(victim)
    (folder / "config.toml.tmp").symlink_to(victim)
    for client in (folder / "heads").iterdir():
        (client / "round-000005.tmp").symlink_to(victim)
    again(folder, rounds=5)
    assert victim.read_text() == "mine" and not (folder / "config.toml").is_symlink()


def test_unnamed_runs_of_the_same_moment_take_names_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = harness.tiny(tmp_path).replace(name="")
    federation, made = open_federation(config), list[RunRecord]()
    record = RunRecord(tmp_path / "x", "x-1", "")
    opening = run_record._opening_files(config.replace(name="x"), federation, record)
    meet, calls = threading.Barrier(4), itertools.count()

    def files(*_: Any) -> dict[Path, bytes]:
        if next(calls) < 4:
            meet.wait(30)
        return opening

    monkeypatch.setattr(run_record, "_opening_files", files)

    def start() -> None:
        made.append(create(config, federation))

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(record.name for record in made) == [f"fedloge-digits-{n}" for n in (1, 2, 3, 4)]
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_name_that_is_taken_is_no_full_disk(folder: Path) -> None:
    config = harness.tiny(folder.parent)
    with pytest.raises(RunDirError, match="exists already"):
        create(config, open_federation(config))
