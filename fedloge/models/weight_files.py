"""Reading a file of weights: safetensors, or what `torch.save` wrote, without running any of its code."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fedloge.errors import ConfigError, in_one_line

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
# Where training scripts keep a state dict among other things.
_INSIDE = ("state_dict", "model", "model_state_dict")


def read_weights(path: Path) -> tuple[dict[str, Tensor], str]:
    """A file's tensors by name, and the licence that it states; "" if it states none.

    Raises
    ------
    ConfigError
        There is no such file, it is damaged, or it holds something else than tensors.
    """
    if not path.is_file():
        raise ConfigError(
            f"weights: {path}: no such file; expected a safetensors file, or a state dict of torch.save"
        )
    try:
        if path.suffix == ".safetensors":
            return _safetensors(path)
        return _state_dict(torch.load(path, map_location="cpu", weights_only=True), path), ""
    except pickle.UnpicklingError:
        raise ConfigError(
            f"weights: {path} is damaged, or holds Python objects beside tensors, which could run code; it was "
            "not loaded: give the weights as safetensors"
        ) from None
    except SafetensorError as exc:
        raise ConfigError(f"weights: {path} is no safetensors file, or damaged ({exc})") from None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as exc:
        raise ConfigError(
            f"weights: {path} cannot be read ({in_one_line(exc)}); expected a safetensors file, or a "
            "state dict of torch.save"
        ) from None


def _safetensors(path: Path) -> tuple[dict[str, Tensor], str]:
    with safe_open(path, framework="pt") as file:
        stated = file.metadata() or {}
        return {name: file.get_tensor(name) for name in file.keys()}, stated.get("license", "")  # noqa: SIM118


def _state_dict(found: Any, path: Path) -> dict[str, Tensor]:
    if isinstance(found, Mapping):
        inner = next((found[key] for key in _INSIDE if isinstance(found.get(key), Mapping)), found)
        if inner and all(isinstance(tensor, Tensor) for tensor in inner.values()):
            return dict(inner)
    raise ConfigError(
        f"weights: {path} holds no state dict, which is tensors by name, but a {type(found).__name__}; save "
        "model.state_dict()"
    )
