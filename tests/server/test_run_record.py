from __future__ import annotations

import json
from pathlib import Path

import harness
import pytest
from safetensors.torch import load_file

from fedloge import config as configs
from fedloge.errors import RunDirError
from fedloge.federation import open_federation
from fedloge.methods.method import Part
from fedloge.server import run_record as record
from fedloge.server.reopening import reopen
from fedloge.server.run_record import RunRecord


@pytest.fixture
def made(tmp_path: Path) -> RunRecord:
    config = harness.tiny(tmp_path)
    return record.create(config, open_federation(config))


def test_a_new_run_says_what_it_is(made: RunRecord, tmp_path: Path) -> None:
    config = harness.tiny(tmp_path)
    federation = open_federation(config)
    info = json.loads((made.folder / "run.json").read_text())
    assert info["fingerprint"] == federation.fingerprint
    assert info["run-id"] == made.run_id and made.run_id.startswith("run-")
    assert sum(info["train-counts"]) == info["num-train"] == len(federation.train)
    assert info["parameters"] == sum(t.numel() for t in federation.tensors(Part.SHARED).values())
    assert configs.load(made.folder / "config.toml") == config
    split = load_file(made.folder / "split.safetensors")
    assert split["train_counts"].sum(0).tolist() == info["train-counts"]
    assert load_file(made.folder / "prototypes.safetensors")["prototypes"].shape == (10, 128)


def test_two_runs_never_share_an_id(tmp_path: Path) -> None:
    config = harness.tiny(tmp_path, name="")
    federation = open_federation(config)
    one, two = record.create(config, federation), record.create(config, federation)
    assert (one.name, two.name) == ("fedloge-digits-1", "fedloge-digits-2")
    assert one.run_id != two.run_id


def test_an_existing_folder_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/mine.txt").write_text("mine")
    config = harness.tiny(tmp_path)
    with pytest.raises(RunDirError, match="exists already; continue it with 'fedloge resume"):
        record.create(config, open_federation(config))
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["mine.txt"]


def test_figures_that_are_not_finite_never_reach_the_record(made: RunRecord) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        made.append({"metrics": [{"round": 1, "train/loss": float("nan")}]})
    assert not (made.folder / "metrics.jsonl").exists()


def test_attempts_are_counted(made: RunRecord) -> None:
    assert made.bases() == ()
    assert made.begin_attempt(0, at_least=0) == (0,)
    assert made.begin_attempt(4, at_least=1) == (0, 4)
    assert made.bases() == (0, 4)
    rows = harness.lines(made.folder, "attempts")
    assert [row["attempt"] for row in rows] == [1, 2]
    with pytest.raises(RunDirError, match="expected 3 attempts or more, got 2"):
        made.bases(at_least=3)


def test_reopening_needs_the_same_config(made: RunRecord, tmp_path: Path) -> None:
    config = harness.tiny(tmp_path)
    again = reopen(config.replace(resume=True, rounds=9), open_federation(config))
    assert again == made
    other = config.replace(lr=0.1)
    with pytest.raises(RunDirError, match=r"another config: lr was 0\.03, now 0\.1"):
        reopen(other, open_federation(other))
    with pytest.raises(RunDirError, match="no run directory"):
        reopen(config.replace(name="none"), open_federation(config))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"run-id": "x"}', "null"])
def test_a_damaged_run_json_is_said(made: RunRecord, tmp_path: Path, content: str) -> None:
    (made.folder / "run.json").write_text(content)
    config = harness.tiny(tmp_path)
    with pytest.raises(RunDirError, match=r"run\.json is damaged"):
        reopen(config, open_federation(config))
