from __future__ import annotations

from pathlib import Path

import harness
import pytest
import torch

from fedloge.errors import ConfigError
from fedloge.federation import Federation
from fedloge.federation.device import resolve_device


def test_devices() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    for name, words in (("gpu", "expected auto, cpu"), ("cuda:99", "'cuda:99' asked for")):
        with pytest.raises(ConfigError, match=words):
            resolve_device(name)


def test_tf32_is_refused_on_a_processor(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'tf32' is for GPUs, but this run is on cpu"):
        Federation(harness.tiny(tmp_path, precision="tf32"))
