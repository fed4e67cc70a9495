"""The round that validation examples choose, and runs that end early."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import differences, lines, newest_checkpoint, resume_local, run_local, tiny
from safetensors.torch import load_file

from fedloge.config import load
from fedloge.errors import CheckpointError, ConfigError
from fedloge.learning.round_choice import RoundChoice, chosen_round
from fedloge.results import trained_model
from fedloge.results.export import export_global
from fedloge.results.figure_rows import notes
from fedloge.results.run import open_run
from fedloge.results.run_figures import summary

G, P = "probe/validation/raw/balanced", "personal/own/validation"
ROWS: list[dict[str, Any]] = [
    {"round": 1, G: 0.2, P: 0.9},
    {"round": 2},
    {"round": 3, G: 0.5, P: 0.8},
    {"round": 4, G: 0.5, P: 0.7},
    {"round": 5, G: 0.4, P: 0.6},
]


def test_the_first_of_the_best_rounds_is_chosen() -> None:
    primary = {"global": "realigned", "personal": "own"}
    assert chosen_round(ROWS, primary, "auto") == RoundChoice(3, G, 0.5, 2)
    assert chosen_round(ROWS, primary, "personal") == RoundChoice(1, P, 0.9, 3)
    assert chosen_round(ROWS, {"global": None, "personal": "own"}, "auto") == RoundChoice(
        1, P, 0.9, 3
    )
    assert chosen_round(ROWS, {"global": None, "personal": "own"}, "global") is None
    assert chosen_round([{"round": 1}], primary, "auto") is None
    own = [{"round": 6, G: 0.9, G.replace("raw", "realigned"): 0.1}]
    assert chosen_round(own, primary, "auto") == RoundChoice(
        6, G.replace("raw", "realigned"), 0.1, 0
    )


# After round 2 the rate is 0, so that nothing gets better.
STILL: dict[str, Any] = {
    "method": "fedavg",
    "norm": "group",
    "rounds": 9,
    "validation_share": 0.3,
    "patience": 2,
    "lr_schedule": "cosine",
    "lr_horizon": 2,
}


def test_a_run_ends_when_patience_does_and_says_so(tmp_path: Path, capsys: Any) -> None:
    folder = run_local(tiny(tmp_path, **STILL))
    run = open_run(folder)
    found = run.choice
    assert found is not None and found.waited == 2
    assert run.rounds_done == found.round + 2 < 9 and run.complete and run.stopped_early
    said = notes(run)
    assert f"Round {found.round} is chosen by validation examples: {found.figure}" in said[0]
    assert f"stopped early after {run.rounds_done} of 9 rounds" in said[1]
    told = summary(run)["chosen"]
    row = lines(folder, "metrics")[found.round - 1]
    assert told["round"] == found.round and told["value"] == row[found.figure]
    assert told["figures"]["global/raw/all"] == row["global/raw/all"]

    # A resume goes no further, unless it is told to.
    resume_local(folder)
    assert open_run(folder).rounds_done == run.rounds_done
    run_local(load(folder / "config.toml").replace(resume=True, patience=0, rounds=6))
    whole = run_local(tiny(tmp_path, name="whole", **{**STILL, "rounds": 6, "patience": 0}))
    assert not differences(folder, whole)


def test_the_chosen_round_s_model_is_kept_and_exported(tmp_path: Path) -> None:
    folder = run_local(tiny(tmp_path, **STILL))
    run = open_run(folder)
    assert run.choice is not None
    only = run_local(tiny(tmp_path, name="only", **{**STILL, "rounds": run.choice.round}))
    wanted = newest_checkpoint(only)
    kept = load_file(folder / "checkpoint/chosen.safetensors")
    assert {f"shared.{name}" for name in kept} <= wanted.keys()
    assert all(torch.equal(t, wanted[f"shared.{name}"]) for name, t in kept.items())
    export_global(run, tmp_path / "out", by_validation=True)
    assert trained_model.load(tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / trained_model.MANIFEST).read_text())
    assert run.choice.round in (manifest.get("round"), manifest.get("origin", {}).get("round"))

    path = folder / "checkpoint/chosen.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match="is damaged"):
        export_global(run, tmp_path / "damaged", by_validation=True)


def test_a_resume_from_before_the_choice_finds_it_again(tmp_path: Path) -> None:
    changes = {"method": "fedavg", "validation_share": 0.3, "rounds": 3}
    whole = run_local(tiny(tmp_path / "whole", **changes))
    again = run_local(tiny(tmp_path / "again", **changes))
    resume_local(again, from_round=2)
    assert not differences(whole, again)
    one, other = (load_file(run / "checkpoint/chosen.safetensors") for run in (whole, again))
    assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_patience_needs_validation_examples(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"patience is not read here.*set validation-share"):
        tiny(tmp_path, patience=3)
