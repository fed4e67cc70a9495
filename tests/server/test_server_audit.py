"""What a server writes down: registrations, refusals and results, and how they agree with a site's log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import harness
import pytest
import wrong_answers
from flwr.app import Context, Message

from fedloge.audit_log import FOLDER, read_audit
from fedloge.engines import own_grid
from fedloge.engines.local import LocalGrid
from fedloge.errors import RunError


class Deployed(LocalGrid):
    """Nodes that may come and go, as those of a SuperLink."""

    nodes_are_fixed = False


def events(folder: Path) -> list[dict[str, Any]]:
    found = list(read_audit(folder))
    assert not any(line.wrong for line in found)
    return [line.event for line in found]


def test_registrations_results_and_refusals_are_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = harness.tiny(tmp_path, rounds=2, evaluate_every=2, min_fraction=0.5)
    bad = wrong_answers.drawn(config, 1)[0]
    wrong_answers.change_answers(monkeypatch, lambda c: c["metrics"].update(images=5), {bad})
    folder = harness.run_local(config, Deployed)
    rows = events(tmp_path)
    assert [row["event"] for row in rows[:5]] == ["started"] + ["registered"] * 4
    assert {row["client"] for row in rows[1:5]} == {0, 1, 2, 3}
    assert rows[-1]["event"] == "completed" and {row["name"] for row in rows} == {"run"}
    trained = [row for row in rows if row.get("kind") == "train"]
    refused = [row for row in trained if row["event"] == "refused"]
    assert (refused[0]["round"], refused[0]["client"]) == (1, bad)
    assert "'images' is 5" in refused[0]["reason"]
    recorded = harness.lines(folder, "metrics")
    for row in recorded:
        results = [r for r in trained if r["round"] == row["round"] and r["event"] == "result"]
        assert len(results) == row["clients"]
        assert all(len(r["digest"]) == 16 and "train/loss" in r["figures"] for r in results)
    measured = [row for row in rows if row.get("kind") == "evaluate"]
    assert len(measured) == 4 and all(row["round"] == 2 for row in measured)


def test_a_site_and_the_server_tell_the_same_of_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = own_grid.client_context

    def context(config: Any, partition: int) -> Context:
        made = honest(config, partition)
        made.node_config["state-dir"] = str(tmp_path / f"site-{partition}")
        return made

    monkeypatch.setattr(own_grid, "client_context", context)
    harness.run_local(harness.tiny(tmp_path / "runs", rounds=1), Deployed)
    results = [row for row in events(tmp_path / "runs") if row["event"] == "result"]
    for row in results:
        site = events(tmp_path / f"site-{row['client']}")
        (sent,) = [r for r in site if (r["event"], r["kind"]) == ("sent", row["kind"])]
        digest = sent["records"].get("arrays", {}).get("digest", "")
        assert digest == row["digest"] and (digest or row["kind"] == "evaluate")


def test_a_run_that_is_refused_before_it_has_a_folder_is_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no(message: Message, context: Context) -> Message:
        raise OSError("gone")

    monkeypatch.setattr(own_grid, "client_app", no)
    config = harness.tiny(tmp_path, startup_timeout=0.2)
    with pytest.raises(RunError):
        harness.run_local(config, Deployed)
    rows = events(tmp_path)
    assert [row["event"] for row in rows[:2]] == ["started", "failed"]
    assert "did not register" in rows[-1]["reason"]


def test_a_simulation_writes_nothing_down(tmp_path: Path) -> None:
    harness.run_local(harness.tiny(tmp_path, rounds=1))
    assert not (tmp_path / FOLDER).exists()
