from __future__ import annotations

from pathlib import Path
from typing import Any

import harness
import pytest
import torch

from fedloge.data import DataSet, Examples, Manifest
from fedloge.data.examples import AsTheyAre
from fedloge.errors import ConfigError, PluginError
from fedloge.federation import Federation
from fedloge.learning.fast.graphs import StepRecorder
from fedloge.methods.method import Part


def federation(tmp_path: Path, **changes: Any) -> Federation:
    return Federation(harness.tiny(tmp_path, **changes))


def kinds(fed: Federation, part: Part) -> set[str]:
    """What kinds of backbone tensors a part holds."""
    names = [n.split(".")[-1] for n in fed.tensors(part) if n.startswith("backbone.")]
    return set(names)


@pytest.mark.parametrize("method", ["fedloge", "fedavg", "fedper"])
def test_norm_sharing_keeps_the_right_tensors_at_home(tmp_path: Path, method: str) -> None:
    statistics = {"running_mean", "running_var"}
    everything = federation(tmp_path, method=method)
    assert statistics < kinds(everything, Part.SHARED)
    assert not kinds(everything, Part.PERSONAL)
    assert everything.backbone_is_shared and everything.has_global_network

    affine = federation(tmp_path, method=method, norm_sharing="affine")
    assert kinds(affine, Part.PERSONAL) == statistics
    assert kinds(affine, Part.SHARED) == {"weight", "bias"}
    assert not affine.backbone_is_shared and not affine.has_global_network

    none = federation(tmp_path, method=method, norm_sharing="none")
    assert kinds(none, Part.PERSONAL) == statistics | {"weight", "bias"}
    assert kinds(none, Part.SHARED) == {"weight"}  # of the convolutions
    shared = {n: t for n, t in none.tensors(Part.SHARED).items() if n.startswith("backbone.")}
    assert all(t.ndim == 4 for t in shared.values())


@pytest.mark.parametrize("sharing", ["all", "affine", "none"])
def test_every_tensor_is_somewhere_once(tmp_path: Path, sharing: str) -> None:
    fed = federation(tmp_path, norm_sharing=sharing)
    parts = [set(fed.tensors(part)) for part in Part]
    assert set.union(*parts) == set(fed.net.state_dict())
    assert sum(map(len, parts)) == len(fed.net.state_dict())


def test_group_norm_has_no_statistics_to_keep(tmp_path: Path) -> None:
    fed = federation(tmp_path, norm="group", norm_sharing="affine")
    assert not kinds(fed, Part.PERSONAL) and fed.backbone_is_shared and fed.has_global_network


def test_a_run_with_norm_layers_at_home_gives_personal_figures_only(tmp_path: Path) -> None:
    folder = harness.run_local(harness.tiny(tmp_path, norm_sharing="none", rounds=2))
    row = harness.lines(folder, "metrics")[-1]
    assert not [key for key in row if key.startswith("global/")]
    assert 0 <= row["personal/realigned/mean"] <= 1
    (names,) = {tuple(sorted(state)) for state in harness.heads(folder).values()}
    assert any("running_mean" in name for name in names) and "local_head.weight" in names


def test_a_map_of_one_pixel_cannot_be_batch_normalised(tmp_path: Path) -> None:
    fed = federation(tmp_path, model="resnet18")
    with pytest.raises(
        ConfigError, match=r"'resnet18' cannot train on inputs of 1x8x8.*norm=group"
    ):
        _ = fed.net
    assert federation(tmp_path, model="resnet18", norm="group").net is not None


def test_the_check_leaves_no_trace(tmp_path: Path) -> None:
    fed = federation(tmp_path)
    built = fed.method.build().state_dict()
    assert harness.same_tensors(dict(fed.net.state_dict()), dict(built))


def test_loading_copies_by_name(tmp_path: Path) -> None:
    fed = federation(tmp_path)
    name, tensor = next(iter(fed.initial[Part.SHARED].items()))
    fed.load({name: torch.full_like(tensor, 5.0)})
    assert bool((fed.tensors(Part.SHARED)[name] == 5).all())
    fed.load(fed.initial[Part.SHARED])
    assert torch.equal(fed.tensors(Part.SHARED)[name], tensor)
    with pytest.raises(KeyError):
        fed.load({"nowhere": tensor})


def test_a_fingerprint_says_what_is_computed(tmp_path: Path) -> None:
    base = federation(tmp_path).fingerprint
    assert federation(tmp_path / "other", name="b", rounds=9).fingerprint == base
    changes: list[dict[str, Any]] = [
        {"seed": 1},
        {"method_options": {"gamma": 0.2}},
        {"partitioner_options": {"alpha": 4.0}},
        {"lr": 0.02},
        {"method": "fedavg"},
        {"threads": 2},
    ]
    prints = {federation(tmp_path, **change).fingerprint for change in changes}
    assert len(prints | {base}) == len(changes) + 1


def test_a_method_without_a_fixed_classifier_has_none(tmp_path: Path) -> None:
    fed = federation(tmp_path, method="fedavg")
    assert fed.fixed is None and fed.prototypes_digest == ""
    assert federation(tmp_path).fixed is not None


# Clients, their data and how they are trained


def test_data_in_any_order_belong_to_whom_the_partition_says(tmp_path: Path) -> None:
    """Whatever order the source has its examples in: the partition counts and gives out the same ones."""
    labels = torch.tensor([2, 0, 1, 0, 2, 1, 1, 0, 2, 2] * 4)
    inputs = torch.arange(len(labels)).float()[:, None].repeat(1, 3)
    owners = [f"site-{(7 * k) % 4}" for k in range(len(labels))]
    data = DataSet(
        name="mixed",
        train=Examples(inputs, labels),
        test=Examples(inputs[:6], labels[:6]),
        classes=("a", "b", "c"),
        preparation=AsTheyAre(),
        train_manifest=Manifest({"site": owners, "row": [str(k) for k in range(len(labels))]}),
    )
    changes: dict[str, Any] = {"long_tail": "none", "model": "identity", "method": "fedavg"}
    natural = {"partitioner": "natural", "partitioner_options": {}, **changes}
    for config in (harness.tiny(tmp_path, **natural), harness.tiny(tmp_path, **changes)):
        fed = Federation(config, data)
        assert torch.equal(fed.train.classes, torch.from_numpy(fed.train_labels))
        assert fed.train_manifest is not None
        rows = [str(int(row)) for row in fed.train.inputs[:, 0]]
        assert list(fed.train_manifest.column("row")) == rows
        for k in range(4):
            own = fed.client_data(k, 1, {})
            assert torch.equal(own.counts, torch.bincount(own.train.labels, minlength=3))
            if config.partitioner == "natural":
                sites = {owners[int(row)] for row in own.train.inputs[:, 0]}
                assert sites == {fed.partition.name_of(k)}


def test_a_client_s_data_is_its_part_of_the_long_tail(tmp_path: Path) -> None:
    fed = federation(tmp_path)
    for k, indices in enumerate(fed.partition.train):
        data = fed.client_data(k, 2, {}, rounds_trained=3)
        assert (data.client, data.round, data.rounds_trained) == (k, 2, 3)
        assert torch.equal(data.train.inputs, fed.train.inputs[torch.from_numpy(indices)])
        counted = torch.bincount(data.train.classes, minlength=fed.data.num_classes)
        assert torch.equal(data.counts, counted)
        assert data.preparation is fed.data.preparation
    assert torch.equal(fed.train_counts, torch.bincount(fed.train.classes, minlength=10))


def test_on_a_processor_no_step_is_recorded(tmp_path: Path) -> None:
    fed = federation(tmp_path, fast=True)
    assert fed.recorder is None and fed.client_data(0, 1, {}).recorder is None
    fed.recorder = StepRecorder(harness.called_again)
    assert fed.client_data(0, 1, {}).recorder is fed.recorder


def test_clients_are_stacked_only_when_asked_and_allowed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert federation(tmp_path).stacked is None
    assert federation(tmp_path, fast=True).stacked is None
    fed = federation(tmp_path, fast=True, clients_at_once=9)
    places = fed.stacked
    assert places is not None and places.places == 3, "as many as are drawn each round"
    assert fed.stacked is places and not caplog.records
    fed.stop_stacking("a reason")
    assert fed.stacked is None
    assert "clients cannot train at once (a reason); one by one from here" in caplog.text
    caplog.clear()
    other = federation(tmp_path, fast=True, clients_at_once=2, method="fedprox")
    assert other.stacked is None and other.stacked is None
    assert caplog.text.count("step differs from client to client; one by one") == 1


# Probes


PROBES = """
import torch
from fedloge.learning.probes import Findings, Probe

class Brightness(Probe):
    name = "brightness"

    def template(self, net):
        return {"counts": torch.zeros(self.task.num_classes), "sum": torch.zeros(())}

    def collect(self, net, client):
        return {"counts": client.counts.float(), "sum": client.train.inputs.float().sum()}

    def finish(self, net, sums):
        figures = {"mean": float(sums["sum"] / sums["counts"].sum())}
        return Findings(figures, {"counts": sums["counts"].tolist()})

class Again(Brightness):
    pass

class Calibration(Brightness):
    name = "ccvr"

def function(task):
    return Brightness(task)
"""


@pytest.fixture
def own(tmp_path: Path) -> str:
    file = tmp_path / "own_probes.py"
    file.write_text(PROBES)
    return str(file)


def test_probes_are_the_method_s_and_those_of_the_config(tmp_path: Path, own: str) -> None:
    assert federation(tmp_path).probes == []
    fed = federation(tmp_path, method="ccvr", probes=f" {own}:Brightness, ")
    assert [probe.name for probe in fed.probes] == ["ccvr", "brightness"]
    assert fed.probes[1].task.num_classes == 10


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("function", "expected a subclass of .*Probe, got <function"),
        ("Nothing", "unknown name in"),
        ("Brightness,Again", "probes: 'brightness' is the name of two; rename one"),
        ("Calibration", "probes: 'ccvr' is the name of two"),
    ],
)
def test_what_is_no_probe_or_is_there_twice_is_refused(
    tmp_path: Path, own: str, names: str, words: str
) -> None:
    specs = ",".join(f"{own}:{name}" for name in names.split(","))
    with pytest.raises(PluginError, match=words):
        _ = federation(tmp_path, method="ccvr", probes=specs).probes
    with pytest.raises(PluginError, match="unknown probe 'brightness'"):
        _ = federation(tmp_path, probes="brightness").probes


def test_a_run_s_probe_finds_what_all_examples_together_say(tmp_path: Path, own: str) -> None:
    config = harness.tiny(tmp_path, rounds=1, probes=f"{own}:Brightness")
    folder = harness.run_local(config)
    everything = Federation(config).train
    (row,) = harness.lines(folder, "metrics")
    expected = float(everything.inputs.float().sum() / len(everything))
    assert row["probe/brightness/mean"] == pytest.approx(expected, rel=1e-7)
    (by_class,) = harness.lines(folder, "classes")
    assert by_class["probe/brightness/counts"] == torch.bincount(everything.classes).tolist()
    plain = harness.run_local(harness.tiny(tmp_path, "plain", rounds=1))
    assert harness.same_tensors(harness.newest_checkpoint(folder), harness.newest_checkpoint(plain))
