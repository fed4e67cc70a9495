from __future__ import annotations

import json
import shutil
from pathlib import Path

import harness
import pytest
import torch
from safetensors.torch import load_file, save_file

from fedloge.errors import DataError, InputError, RunError
from fedloge.results import trained_model
from fedloge.results.export import export_client, export_global
from fedloge.results.run import open_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A client in five never trains in them, one in five has absent classes."""
    folder = tmp_path_factory.mktemp("runs")
    common = {"rounds": 2, "num_clients": 6, "clients_per_round": 2, "local_epochs": 2}
    common |= {"partitioner_options": {"alpha": 0.5}, "imbalance_factor": 0.02}
    return {
        method: harness.run_local(harness.tiny(folder, method, method=method, **common))
        for method in ("fedloge", "fedavg", "fedper")
    }


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("fedloge", ""),
        ("fedloge", "fixed"),
        ("fedloge", "raw"),
        ("fedavg", ""),
    ],
)
def test_the_global_model_measures_as_recorded(
    runs: dict[str, Path], method: str, name: str, tmp_path: Path
) -> None:
    run = open_run(runs[method])
    manifest = export_global(run, tmp_path / "out", name)
    recorded = harness.lines(run.path, "metrics")[-1][f"{manifest['model']}/all"]
    assert harness.accuracy(trained_model.load(tmp_path / "out"), run.path, None) == pytest.approx(
        recorded, abs=1e-12
    )


@pytest.mark.parametrize(
    ("method", "name"),
    [("fedloge", ""), ("fedloge", "raw"), ("fedavg", ""), ("fedavg", "raw"), ("fedper", "")],
)
def test_every_clients_model_measures_as_recorded(
    runs: dict[str, Path], method: str, name: str, tmp_path: Path
) -> None:
    """Those that never trained, and FedAvg's tuned heads, among them."""
    run = open_run(runs[method])
    rows = [row for row in harness.lines(run.path, "clients") if row["round"] == 2]
    never = [row["client"] for row in rows if row["trained-rounds"] == 0]
    assert 0 < len(never) < 6
    for row in rows:
        out = tmp_path / str(row["client"])
        manifest = export_client(run, row["client"], out, name)
        assert manifest["rounds-trained"] == row["trained-rounds"]
        recorded = row.get(f"{manifest['model']}/accuracy")
        if recorded is not None:
            found = harness.accuracy(trained_model.load(out), run.path, row["client"])
            assert found == pytest.approx(recorded, abs=1e-12)


def test_absent_classes_stay_masked(runs: dict[str, Path], tmp_path: Path) -> None:
    run = open_run(runs["fedloge"])
    split = load_file(run.path / "split.safetensors")["train_counts"]
    client = int((split == 0).sum(1).argmax())
    export_client(run, client, tmp_path / "out")
    model = trained_model.load(tmp_path / "out")
    logits = model(torch.randint(0, 256, (50, 1, 8, 8), dtype=torch.uint8))
    absent = split[client] == 0
    assert bool(absent.any()) and bool(logits[:, absent].isneginf().all())
    assert bool(logits[:, ~absent].isfinite().all())


def test_loading_needs_neither_run_nor_data(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = open_run(runs["fedloge"]).config
    export_global(open_run(runs["fedloge"]), tmp_path / "here")
    there = tmp_path / "there"
    shutil.move(tmp_path / "here", there)
    from fedloge.data import sources

    monkeypatch.setattr(sources, "SOURCES", {})
    model = trained_model.load(there)
    assert model.classes == [str(c) for c in range(10)]
    assert model.manifest["run-id"] == open_run(runs["fedloge"]).info["run-id"]
    assert model.manifest["config"] == config.nested()
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    assert model(torch.zeros(3, 1, 8, 8, dtype=torch.uint8)).shape == (3, 10)


def test_an_older_attempts_head_is_not_exported(runs: dict[str, Path], tmp_path: Path) -> None:
    """A state made after the round that a later attempt began from has not happened."""
    copy = tmp_path / "fedloge"
    shutil.copytree(runs["fedloge"], copy)
    with (copy / "attempts.jsonl").open("a") as f:
        f.write(json.dumps({"attempt": 2, "base-round": 0, "started": ""}) + "\n")
    manifest = json.loads((copy / "checkpoint/manifest.json").read_text())
    for entry in manifest["checkpoints"]:
        entry["attempt"] = 2
    (copy / "checkpoint/manifest.json").write_text(json.dumps(manifest))
    for client in range(6):
        assert export_client(open_run(copy), client, tmp_path / str(client))["rounds-trained"] == 0


# What can go wrong


@pytest.fixture
def out(runs: dict[str, Path], tmp_path: Path) -> Path:
    export_global(open_run(runs["fedloge"]), tmp_path / "out")
    return tmp_path / "out"


def test_an_existing_folder_is_not_touched(runs: dict[str, Path], out: Path) -> None:
    before = {p: p.read_bytes() for p in out.iterdir()}
    with pytest.raises(InputError, match="exists already; export to a new folder"):
        export_global(open_run(runs["fedloge"]), out)
    assert {p: p.read_bytes() for p in out.iterdir()} == before


def test_truncated_weights_are_said(out: Path) -> None:
    path = out / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError, match=r"weights\.safetensors is damaged: 500 bytes"):
        trained_model.load(out)


def test_other_weights_are_said(out: Path) -> None:
    tensors = load_file(out / "weights.safetensors")
    tensors["head.weight"] = tensors["head.weight"] + 1
    save_file(tensors, out / "weights.safetensors")
    with pytest.raises(DataError, match="do not match its manifest"):
        trained_model.load(out)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"format": 1}'])
def test_a_damaged_manifest_is_said(out: Path, content: str) -> None:
    (out / "manifest.json").write_text(content)
    with pytest.raises(DataError, match="holds no exported model"):
        trained_model.load(out)


def test_a_newer_format_is_said(out: Path) -> None:
    manifest = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps(manifest | {"format": 3}))
    with pytest.raises(DataError, match="format 3, this version reads 2"):
        trained_model.load(out)


def test_no_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no exported model"):
        trained_model.load(tmp_path / "none")


def test_a_method_without_a_global_model(runs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no global model"):
        export_global(open_run(runs["fedper"]), tmp_path / "out")


def test_norm_layers_at_home_leave_no_global_model(tmp_path: Path) -> None:
    folder = harness.run_local(harness.tiny(tmp_path, norm_sharing="affine", rounds=1))
    with pytest.raises(InputError, match="no global network exists; export a client's"):
        export_global(open_run(folder), tmp_path / "out")
    manifest = export_client(open_run(folder), 0, tmp_path / "mine")
    row = harness.lines(folder, "clients")[0]
    assert harness.accuracy(trained_model.load(tmp_path / "mine"), folder, 0) == pytest.approx(
        row[f"{manifest['model']}/accuracy"], abs=1e-12
    )


def test_a_disk_that_refuses_leaves_nothing(runs: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        export_global(open_run(runs["fedloge"]), tmp_path / "file/out")
