"""SGD as `torch.optim.SGD` computes it, without what that class costs a small client."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim.sgd import sgd as sgd_step

from fedloge.config import Config


class Sgd:
    """SGD with momentum as `torch.optim.SGD` computes it, one fused step for all parameters.

    Constructing `torch.optim.SGD` imports torch's compiler, which takes seconds, and its hooks
    cost a client with few examples more than its training. A parameter without a gradient stays.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        velocities: Iterable[Tensor] = (),
    ) -> None:
        """`velocities`: tensors to keep the momentum in, one per parameter; without them it makes its own."""
        self.parameters = list(parameters)
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self._velocity: dict[nn.Parameter, Tensor] = dict(
            zip(self.parameters, velocities, strict=False)
        )

    @classmethod
    def of(
        cls, config: Config, parameters: Iterable[nn.Parameter], velocities: Iterable[Tensor] = ()
    ) -> Sgd:
        """An optimiser with the learning rate, momentum and weight decay of a config."""
        return cls(
            parameters,
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            velocities=velocities if config.momentum else (),
        )

    def reset(self) -> list[Tensor]:
        """Set every velocity to zero, in the same memory; returns the velocities.

        The next step is then a fresh optimiser's: momentum * 0 + gradient.
        """
        if self.momentum:
            for parameter in self.parameters:
                self._velocity.setdefault(parameter, torch.zeros_like(parameter)).zero_()
        return list(self._velocity.values())

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """v <- momentum v + gradient + weight_decay p, the first time without momentum; p <- p - lr v."""
        # One fused step for the parameters that have a velocity, one for those that move first now.
        for known in (True, False):
            moved = [
                (p, p.grad, self._velocity.get(p))
                for p in self.parameters
                if p.grad is not None and (p in self._velocity) is known
            ]
            if not moved:
                continue
            parameters, gradients, velocities = map(list, zip(*moved, strict=True))
            sgd_step(
                parameters,
                gradients,
                velocities,
                fused=True,
                weight_decay=self.weight_decay,
                momentum=self.momentum,
                lr=self.lr,
                dampening=0.0,
                nesterov=False,
                maximize=False,
            )
            if self.momentum and not known:
                self._velocity |= zip(parameters, velocities, strict=True)
