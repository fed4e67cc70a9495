"""Mixup of a client's batches, of their inputs or of a hidden layer.

Zhang, Cisse, Dauphin and Lopez-Paz, "mixup: Beyond Empirical Risk Minimization" (ICLR 2018), and
Verma et al., "Manifold Mixup" (ICML 2019): l x + (1 - l) x' with the same shares of the two labels,
l ~ Beta(alpha, alpha), one l for a batch, whose partners are the batch in another order.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import one_hot

from fedloge.config import Config
from fedloge.errors import ConfigError
from fedloge.models.backbone import Backbone
from fedloge.models.network import Network
from fedloge.rng import rng


@dataclass(frozen=True)
class Mix:
    """How one batch is mixed.

    Attributes
    ----------
    share : l, of an example itself; 1 - l is its partner's.
    partner : for each example of the batch, the place of its partner.
    layers : whose outputs are mixed, the same layer of each backbone of the network; none: the inputs.
    """

    share: float
    partner: Int[Tensor, " batch"]
    layers: tuple[nn.Module, ...] = ()

    def of(self, values: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """l v + (1 - l) v', for anything with one row per example."""
        return self.share * values + (1 - self.share) * values[self.partner]

    def labels(self, labels: Tensor, num_classes: int) -> Float[Tensor, "batch classes"]:
        """The shares of the classes in the mixed examples, of classes or of shares."""
        shares = one_hot(labels, num_classes).float() if labels.ndim == 1 else labels
        return self.of(shares)

    def features(self, backbone: nn.Module, inputs: Tensor) -> Tensor:
        """What a backbone makes of the batch, mixed where this mix says."""
        with self.inside():
            out: Tensor = backbone(inputs if self.layers else self.of(inputs))
        return out

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Within it the first output of each of `layers` is mixed; nothing if the inputs are."""
        called: set[nn.Module] = set()

        def hook(module: nn.Module, args: object, out: Tensor) -> Tensor | None:
            if module in called:  # a layer that is used again sees features that are mixed already
                return None
            called.add(module)
            if not isinstance(out, Tensor) or out.shape[:1] != self.partner.shape:
                raise ConfigError(
                    f"mixup-at: layer {type(module).__name__} gives no tensor with one row per example "
                    "to be mixed; set mixup-at=inputs"
                )
            return self.of(out)

        handles = [layer.register_forward_hook(hook) for layer in self.layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        if self.layers and not called:
            raise ConfigError(
                f"mixup-at: layer {type(self.layers[0]).__name__} is not used in training, so labels would "
                "be mixed without features; set mixup-at=inputs"
            )


class Mixer:
    """Draws how a client's batches of one round are mixed, from (seed, round, client).

    Parameters
    ----------
    by_method : the method mixes within its own loss, which reads `now`; else inputs and labels that
        the loss gets are mixed.

    Attributes
    ----------
    now : the mix of the batch that is being trained on, if the method mixes itself.
    """

    def __init__(
        self, config: Config, num_classes: int, *, round: int, client: int, by_method: bool
    ) -> None:
        self.config, self.num_classes, self.by_method = config, num_classes, by_method
        self.now: Mix | None = None
        self._generator = rng(config.seed, "mixup", round, client)

    def draw(self, net: Network, inputs: Tensor) -> Mix:
        """The mix of the next batch.

        `ConfigError`: the inputs are whole numbers, such as token ids, and inputs are to be mixed.
        """
        alpha, generator = self.config.mixup, self._generator
        share = float(generator.beta(alpha, alpha))
        partner = torch.from_numpy(generator.permutation(len(inputs))).to(inputs.device)
        if self.config.mixup_at == "inputs":
            if not inputs.is_floating_point():
                raise ConfigError(
                    "mixup: inputs that are whole numbers, such as token ids, cannot be mixed; "
                    "set mixup-at=layers"
                )
            return Mix(share, partner)
        backbones = [hidden_layers(part) for part in net.children() if isinstance(part, Backbone)]
        places = [*zip(*backbones, strict=True)]
        if inputs.is_floating_point():
            places.append(())
        return Mix(share, partner, places[int(generator.integers(len(places)))])

    def step(
        self,
        train: Callable[[Tensor, Tensor], Tensor],
        net: Network,
        inputs: Tensor,
        labels: Tensor,
    ) -> Tensor:
        """One training step on a mixed batch; returns what `train` does."""
        mix = self.draw(net, inputs)
        if self.by_method:
            self.now = mix
            return train(inputs, labels)
        with mix.inside():
            mixed = inputs if mix.layers else mix.of(inputs)
            return train(mixed, mix.labels(labels, self.num_classes))


def hidden_layers(backbone: nn.Module) -> list[nn.Module]:
    """A backbone's own parts, in order; of a lone part, such as one `nn.Sequential`, its parts."""
    parts = list(backbone.children())
    while len(parts) == 1 and list(parts[0].children()):
        parts = list(parts[0].children())
    return parts or [backbone]
