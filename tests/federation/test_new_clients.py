from __future__ import annotations

from pathlib import Path

import harness
import pytest
import torch

from fedloge.federation import open_federation
from fedloge.federation.feature_bank import FeatureBank
from fedloge.federation.new_clients import NewClient
from fedloge.learning.metrics import accuracy
from fedloge.methods.method import Part
from fedloge.results.grouping import group_runs
from fedloge.results.paper_table import paper_table
from fedloge.results.run import open_run
from fedloge.results.table_formats import text
from fedloge.server.checkpoint import CheckpointStore

HELD_OUT = {"num_clients": 6, "held_out_clients": 2, "clients_per_round": 2, "rounds": 2}


@pytest.mark.parametrize(
    ("method", "stages"),
    [
        ("fedloge", ["shared", "untrained", "personalized"]),
        ("fedavg", ["shared", "personalized"]),
        ("fedper", ["untrained", "personalized"]),
        ("centralised", ["shared"]),
    ],
)
def test_held_out_clients_are_measured_as_new_ones(
    tmp_path: Path, method: str, stages: list[str]
) -> None:
    run = open_run(harness.run_local(harness.tiny(tmp_path, method=method, **HELD_OUT)))
    held_out, last = run.info["held-out-clients"], run.metric_lines[-1]
    rows = {row["client"]: row for row in harness.lines(run.path, "clients") if row["round"] == 2}
    measured = {k for k, row in rows.items() if any(name.startswith("new/") for name in row)}
    assert len(held_out) == 2 and measured == set(held_out)
    found = {key.split("/")[1] for key in last if key.startswith("new-clients/")}
    assert found == set(stages)

    fed = open_federation(run.config)
    checkpoint = CheckpointStore(
        run.files.checkpoints, run.info["run-id"], run.info["fingerprint"]
    ).load()
    initial = fed.initial[Part.PERSONAL]
    for client in held_out:
        data = fed.client_data(client, 3, checkpoint.shared)
        own = torch.from_numpy(fed.partition.test[client])
        new = NewClient(fed.method, fed.net, checkpoint.shared, initial, True, data)
        bank = FeatureBank(fed.test.take(own), fed.data.preparation.prepare)
        for stage, guesses in new.measured(bank).items():
            value = rows[client][f"new/{stage}/accuracy"]
            assert value == pytest.approx(accuracy(guesses.tally), abs=1e-9)
    for stage in stages:
        each = [rows[client][f"new/{stage}/accuracy"] for client in held_out]
        assert last[f"new-clients/{stage}/mean"] == pytest.approx(sum(each) / 2)
    # Nothing of them is kept: they have never trained.
    assert not any((run.files.heads / f"client-{client:05d}").exists() for client in held_out)


def test_measuring_them_changes_nothing_of_the_run(tmp_path: Path) -> None:
    often = harness.run_local(harness.tiny(tmp_path, "often", **HELD_OUT))
    rarely = harness.run_local(harness.tiny(tmp_path, "rarely", evaluate_every=2, **HELD_OUT))
    assert harness.differences(often, rarely, records=()) == []


def test_tables_show_new_clients(tmp_path: Path) -> None:
    run = open_run(harness.run_local(harness.tiny(tmp_path, **HELD_OUT)))
    (section,) = group_runs([run], [])
    said = " ".join(text([paper_table(section, "last")]).split())
    assert "New clients, held out from training" in said and "own, before training" in said
    value = f"{100 * run.metric_lines[-1]['new-clients/personalized/mean']:.1f}"
    assert value in said and "after one local step" in said
