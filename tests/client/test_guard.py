"""What a site writes down of every message, before anything else and after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import harness
import pytest
from flwr.app import ConfigRecord, RecordDict
from one_message import ask, reason, work

from fedloge import messages as wire
from fedloge.audit_log import FOLDER, AuditLog, read_audit
from fedloge.client import client_app
from fedloge.federation import open_federation


def lines(tmp_path: Path) -> list[dict[str, Any]]:
    found = list(read_audit(tmp_path / "state"))
    assert not any(line.wrong for line in found)
    return [line.event for line in found]


def site(tmp_path: Path) -> dict[str, Any]:
    return {"state-dir": str(tmp_path / "state"), "data-path": "/data"}


def test_a_line_for_each_message_received_and_each_answer_sent(tmp_path: Path) -> None:
    config = harness.tiny(tmp_path)
    ask(config, "query.whoami", RecordDict(), **site(tmp_path))
    content = work(config, round=3)
    reply = ask(config, "train", content, **site(tmp_path))
    who, said, received, sent = lines(tmp_path)
    assert [row["event"] for row in (who, said, received, sent)] == ["received", "sent"] * 2
    assert said["records"]["metrics"]["num-examples"] == len(
        open_federation(config).partition.train[1]
    )
    for row in (received, sent):
        assert (row["kind"], row["run"], row["name"]) == ("train", "run-1", "run")
        assert (row["attempt"], row["round"], row["flower-run"]) == (1, 3, "1")
        assert (row["method"], row["model"]) == ("fedloge", "cnn")
    for row, record in ((received, content[wire.ARRAYS]), (sent, reply[wire.ARRAYS])):
        told = row["records"]["arrays"]
        assert told["tensors"] == {name: list(a.shape) for name, a in record.items()}
        assert told["bytes"] == wire.num_bytes(record)
        assert told["digest"] == wire.record_digest(record)
    assert sent["read"] == {"dataset": "digits", "folder": "/data"}
    assert sent["records"]["metrics"]["train/loss"] == reply[wire.METRICS]["train/loss"]
    assert sent["seconds"] > 0


def test_a_refusal_is_written_down_with_its_rule(tmp_path: Path) -> None:
    config = harness.tiny(tmp_path, method="ccvr")
    said = reason(ask(config, "query.whoami", RecordDict(), **site(tmp_path)))
    _, refused = lines(tmp_path)
    assert (refused["event"], refused["rule"], refused["reason"]) == ("refused", "class-counts", said)  # fmt: skip
    assert set(refused["records"]) == {"failure"}


def test_what_the_client_itself_refuses_is_written_down(tmp_path: Path) -> None:
    config = harness.tiny(tmp_path)
    ask(config, "train", work(config, fingerprint="0" * 16), **site(tmp_path))
    _, refused = lines(tmp_path)
    assert refused["event"] == "refused" and "this client computes" in refused["reason"]


def test_a_strangers_words_forge_no_line(tmp_path: Path) -> None:
    config = harness.tiny(tmp_path)
    content = work(config, run_id='x"}\n{"event": "sent"\x1b[2J' + "y" * 9000)
    content["more\n"] = ConfigRecord({"a\nb": "c\nd" * 999})
    ask(config, "train", content, **site(tmp_path))
    received, refused = lines(tmp_path)
    assert refused["event"] == "refused" and received["run"].isprintable()
    assert len(str(received)) < 4000


def test_an_unknown_kind_of_message_is_refused(tmp_path: Path) -> None:
    config = harness.tiny(tmp_path)
    assert "a message of kind 'train.more'" in reason(
        ask(config, "train.more", RecordDict(), **site(tmp_path))
    )


def test_a_failure_is_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = harness.tiny(tmp_path)
    monkeypatch.setattr(client_app.Client, "train", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ask(config, "train", work(config), **site(tmp_path))
    _, failed = lines(tmp_path)
    assert failed["event"] == "failed" and "ZeroDivisionError" in failed["reason"]


def test_what_cannot_be_written_down_does_not_happen(tmp_path: Path) -> None:
    config = harness.tiny(tmp_path)
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / FOLDER).write_text("in the way")
    assert "the audit log in" in reason(ask(config, "train", work(config), **site(tmp_path)))
    assert not (tmp_path / "state/run-1").exists()


def test_an_answer_that_cannot_be_written_down_is_not_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, honest = harness.tiny(tmp_path), AuditLog.write

    def write(self: AuditLog, *events: Any) -> None:
        if events[0]["event"] == "sent":
            self = AuditLog(Path("/proc/none"))
        honest(self, *events)

    monkeypatch.setattr(AuditLog, "write", write)
    answer = ask(config, "train", work(config), **site(tmp_path))
    assert "the audit log in" in reason(answer) and wire.ARRAYS not in answer


def test_the_log_lies_where_the_node_says(tmp_path: Path) -> None:
    config = harness.tiny(tmp_path)
    ask(config, "query.whoami", RecordDict(), **site(tmp_path), **{"audit-dir": str(tmp_path / FOLDER)})  # fmt: skip
    assert len(list(read_audit(tmp_path))) == 2


def test_a_simulation_writes_nothing_down(tmp_path: Path) -> None:
    config = harness.tiny(tmp_path)
    ask(config, "train", work(config))
    assert not list(tmp_path.rglob(FOLDER))
