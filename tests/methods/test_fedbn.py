from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from fedloge.errors import ConfigError

NORMS = {f"backbone.layers.{i}" for i in (1, 4, 7)}


def test_norm_layers_stay_with_their_client(run_twice: Callable[..., Any]) -> None:
    run = run_twice("fedbn")
    assert run.sent
    assert not [name for name in run.sent if name.rpartition(".")[0] in NORMS]
    # What a client keeps is all of them, and no two clients' are alike.
    kept = [load_file(max(c.glob("*.safetensors"))) for c in (run.folder / "heads").iterdir()]
    assert {name.rpartition(".")[0] for name in kept[0]} == NORMS
    assert {name.rpartition(".")[2] for name in kept[0]} == {
        "weight",
        "bias",
        "running_mean",
        "running_var",
    }
    assert not torch.equal(kept[0]["backbone.layers.1.weight"], kept[1]["backbone.layers.1.weight"])
    assert "personal/raw/mean" in run.metrics[-1]
    assert not [key for key in run.metrics[-1] if key.startswith("global/")]


def test_the_names_are_those_of_the_norm_layers(federation: Callable[..., Any]) -> None:
    net = federation("fedbn").net
    assert {n for n, m in net.named_modules() if isinstance(m, nn.BatchNorm2d)} == NORMS


def test_sharing_a_part_of_them_is_refused(federation: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match=r"norm-sharing: fedbn .*'affine'"):
        _ = federation("fedbn", norm_sharing="affine").method
