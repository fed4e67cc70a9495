"""What `test_export` does not show: the saved model stands on its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import harness
import torch

from fedloge.federation import Federation
from fedloge.methods.method import Predictor
from fedloge.models.head import LinearHead
from fedloge.results import trained_model


def save(folder: Path, fed: Federation, predictor: Predictor) -> None:
    data = {
        "classes": list(fed.data.classes),
        "input-shape": list(fed.data.input_shape),
        "preparation": fed.data.preparation.described(),
    }
    packed = trained_model.pack(fed.config, data, fed.net, predictor, {"model": "global/x"})
    trained_model.write(folder, packed)


def test_logits_are_head_of_features_of_normalised_pixels(tmp_path: Path) -> None:
    fed = Federation(harness.tiny(tmp_path))
    net = fed.net.eval()
    weight, bias = torch.randn(10, 128), torch.randn(10)
    mask = torch.tensor([0.0] * 9 + [float("-inf")])
    save(tmp_path / "out", fed, Predictor(LinearHead(weight, bias, mask)))
    images = fed.data.test.inputs[:40]
    x = (images.float() / 255 - fed.data.preparation.mean[0]) / fed.data.preparation.std[0]
    with torch.no_grad():
        expected = net.backbone(x) @ weight.T + bias + mask
    logits = trained_model.load(tmp_path / "out")(images)
    assert torch.allclose(logits, expected, atol=1e-4)
    assert bool(logits[:, 9].isneginf().all())


def test_a_process_of_its_own_loads_it_without_flower(tmp_path: Path) -> None:
    fed = Federation(harness.tiny(tmp_path, method="fedavg"))
    save(tmp_path / "out", fed, Predictor(LinearHead.of(fed.net.head)))
    code = (
        "import sys, torch; from fedloge.results.trained_model import load\n"
        f"model = load({str(tmp_path / 'out')!r})\n"
        "print(tuple(model(torch.zeros(2, 1, 8, 8, dtype=torch.uint8)).shape))\n"
        "sys.exit(str({'flwr', 'ray', 'sklearn'} & set(sys.modules) or 0) if "
        "{'flwr', 'ray', 'sklearn'} & set(sys.modules) else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert (done.returncode, done.stdout.strip()) == (0, "(2, 10)"), done.stderr
