"""Whether a method can train its network at all, found out before the first round."""

from __future__ import annotations

import torch
from torch import Tensor

from fedloge.errors import ConfigError
from fedloge.learning.private_steps import refuse_mixing
from fedloge.methods.method import Method
from fedloge.models import NORM_LAYERS, Network, Part, norm_parameters, parts_of_tensors


def check_something_trains(method: Method, net: Network) -> None:
    """`ConfigError` if what the method trains is frozen."""
    name, part = method.config.method, method.config.train_part
    if not method.solves and not method.trainable(net):
        raise ConfigError(
            f"train-part: with {part!r} method {name!r} has nothing to train; train an adapter or the last "
            "stage, or use another method"
        )
    if part != "all" and _shares_what_is_frozen(method, net):
        raise ConfigError(
            f"train-part: with {part!r} method {name!r} has nothing to share, as all that it shares is frozen; what is "
            "left is method=local-only. Train an adapter or the last stage, or use that"
        )
    norms_alone = method.parts.get(NORM_LAYERS) is Part.PERSONAL
    if part != "all" and norms_alone and not norm_parameters(net.backbone):
        raise ConfigError(
            f"train-part: method {name!r} differs from fedavg by its norm layers, and with {part!r} none is "
            "trained; use last-stage or norm, or method=fedavg"
        )


def _shares_what_is_frozen(method: Method, net: Network) -> bool:
    """Whether a method that shares something has nothing of it left to send."""
    shares = any(p is Part.SHARED for child, p in method.parts.items() if child != NORM_LAYERS)
    lives = parts_of_tensors(net, method.parts, method.config.norm_sharing)
    return shares and Part.SHARED not in lives.values()


def check_trainable(method: Method, net: Network, one: Tensor) -> None:
    """`ConfigError` if the network cannot be trained on a batch of one prepared input.

    Batch norm cannot train on a single image whose feature map has shrunk to 1x1. Found here, it
    stops the run at once, not when a client's last batch happens to hold one image.
    """
    net.train()
    saved = {name: t.clone() for name, t in net.state_dict().items()}
    try:
        with torch.no_grad():
            method.features(net, one)
    except (ValueError, RuntimeError, IndexError) as exc:
        shape = "x".join(map(str, one.shape[1:]))
        raise ConfigError(
            f"model: {method.config.model!r} cannot train on inputs of {shape} "
            f"({str(exc).splitlines()[0]}); use norm=group, a smaller model or a larger image-size"
        ) from None
    finally:
        net.load_state_dict(saved)


def check_private(method: Method, net: Network) -> None:
    """`ConfigError` if privacy at the client would not cover all that this method sends."""
    if not method.config.local_dp_clip:
        return
    if method.uplink(net) or method.probes():
        raise ConfigError(
            f"local-dp-clip: method {method.name!r} sends sums over a client's examples, which the noise does not "
            "cover; use another method, or another post-hoc"
        )
    refuse_mixing(net.train())
