"""Pretrained weights: strict loading, where they come from, and what is wrong with a file, in one line."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import lines, resume_local, run_local, same_tensors, tiny
from safetensors.torch import save_file

from fedloge.errors import ConfigError, RunDirError
from fedloge.federation import Federation
from fedloge.models import build_backbone, pretrained
from fedloge.models.licences import is_non_commercial
from fedloge.results import trained_model
from fedloge.results.export import export_global
from fedloge.results.recorded_run import RecordedRun

timm = pytest.importorskip("timm")

SHARED = Path(__file__).parents[3] / "shared" / "data" / "efficientnet-lite0.safetensors"
FEW = {
    "method": "fedavg",
    "method_options": {"tune-epochs": 0},
    "feature_scale": "none",  # the running statistics are no real network's
    "rounds": 1,
    "num_clients": 2,
    "batch_size": 64,
    "clients_per_round": 1,
    "imbalance_factor": 0.01,
    "evaluate_every": 9,
}
SMALL, SHAPE = "timm/test_efficientnet", (3, 32, 32)


def whole(name: str = "test_efficientnet", seed: int = 0, **options: Any) -> torch.nn.Module:
    """A timm model with its classifier and random weights, running statistics included."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = timm.create_model(name, **options)
        for buffer in net.buffers():
            if buffer.is_floating_point():
                buffer.uniform_(0.5, 1.5)
    return net.eval()


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "small.safetensors"
    save_file(whole().state_dict(), path, metadata={"license": "Apache-2.0"})
    return path


@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        ("test_efficientnet", 32, {}),
        ("test_efficientnet.r160_in1k", 32, {}),
        ("test_vit", 64, {"img_size": 64}),
        ("test_resnet", 32, {}),
        ("test_convnext", 32, {}),
    ],
)
def test_features_are_the_librarys_own(
    tmp_path: Path, name: str, size: int, options: dict[str, Any]
) -> None:
    net, path = whole(name, **options), tmp_path / "weights.pth"
    torch.save({"state_dict": net.state_dict(), "epoch": torch.tensor(3)}, path)
    loaded = pretrained(f"timm/{name}", str(path))
    ours = build_backbone(f"timm/{name}", (3, size, size), seed=0, weights=loaded).eval()
    images = torch.randn(2, 3, size, size)
    expected = net.forward_head(net.forward_features(images), pre_logits=True)
    assert torch.equal(ours(images), expected)
    assert ours.out_features == expected.shape[1]
    assert all(tensor.is_floating_point() for tensor in ours.state_dict().values())


def test_torchvision_by_its_own_name(tmp_path: Path) -> None:
    import torchvision

    net = torchvision.models.resnet18(weights=None).eval()
    path = tmp_path / "r18.safetensors"
    save_file(net.state_dict(), path)
    loaded = pretrained("torchvision/resnet18", str(path))
    assert loaded.standard is not None
    assert (loaded.standard.size, loaded.standard.resized) == (224, 256)
    ours = build_backbone("torchvision/resnet18", (3, 64, 64), seed=0, weights=loaded).eval()
    assert type(ours.net).__name__ == "ResNet"
    assert ours.net.conv1.kernel_size == (7, 7)
    images = torch.randn(2, 3, 64, 64)
    net.fc = torch.nn.Identity()
    assert torch.equal(ours(images), net(images))
    # Without the prefix it is the network for small images.
    assert not hasattr(build_backbone("resnet18", SHAPE, seed=0), "net")


def test_the_container_does_not_change_the_digest(weights: Path, tmp_path: Path) -> None:
    first = pretrained(SMALL, str(weights))
    torch.save(whole().state_dict(), tmp_path / "same.pth")
    torch.save(whole(seed=1).state_dict(), tmp_path / "other.pth")
    assert pretrained(SMALL, str(tmp_path / "same.pth")).digest == first.digest
    assert pretrained(SMALL, str(tmp_path / "other.pth")).digest != first.digest
    assert first.licence == "apache-2.0"
    assert not first.non_commercial


class Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (eval, ("open(__import__('os').environ['EVIL'], 'w')",))


def test_what_is_wrong_is_said_in_one_line(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def message(name: str, model: str = SMALL) -> str:
        with pytest.raises(ConfigError) as caught:
            loaded = pretrained(model, str(tmp_path / name))
            build_backbone(model, (3, 64, 64), seed=0, weights=loaded)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "gone.safetensors: no such file" in message("gone.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(weights.read_bytes()[:1000])
    assert "cut.safetensors is no safetensors file, or damaged" in message("cut.safetensors")
    (tmp_path / "empty.pth").write_bytes(b"")
    assert "empty.pth cannot be read" in message("empty.pth")
    monkeypatch.setenv("EVIL", str(tmp_path / "ran"))
    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"weight": Evil()}))
    torch.save({"weight": Evil()}, tmp_path / "evil.pt")
    for evil in ("evil.pth", "evil.pt"):
        assert "which could run code; it was not loaded" in message(evil)
    assert not (tmp_path / "ran").exists()
    torch.save({"epoch": 3}, tmp_path / "none.pth")
    assert "holds no state dict" in message("none.pth")
    # Another model's file, which timm itself would take without a word.
    said = message(weights.name, "timm/test_vit")
    assert "small.safetensors is not of model 'timm/test_vit'" in said
    assert "are missing" in said and "are unknown to it" in said
    state = whole().state_dict()
    state["conv_stem.weight"] = state["conv_stem.weight"][:, :1].clone()
    save_file(state, tmp_path / "grey.safetensors")
    assert "'conv_stem.weight' has the shape" in message("grey.safetensors")
    assert "model 'cnn' has no hub" in _refused("cnn", "hub")
    assert "unknown tag 'in99k'" in _refused(SMALL, "in99k")
    assert "near: timm/test_efficientnet" in _refused("timm/test_effizientnet", "hub")
    with pytest.raises(ConfigError, match="norm: 'group' would throw away"):
        loaded = pretrained(SMALL, str(weights))
        build_backbone(SMALL, SHAPE, "group", seed=0, weights=loaded)


def _refused(model: str, tag: str) -> str:
    with pytest.raises(ConfigError) as caught:
        pretrained(model, tag)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_without_a_network_the_file_is_named(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    pretrained.cache_clear()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    for variable in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    said = _refused(SMALL, "hub")
    assert f"model.safetensors of timm/test_efficientnet.r160_in1k is not in {tmp_path}" in said
    assert "Connection refused" in said
    # Where it has been downloaded before, no network is needed.
    entry = tmp_path / "hub/models--timm--test_efficientnet.r160_in1k"
    (entry / "snapshots/abc").mkdir(parents=True)
    (entry / "refs").mkdir()
    (entry / "refs/main").write_text("abc")
    (entry / "snapshots/abc/model.safetensors").write_bytes(weights.read_bytes())
    found = pretrained(SMALL, "r160_in1k")
    assert found.source == "timm/test_efficientnet.r160_in1k"
    assert found.licence == "apache-2.0"
    assert found.standard is not None and found.standard.size == 160
    pretrained.cache_clear()


def test_torchvisions_hub_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    for variable in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    said = _refused("torchvision/resnet18", "hub")
    assert f"resnet18-f37072fd.pth is not in {tmp_path}/checkpoints" in said
    assert "unknown tag 'V9'" in _refused("torchvision/resnet18", "V9")


@pytest.mark.parametrize(
    ("licence", "non_commercial"),
    [
        ("apache-2.0", False),
        ("cc-by-nc-4.0", True),
        ("fair-noncommercial-research-license", True),
        ("seer-license", True),
        ("mit", False),
        ("cc-by-4.0", False),
    ],
)
def test_non_commercial_licences_are_known(licence: str, non_commercial: bool) -> None:
    assert is_non_commercial(licence) is non_commercial


def test_a_small_stem_at_large_images_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    from fedloge.models import warn_of_small_stem

    warn_of_small_stem.cache_clear()
    warn_of_small_stem("resnet18", (3, 64, 64))
    warn_of_small_stem("torchvision/resnet18", (3, 224, 224))
    assert not caplog.messages
    for _ in range(2):
        warn_of_small_stem("resnet18", (3, 224, 224))
    assert len(caplog.messages) == 1
    assert "try model=torchvision/resnet18" in caplog.messages[0]


def test_a_run_from_weights(weights: Path, tmp_path: Path) -> None:
    """Its first model is the weights'; they are in the fingerprint by content, and not by path."""
    keys = {"model": SMALL, "weights": str(weights), "image_size": 64, **FEW}
    config = tiny(tmp_path, **keys)
    fed = Federation(config)
    assert fed.data.network_shape == (3, 64, 64)
    held = fed.net.backbone.net.state_dict()
    own = {name: tensor for name, tensor in whole().state_dict().items() if name in held}
    assert len(held) > 20 and same_tensors(own, held)
    run = run_local(config)
    info = json.loads((run / "run.json").read_text())
    assert info["weights"]["licence"] == "apache-2.0"
    assert info["weights"]["digest"] == pretrained(SMALL, str(weights)).digest
    moved = tmp_path / "moved.safetensors"
    weights.rename(moved)
    resume_local(run, rounds=2, weights=str(moved))
    assert len(lines(run, "metrics")) == 2
    save_file(whole(seed=1).state_dict(), weights)
    pretrained.cache_clear()  # another process would read the file anew
    with pytest.raises(RunDirError, match="pretrained weights are not what it was started with"):
        resume_local(run, rounds=3, weights=str(weights))


def test_an_exported_model_prepares_images_itself(weights: Path, tmp_path: Path) -> None:
    keys = {"model": SMALL, "weights": str(weights), "image_size": 64, **FEW}
    run = run_local(tiny(tmp_path, **keys))
    weights.unlink()  # the exported model has its own
    export_global(RecordedRun.open(run), tmp_path / "out", "raw")
    model = trained_model.load(tmp_path / "out")
    fed = Federation(tiny(tmp_path))
    accuracy = (model(fed.test.inputs).argmax(1) == fed.test.labels).double().mean()
    assert float(accuracy) == pytest.approx(lines(run, "metrics")[-1]["global/raw/all"])
