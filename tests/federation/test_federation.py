from __future__ import annotations

from pathlib import Path
from typing import Any

import harness
import pytest
import torch

from fedloge.errors import ConfigError
from fedloge.federation import Federation, open_federation, resolve_device
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
    assert everything.backbone_is_shared

    affine = federation(tmp_path, method=method, norm_sharing="affine")
    assert kinds(affine, Part.PERSONAL) == statistics
    assert kinds(affine, Part.SHARED) == {"weight", "bias"}
    assert not affine.backbone_is_shared

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
    assert not kinds(fed, Part.PERSONAL) and fed.backbone_is_shared


def test_a_run_with_norm_layers_at_home_gives_personal_figures_only(tmp_path: Path) -> None:
    folder = harness.run_local(harness.tiny(tmp_path, norm_sharing="none", rounds=2))
    row = harness.lines(folder, "metrics")[-1]
    assert not [key for key in row if key.startswith("global/")]
    assert 0 <= row["personal/realigned/mean"] <= 1
    (names,) = {tuple(sorted(state)) for state in harness.heads(folder).values()}
    assert any("running_mean" in name for name in names) and "local_head.weight" in names


def test_a_map_of_one_pixel_cannot_be_batch_normalised(tmp_path: Path) -> None:
    fed = federation(tmp_path, model="resnet18")
    with pytest.raises(ConfigError, match=r"'resnet18' cannot train on images of 8x8.*norm=group"):
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
        {"gamma": 0.2},
        {"dirichlet_alpha": 4.0},
        {"lr": 0.02},
        {"method": "fedavg"},
        {"threads": 2},
    ]
    prints = {federation(tmp_path, **change).fingerprint for change in changes}
    assert len(prints | {base}) == len(changes) + 1


def test_a_process_keeps_its_federation(tmp_path: Path) -> None:
    config = harness.tiny(tmp_path)
    assert open_federation(config) is open_federation(config)
    assert open_federation(config) is not open_federation(config.replace(seed=1))


def test_devices(tmp_path: Path) -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    for name, words in (("gpu", "expected auto, cpu"), ("cuda:99", "'cuda:99' asked for")):
        with pytest.raises(ConfigError, match=words):
            resolve_device(name)


def test_a_method_without_a_fixed_classifier_has_none(tmp_path: Path) -> None:
    fed = federation(tmp_path, method="fedavg")
    assert fed.fixed is None and fed.prototypes_digest == ""
    assert federation(tmp_path).fixed is not None
