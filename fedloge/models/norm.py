"""Normalisation layers: which tensors belong to them, and what makes them fit for averaging."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

_NORMS = (_BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


def norm_parameters(backbone: nn.Module) -> set[str]:
    """State-dict names of the affine parameters of all norm layers (batch, group, layer)."""
    return {
        f"{prefix}.{name}" if prefix else name
        for prefix, layer in _norm_layers(backbone)
        for name, _ in layer.named_parameters(recurse=False)
    }


def norm_statistics(backbone: nn.Module) -> set[str]:
    """State-dict names of the running statistics of all batch norm layers."""
    return {
        f"{prefix}.{name}" if prefix else name
        for prefix, layer in _norm_layers(backbone)
        for name, _ in layer.named_buffers(recurse=False)
    }


def drop_batch_counters(net: nn.Module) -> None:
    """Take ``num_batches_tracked`` out of every batch norm layer, in place.

    The counter is an integer, which cannot be averaged, and layers with a fixed momentum
    do not read it. Without it a state dict is floating point throughout, and a training
    step saves one operation per layer.
    """
    for layer in net.modules():
        if isinstance(layer, _BatchNorm) and layer.num_batches_tracked is not None:
            layer.num_batches_tracked = None
            layer.register_load_state_dict_pre_hook(_ignore_batch_counter)


def use_group_norm(net: nn.Module) -> int:
    """Replace every batch norm layer by group norm, in place; returns how many were replaced.

    A group has at least four channels, and a layer at most 32 groups (Wu and He, 2018). A
    group of a single channel would be instance norm, which fixes every channel's mean over the
    image and so hides it from the average pooling at the end.
    """
    replaced = 0
    for parent in list(net.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.BatchNorm2d):
                channels = layer.num_features
                group_norm = nn.GroupNorm(_num_groups(channels), channels, eps=layer.eps)
                group_norm.load_state_dict({"weight": layer.weight, "bias": layer.bias})
                setattr(parent, name, group_norm)
                replaced += 1
    return replaced


def _norm_layers(net: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return ((name, layer) for name, layer in net.named_modules() if isinstance(layer, _NORMS))


def _num_groups(channels: int) -> int:
    most = min(32, max(1, channels // 4))
    return next(groups for groups in range(most, 0, -1) if channels % groups == 0)


def _ignore_batch_counter(
    module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any
) -> None:
    # A state dict that was read from a safetensors file has no version. Torch adds the counter to
    # such a state dict, and then refuses it as unexpected.
    state_dict.pop(f"{prefix}num_batches_tracked", None)
