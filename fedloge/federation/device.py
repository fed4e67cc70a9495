"""On which device a process computes, and how exactly."""

from __future__ import annotations

import torch

from fedloge.errors import ConfigError


def resolve_device(name: str) -> torch.device:
    """`auto` is the first GPU where there is one; `ConfigError` for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device: expected auto, cpu, cuda or cuda:N, got {name!r}") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device: {name!r} asked for, but {torch.cuda.device_count()} CUDA devices are visible; use device=cpu"
        )
    return device


def set_precision(device: torch.device, precision: str) -> None:
    """Let a GPU's products of float32 be TF32's, or not; left to torch, convolutions would be.

    Raises `ConfigError` for tf32 on another device.
    """
    narrow = precision == "tf32"
    if narrow and device.type != "cuda":
        raise ConfigError(
            f"precision: 'tf32' is for GPUs, but this run is on {device}; use float32 or bf16"
        )
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high" if narrow else "highest")
        torch.backends.cudnn.allow_tf32 = narrow
