from __future__ import annotations

import json
from pathlib import Path

import harness
import pytest

from fedloge.audit_log import FOLDER, AuditLog


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    log = AuditLog(tmp_path / "site" / FOLDER)
    arrays = {"tensors": {"w": [2, 3]}, "bytes": 24, "digest": "abcd"}
    log.write({"event": "received", "kind": "train", "run": "one-1", "name": "one", "round": 1})
    log.write(
        {"event": "sent", "kind": "train", "name": "one", "round": 1, "records": {"arrays": arrays}}
    )
    log.write(
        {"event": "refused", "kind": "train", "name": "two", "rule": "methods", "reason": "[b]no"}
    )
    return tmp_path / "site"


def test_a_log_is_shown_line_by_line(folder: Path, tmp_path: Path) -> None:
    done = harness.fedloge("audit", folder, folder=tmp_path)
    assert done.code == 0, done.err
    _, sent, refused = done.out.splitlines()
    assert "arrays: 1 tensors, 24 bytes, abcd" in sent and "round 1" in sent
    assert refused.endswith("(methods) [b]no")
    assert "3 lines, each follows the one before" in done.err


def test_lines_are_chosen(folder: Path, tmp_path: Path) -> None:
    one = harness.fedloge("audit", folder, "--run", "one-1", "--json", folder=tmp_path)
    assert [json.loads(line)["event"] for line in one.out.splitlines()] == ["received"]
    refused = harness.fedloge("audit", folder, "--refused", "--json", folder=tmp_path)
    assert [json.loads(line)["name"] for line in refused.out.splitlines()] == ["two"]


def test_a_changed_line_gives_exit_code_1(folder: Path, tmp_path: Path) -> None:
    file = folder / FOLDER / "audit.jsonl"
    file.write_text(file.read_text().replace('"round":1', '"round":2', 1))
    done = harness.fedloge("audit", folder, folder=tmp_path)
    assert done.code == 1 and "audit.jsonl, line 2: does not follow the line before" in done.err


def test_no_log_gives_exit_code_2(tmp_path: Path) -> None:
    done = harness.fedloge("audit", tmp_path / "none", folder=tmp_path)
    assert done.code == 2 and "holds no audit log" in done.err and len(done.err.splitlines()) == 1
