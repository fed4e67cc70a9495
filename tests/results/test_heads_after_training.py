from __future__ import annotations

import json
from pathlib import Path

import pytest
from harness import Finished, fedloge, lines, run_local, tiny

from fedloge.results.heads_after_training import closed_form_figures
from fedloge.results.run import open_run


def test_post_hoc_heads_are_those_of_the_probe_and_of_the_method(tmp_path: Path) -> None:
    run = run_local(tiny(tmp_path, method="fedavg", rounds=2, probes="closed-form-balanced"))
    found, last = closed_form_figures(open_run(run)), lines(run, "metrics")[-1]
    for name in ("raw", "fed3r", "fed3r-normalised", "fedcof", "fed3r-balanced"):
        assert found[name]["all"] == pytest.approx(last[f"global/{name}/all"], abs=0.005)
    frozen = run_local(tiny(tmp_path, name="frozen", method="fed3r", rounds=2, clients_per_round=4))
    found, last = closed_form_figures(open_run(frozen)), lines(frozen, "metrics")[-1]
    for group in ("all", "many", "few"):
        wanted = last[f"global/balanced/{group}"]
        assert found["fed3r-balanced"][group] == pytest.approx(wanted, abs=0.005)


def test_the_command_shows_them(tmp_path: Path) -> None:
    run = run_local(tiny(tmp_path, method="fedavg", rounds=1))
    shown: Finished = fedloge("closed-form", run, folder=tmp_path)
    assert shown.code == 0 and "fed3r-balanced" in shown.out
    told = json.loads(fedloge("closed-form", run, "--json", folder=tmp_path).out)
    assert 0 <= told["fedcof"]["all"] <= 1
    without = run_local(tiny(tmp_path, name="alone", method="local-only", rounds=1))
    refused = fedloge("closed-form", without, folder=tmp_path)
    assert refused.code == 2 and "no global network" in refused.err
