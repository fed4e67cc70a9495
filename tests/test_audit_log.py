from __future__ import annotations

import json
import multiprocessing
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from fedloge.audit_log import FOLDER, AuditLine, AuditLog, read_audit
from fedloge.errors import InputError, RunError


def log(tmp_path: Path, **sizes: int) -> AuditLog:
    return AuditLog(tmp_path / FOLDER, **sizes)


def read(tmp_path: Path) -> list[AuditLine]:
    return list(read_audit(tmp_path))


def numbers(tmp_path: Path) -> list[Any]:
    return [line.event.get("n") for line in read(tmp_path)]


def test_lines_are_appended_for_the_owner_alone(tmp_path: Path) -> None:
    log(tmp_path).write({"n": 1})
    log(tmp_path).write({"n": 2}, {"n": 3})
    assert numbers(tmp_path) == [1, 2, 3]
    assert not any(line.wrong for line in read(tmp_path))
    assert all(line.event["time"].endswith("+00:00") for line in read(tmp_path))
    file = tmp_path / FOLDER / "audit.jsonl"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("what", ["changed", "removed", "put in", "moved"])
def test_a_line_that_was_tampered_with_is_noticed(what: str, tmp_path: Path) -> None:
    for n in range(5):
        log(tmp_path).write({"n": n})
    file = tmp_path / FOLDER / "audit.jsonl"
    lines = file.read_text().splitlines()
    if what == "changed":
        lines[2] = lines[2].replace('"n":2', '"n":7')
    elif what == "removed":
        del lines[2]
    elif what == "put in":
        lines.insert(2, json.dumps({"n": 9, "previous": "0" * 16}))
    else:
        lines[1], lines[2] = lines[2], lines[1]
    file.write_text("\n".join(lines) + "\n")
    wrong = [line for line in read(tmp_path) if line.wrong]
    assert wrong and "does not follow the line before" in wrong[0].wrong


def test_a_full_file_is_set_aside_and_the_chain_goes_on(tmp_path: Path) -> None:
    for n in range(40):
        log(tmp_path, most_bytes=500, kept=3).write({"n": n})
    names = sorted(p.name for p in (tmp_path / FOLDER).iterdir())
    assert len([name for name in names if name.startswith("audit-")]) == 3
    kept = numbers(tmp_path)
    assert kept == list(range(kept[0], 40)) and len(kept) > 10
    assert not any(line.wrong for line in read(tmp_path))
    # A whole file that is taken away is noticed as well.
    aside = sorted((tmp_path / FOLDER).glob("audit-*.jsonl"))
    aside[1].unlink()
    assert any(line.wrong for line in read(tmp_path))


def test_half_a_line_of_a_power_loss_stays_and_is_named(tmp_path: Path) -> None:
    log(tmp_path).write({"n": 1}, {"n": 2})
    file = tmp_path / FOLDER / "audit.jsonl"
    file.write_bytes(file.read_bytes()[:-20])
    log(tmp_path).write({"n": 3})
    lines = read(tmp_path)
    assert [line.event.get("n") for line in lines] == [1, None, 3]
    assert [bool(line.wrong) for line in lines] == [False, True, False]
    assert "cut off" in lines[1].wrong


def _write_many(folder: str, n: int) -> None:
    for i in range(50):
        AuditLog(Path(folder)).write({"n": n, "i": i, "long": "x" * 300})


def test_several_processes_append_to_one_chain(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [
        context.Process(target=_write_many, args=(str(tmp_path / FOLDER), n)) for n in range(3)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    lines = read(tmp_path)
    assert len(lines) == 150 and not any(line.wrong for line in lines)
    for n in range(3):
        assert [line.event["i"] for line in lines if line.event["n"] == n] == list(range(50))


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / FOLDER / "audit.jsonl").symlink_to(victim)
    with pytest.raises(RunError, match=r"the audit log in .* cannot be written"):
        log(tmp_path).write({"n": 1})
    assert victim.read_text() == "mine"


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_a_log_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / FOLDER).write_text("a file, not a folder")
    with pytest.raises(RunError, match="cannot be written"):
        log(tmp_path).write({"n": 1})


def test_no_log_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no audit log; give a site's state folder"):
        read(tmp_path)
