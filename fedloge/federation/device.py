"""The device that a process computes on, and the precision of its matrix products."""

from __future__ import annotations

import torch

from fedloge.errors import ConfigError


def resolve_device(name: str) -> torch.device:
    """The device of a config's ``device``: ``auto`` (the first GPU, else the CPU), ``cpu``, ``cuda`` or ``cuda:N``.

    Raises
    ------
    ConfigError
        The name is none of these, or there is no such GPU.
    """
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
    """Make a GPU compute products of float32 in TF32 if `precision` is ``tf32``, and only then.

    By torch's own defaults, convolutions would use TF32. `ConfigError`: tf32 on another device.
    """
    narrow = precision == "tf32"
    if narrow and device.type != "cuda":
        raise ConfigError(
            f"precision: 'tf32' is for GPUs, but this run is on {device}; use float32 or bf16"
        )
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high" if narrow else "highest")
        torch.backends.cudnn.allow_tf32 = narrow
