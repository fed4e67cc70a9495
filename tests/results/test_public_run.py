"""A `Run` as a user holds it, on a real tiny run; and that the invented runs look like one."""

from __future__ import annotations

import importlib.machinery
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import harness
import pytest
import torch

from fedloge.errors import InputError
from fedloge.results import trained_model
from fedloge.results.export import export_client, export_global
from fedloge.results.run import Run, open_run
from fedloge.run_files import ROUND_FILES, RunFiles


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return harness.run_local(harness.tiny(tmp_path_factory.mktemp("runs"), "real", rounds=2))


def keys(folder: Path, name: str) -> set[str]:
    return {key for line in harness.lines(folder, name) for key in line}


def test_invented_runs_have_the_files_and_keys_of_a_real_one(
    real: Path, make_run: Callable[..., Path]
) -> None:
    made = make_run(rounds=2, clients=4, classes=10, evaluate_every=1)
    of_both = open_run(made), open_run(real)
    assert {path.name for path in made.iterdir()} <= {path.name for path in real.iterdir()}
    invented, recorded = (run.info for run in of_both)
    assert invented.keys() == recorded.keys()
    for key in ("parts", "primary"):
        assert invented[key] == recorded[key]
    assert invented["prototype-info"].keys() <= recorded["prototype-info"].keys()
    assert {k: type(v) for k, v in invented.items()} == {k: type(v) for k, v in recorded.items()}
    for name in set(ROUND_FILES) - {"failures"}:
        assert keys(made, name) <= keys(real, name), name
        assert keys(made, name)


def test_every_file_of_a_run_is_named_in_one_place(real: Path) -> None:
    files = RunFiles(real)
    known = {files.config, files.info, files.split, files.prototypes, files.attempts, files.lock}
    known |= {files.checkpoints, files.heads, *map(files.of_rounds, ROUND_FILES)}
    assert set(real.iterdir()) <= known


def test_records_without_pandas(real: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    run = open_run(real)
    assert [record["round"] for record in run.metrics] == [1, 2]
    assert [record["client"] for record in run.clients] == [0, 1, 2, 3]
    assert [record["class"] for record in run.classes] == [str(c) for c in range(10)]
    first, accuracy = run.classes[0], "global/realigned/accuracy"
    assert (first["group"], first["train-images"]) == ("many", run.info["train-counts"][0])
    assert first[accuracy] == run.last_class_line[accuracy][0]
    assert [record["round"] for record in run.timing] == [1, 2]
    # What a user does to a record is not done to the run.
    run.metrics[0]["round"] = 99
    assert run.metrics[0]["round"] == 1


def test_frames_with_pandas(real: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[list[dict[str, Any]]] = []
    pandas = ModuleType("pandas")
    pandas.__spec__ = importlib.machinery.ModuleSpec("pandas", None)
    pandas.DataFrame = lambda records: made.append(records) or "frame"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pandas", pandas)
    run = open_run(real)
    assert run.metrics == run.clients == run.classes == "frame"
    assert [len(records) for records in made] == [2, 4, 10]
    # What reads a run within fedloge does not change its type with pandas.
    assert isinstance(run.metric_lines, list) and isinstance(run.last_client_lines, list)


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    return harness.same_tensors(one.state_dict(), other.state_dict())


@pytest.mark.parametrize("which", ["global", "global/raw", "global/fixed"])
def test_the_global_model_is_the_one_exported(real: Path, which: str, tmp_path: Path) -> None:
    run = open_run(real)
    before = {path: path.stat().st_mtime_ns for path in real.rglob("*")}
    model = run.model(which)
    assert {path: path.stat().st_mtime_ns for path in real.rglob("*")} == before
    export_global(run, tmp_path / "out", which.partition("/")[2])
    loaded = trained_model.load(tmp_path / "out")
    images = torch.randint(0, 256, (7, 1, 8, 8), dtype=torch.uint8)
    assert type(model) is type(loaded) and same(model, loaded)
    assert torch.equal(model(images), loaded(images))
    assert model.manifest == loaded.manifest and model.classes == run.class_names


def test_a_clients_model_is_the_one_exported(real: Path, tmp_path: Path) -> None:
    run = open_run(real)
    export_client(run, 3, tmp_path / "out")
    model, loaded = run.model(client=3), trained_model.load(tmp_path / "out")
    images = torch.randint(0, 256, (7, 1, 8, 8), dtype=torch.uint8)
    assert torch.equal(model(images), loaded(images))
    assert model.manifest == loaded.manifest and model.manifest["client"] == 3
    raw = run.model("personal/raw", client=3)
    assert raw.manifest["model"] == "personal/raw"


def test_two_models_of_a_run_share_no_tensor(real: Path) -> None:
    run = open_run(real)
    one, other = run.model(), run.model(client=0)
    kept = {name: tensor.clone() for name, tensor in one.state_dict().items()}
    for tensor in other.state_dict().values():
        tensor.zero_()
    assert harness.same_tensors(one.state_dict(), kept)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"which": "fixed"}, "expected 'global' or 'global/NAME', got 'fixed'"),
        ({"which": "personal/raw"}, "expected 'global' or 'global/NAME', got 'personal/raw'"),
        ({"which": "global/raw", "client": 0}, "'personal/NAME' with a client, got 'global/raw'"),
        ({"which": "global/row"}, "unknown global model 'row'"),
        ({"client": 4}, "client 4 asked for, the run has 0 to 3"),
        ({"client": -1}, "client -1 asked for"),
    ],
)
def test_a_model_that_there_is_not(real: Path, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as error:
        open_run(real).model(**arguments)
    assert said in str(error.value)


def test_the_report_lies_in_the_run_or_where_told(real: Path, tmp_path: Path) -> None:
    run = open_run(real)
    out = run.report(tmp_path / "deep" / "page.html")
    assert out.read_text().startswith("<!DOCTYPE html>")
    assert run.report() == RunFiles(real).report
    RunFiles(real).report.unlink()


def test_open_run_gives_a_run(real: Path) -> None:
    assert type(open_run(real)) is Run
