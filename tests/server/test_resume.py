"""Killed, damaged or out of disk: a resumed run is the one that was never interrupted."""

from __future__ import annotations

import json
import random
import resource
import shutil
import time
from pathlib import Path

import harness
import pytest

from fedloge import config as configs
from fedloge.engines import own_grid as grid
from fedloge.errors import CheckpointError, RunDirError, RunError

LONG = {"rounds": 12, "local_epochs": 3}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve rounds, never interrupted."""
    return harness.run_local(harness.tiny(tmp_path_factory.mktemp("runs"), "reference", **LONG))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three rounds, done."""
    return harness.run_local(harness.tiny(tmp_path_factory.mktemp("runs")))


@pytest.fixture
def done(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to be spoilt."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    text = (folder / "config.toml").read_text().replace(str(finished.parent), str(tmp_path))
    (folder / "config.toml").write_text(text)
    return folder


def start(folder: Path, **changes: object) -> harness.Command:
    args = ("run", "--runs-dir", str(folder.parent), "--name", folder.name)
    return harness.Command((*args, *harness.settings(**changes)), folder.parent / "cli", {})


# Killed


@pytest.mark.parametrize("checkpoint_every", [1, 3])
def test_killed_again_and_again(checkpoint_every: int, reference: Path, tmp_path: Path) -> None:
    """SIGKILL at random moments, one attempt after the other, until it is through."""
    folder = tmp_path / "run"
    moments = random.Random(f"moments {checkpoint_every}")
    command = start(folder, **LONG, checkpoint_every=checkpoint_every)
    killed = 0
    for _ in range(4):
        before = len(harness.lines(folder, "timing"))
        lines, delay = before + moments.randrange(1, 3), moments.uniform(0, 0.2)

        def has_come_so_far(lines: int = lines) -> bool:
            path = folder / "timing.jsonl"
            return path.exists() and len(path.read_bytes().splitlines()) >= lines

        def and_a_moment_more(delay: float = delay) -> bool:
            time.sleep(delay)
            return True

        killed += command.kill_after(lambda: has_come_so_far() and and_a_moment_more())
        command = harness.Command(("resume", str(folder)), tmp_path / "cli", {})
    assert killed >= 3
    last = command.finish()
    assert (last.code, "Traceback" in last.err) == (0, False)
    assert harness.differences(reference, folder) == []
    assert len(harness.attempts(folder)) >= killed


def test_killed_before_the_first_round(reference: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = start(folder, **LONG)
    assert command.kill_after(lambda: (folder / "run.json").exists())
    resumed = harness.fedloge("resume", folder, folder=tmp_path / "cli")
    assert resumed.code == 0
    assert harness.differences(reference, folder) == []


def test_torn_lines_are_dropped_and_written_again(done: Path, finished: Path) -> None:
    manifest = done / "checkpoint/manifest.json"
    kept = json.loads(manifest.read_text())
    # As a kill leaves it between the record of round 3 and its checkpoint.
    kept["checkpoints"].pop()
    manifest.write_text(json.dumps(kept | {"round": 2}))
    for name in harness.RECORDS:
        with (done / name).open("ab") as f:
            f.write(b'{"round": 3, "torn": \xff')
    harness.resume_local(done)
    assert harness.differences(finished, done) == []


def test_a_checkpoint_without_its_manifest_entry_is_as_if_never_written(
    done: Path, finished: Path
) -> None:
    """Killed between the tensors and the manifest, and within a write."""
    manifest = done / "checkpoint/manifest.json"
    kept = json.loads(manifest.read_text())
    kept["checkpoints"].pop()
    manifest.write_text(json.dumps(kept | {"round": 2}))
    (done / "checkpoint/round-000003.safetensors").write_bytes(b"half of it")
    (done / "checkpoint/manifest.json.tmp").write_bytes(b'{"format"')
    (done / "checkpoint/round-000009.safetensors.tmp").write_bytes(b"")
    (done / "heads/client-00000/round-000003.tmp").write_bytes(b"torn")
    harness.resume_local(done)
    assert harness.differences(finished, done) == []
    left = {path.name for path in (done / "checkpoint").glob("round-*")}
    assert left == {"round-000002.safetensors", "round-000003.safetensors"}


# Longer, from an older round, or done already


def test_more_rounds_later_are_the_same_rounds(done: Path, tmp_path: Path) -> None:
    resumed = harness.fedloge("resume", done, "--rounds", "5", folder=tmp_path / "cli")
    assert resumed.code == 0 and "rounds 4 to 5" in resumed.err
    whole = harness.run_local(harness.tiny(tmp_path, "whole", rounds=5))
    assert harness.differences(whole, done) == []
    assert configs.load(done / "config.toml").rounds == 5


def test_from_an_older_round(done: Path, finished: Path, tmp_path: Path) -> None:
    resumed = harness.fedloge("resume", done, "--from-round", "2", folder=tmp_path / "cli")
    assert resumed.code == 0 and "rounds 3 to 3" in resumed.err
    assert harness.differences(finished, done) == []
    assert harness.attempts(done) == (0, 2)


def test_killed_after_going_back_no_round_is_missing(
    done: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newer checkpoint is forgotten with the lines of its round, not before, not later."""

    class Killed(BaseException):
        pass

    def dies(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(grid, "client_app", dies)
        with pytest.raises(Killed):
            harness.resume_local(done, from_round=2)
    assert [line["round"] for line in harness.lines(done, "metrics")] == [1, 2]
    harness.resume_local(done)
    assert harness.differences(finished, done) == []


def test_a_complete_run_is_left_as_it_is(done: Path, tmp_path: Path) -> None:
    before = {p: p.read_bytes() for p in done.rglob("*") if p.is_file() and p.suffix != ".html"}
    resumed = harness.fedloge("resume", done, folder=tmp_path / "cli")
    assert resumed.code == 0
    assert "is complete, all 3 rounds are done" in resumed.err and "--rounds" in resumed.err
    changed = [p for p, content in before.items() if p.read_bytes() != content]
    assert changed == []


def test_fewer_rounds_than_done_are_refused(done: Path, tmp_path: Path) -> None:
    refused = harness.fedloge("resume", done, "--rounds", "2", folder=tmp_path / "cli")
    assert refused.code == 2
    assert "has done 3 rounds already" in refused.err and refused.err.count("\n") == 1
    assert configs.load(done / "config.toml").rounds == 3


def test_a_round_that_is_not_kept_is_refused_with_those_that_are(done: Path) -> None:
    with pytest.raises(CheckpointError, match="keeps rounds 2, 3, not 1"):
        harness.resume_local(done, from_round=1)


def test_a_run_that_still_runs_cannot_be_resumed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    running = start(folder, rounds=500)
    try:
        while not harness.lines(folder, "timing"):
            assert running.process.is_alive()
            time.sleep(0.05)
        refused = harness.fedloge("resume", folder, folder=tmp_path / "cli")
    finally:
        assert running.kill()
    assert refused.code == 2 and refused.err.count("\n") == 1
    assert "is being run by another process" in refused.err
    assert harness.attempts(folder) == (0,)


# Damaged


def test_a_truncated_checkpoint_names_the_round_to_go_back_to(
    done: Path, finished: Path, tmp_path: Path
) -> None:
    path = done / "checkpoint/round-000003.safetensors"
    whole = path.stat().st_size
    path.write_bytes(path.read_bytes()[:1000])
    refused = harness.fedloge("resume", done, folder=tmp_path / "cli")
    assert refused.code == 1 and refused.err.count("\n") == 1
    for words in (str(path), "1000 bytes", f"expected {whole}", "--from-round 2"):
        assert words in refused.err
    resumed = harness.fedloge("resume", done, "--from-round", "2", folder=tmp_path / "cli")
    assert resumed.code == 0
    assert harness.differences(finished, done) == []


def test_both_checkpoints_damaged_leaves_a_backup(done: Path) -> None:
    for path in (done / "checkpoint").glob("round-*"):
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"0 bytes.*restore a backup"):
        harness.resume_local(done)


def test_a_lost_manifest_does_not_start_the_run_again(done: Path) -> None:
    (done / "checkpoint/manifest.json").unlink()
    before = (done / "metrics.jsonl").read_bytes()
    with pytest.raises(CheckpointError, match=r"manifest\.json is missing"):
        harness.resume_local(done)
    assert (done / "metrics.jsonl").read_bytes() == before


def test_a_lost_record_of_attempts_is_refused(done: Path) -> None:
    (done / "attempts.jsonl").unlink()
    with pytest.raises(RunDirError, match=r"attempts\.jsonl is missing or damaged"):
        harness.resume_local(done, rounds=4)


def test_another_runs_checkpoint_is_refused(done: Path, tmp_path: Path) -> None:
    other = harness.run_local(harness.tiny(tmp_path, "other", rounds=1))
    shutil.rmtree(done / "checkpoint")
    shutil.copytree(other / "checkpoint", done / "checkpoint")
    with pytest.raises(CheckpointError, match="belongs to run other-"):
        harness.resume_local(done)


def test_a_damaged_head_is_that_clients_failure(done: Path) -> None:
    """Every client's newest head is truncated: no quorum, and each file is named."""
    for client in (done / "heads").iterdir():
        path = max(client.glob("round-*"))
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RunError, match=r"round 4: 0 of 3 .*is damaged \(\d+ bytes\)"):
        harness.resume_local(done, rounds=4)


def test_an_edited_config_is_refused(done: Path, tmp_path: Path) -> None:
    text = (done / "config.toml").read_text()
    (done / "config.toml").write_text(text.replace("lr = 0.03", "lr = 0.05"))
    refused = harness.fedloge("resume", done, "--rounds", "4", folder=tmp_path / "cli")
    assert refused.code == 2 and refused.err.count("\n") == 1
    assert "config.toml has been edited" in refused.err


def test_a_run_directory_of_another_config_is_refused(done: Path) -> None:
    with pytest.raises(RunDirError, match=r"another config: lr was 0\.03, now 0\.05"):
        harness.resume_local(done, lr=0.05)


# No disk


def test_a_full_disk_stops_the_run_and_spoils_nothing(reference: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    checkpoint = (reference / "checkpoint/round-000012.safetensors").stat().st_size // 1024
    unmount = harness.mount_small_disk(disk, 10 * checkpoint)
    if unmount is None:
        pytest.skip("mounting a small file system is not permitted here")
    try:
        ballast = disk / "ballast"
        # Two checkpoints and the rest of the record fit; a third beside them does not.
        ballast.write_bytes(bytes(int(7.2 * checkpoint) * 1024))
        args = ("--runs-dir", disk, "--name", "run", *harness.settings(**LONG))
        stopped = harness.fedloge("run", *args, folder=tmp_path / "cli")
        assert stopped.code == 1
        last = stopped.err.splitlines()[-1]
        assert "No space left on device" in last and "resume" in last
        assert "Traceback" not in stopped.err
        ballast.unlink()
        folder = disk / "run"
        manifest = json.loads((folder / "checkpoint/manifest.json").read_text())
        assert manifest["round"] < 12  # it did run out
        for entry in manifest["checkpoints"]:
            assert (folder / "checkpoint" / entry["file"]).stat().st_size == entry["bytes"]
        resumed = harness.fedloge("resume", folder, folder=tmp_path / "cli")
        assert resumed.code == 0, resumed.err
        assert harness.differences(reference, folder) == []
    finally:
        unmount()


def test_a_disk_that_takes_no_large_file_stops_the_run(done: Path, finished: Path) -> None:
    """The limit refuses every checkpoint, for the space of one attempt."""
    before = {p.name: p.read_bytes() for p in (done / "checkpoint").iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (done / "checkpoint/round-000003.safetensors").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, limits[1]))
    try:
        with pytest.raises(
            RunError, match=r"round-000004\.safetensors cannot be written \(File too"
        ):
            harness.resume_local(done, rounds=5)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {p.name: p.read_bytes() for p in (done / "checkpoint").iterdir()} == before
    harness.resume_local(done)
    whole = harness.run_local(harness.tiny(done.parent, "whole", rounds=5))
    assert harness.differences(whole, done) == []
