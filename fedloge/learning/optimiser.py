"""SGD and AdamW as `torch.optim` computes them, without what its classes cost a small client.

Constructing an optimiser of `torch.optim` imports torch's compiler, which takes seconds, and its
hooks cost a client with few examples more than its training. So its functions are called here, each
as one fused step for all parameters. A parameter without a gradient stays.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw as adamw_step
from torch.optim.sgd import sgd as sgd_step

from fedloge.config import Config


class Optimiser(ABC):
    """Takes steps on parameters by their gradients.

    Attributes
    ----------
    lr : the learning rate; a tensor where recorded steps read it (`keep_lr_in_memory`).
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float) -> None:
        self.parameters = list(parameters)
        self.lr: float | Tensor = lr

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def keep_lr_in_memory(self) -> None:
        """Make the learning rate a tensor beside the parameters, so that recorded steps follow `take_lr`."""
        device = self.parameters[0].device if self.parameters else None
        self.lr = torch.tensor(float(self.lr), device=device)

    def take_lr(self, lr: float | Tensor) -> None:
        """Use this learning rate from now on."""
        if isinstance(self.lr, Tensor):
            self.lr.fill_(float(lr))
        else:
            self.lr = lr

    @abstractmethod
    def reset(self) -> list[Tensor]:
        """Make the next step a fresh optimiser's; returns the tensors that steps change."""

    @abstractmethod
    def step(self) -> None:
        """Move the parameters that have a gradient, in place."""


class Sgd(Optimiser):
    """SGD with momentum as `torch.optim.SGD` computes it."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        velocities: Iterable[Tensor] = (),
    ) -> None:
        """`velocities`: tensors to keep the momentum in, one per parameter; without them it makes its own."""
        super().__init__(parameters, lr)
        self.momentum, self.weight_decay, self.nesterov = momentum, weight_decay, nesterov
        self._velocity: dict[nn.Parameter, Tensor] = dict(
            zip(self.parameters, velocities, strict=False)
        )

    @property
    def is_bare(self) -> bool:
        """Whether a step is p - lr g, without momentum or decay."""
        return not self.momentum and not self.weight_decay

    def reset(self) -> list[Tensor]:
        """Set every velocity to zero: the next step is then momentum * 0 + gradient."""
        if self.momentum:
            for parameter in self.parameters:
                self._velocity.setdefault(parameter, torch.zeros_like(parameter)).zero_()
        return list(self._velocity.values())

    @torch.no_grad()
    def step(self) -> None:
        """v <- momentum v + g, g = gradient + weight_decay p, the first time without momentum; p <- p - lr v.

        With Nesterov's momentum p <- p - lr (g + momentum v).
        """
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
                nesterov=self.nesterov,
                maximize=False,
            )
            if self.momentum and not known:
                self._velocity |= zip(parameters, velocities, strict=True)


class AdamW(Optimiser):
    """AdamW as `torch.optim.AdamW` computes it (Loshchilov and Hutter, ICLR 2019, arXiv 1711.05101)."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, lr)
        self.betas, self.eps, self.weight_decay = betas, eps, weight_decay
        self._state: dict[nn.Parameter, tuple[Tensor, Tensor, Tensor]] = {}

    def reset(self) -> list[Tensor]:
        """Set all moments and step counts to zero."""
        for parameter in self.parameters:
            for tensor in self._of(parameter):
                tensor.zero_()
        return [tensor for own in self._state.values() for tensor in own]

    def _of(self, parameter: nn.Parameter) -> tuple[Tensor, Tensor, Tensor]:
        if parameter not in self._state:
            moments = torch.zeros_like(parameter), torch.zeros_like(parameter)
            self._state[parameter] = (*moments, torch.zeros((), device=parameter.device))
        return self._state[parameter]

    @torch.no_grad()
    def step(self) -> None:
        """p <- p - lr (m / (sqrt(v) + eps) + weight_decay p), m and v corrected for bias."""
        moved = [(p, p.grad, *self._of(p)) for p in self.parameters if p.grad is not None]
        if not moved:
            return
        parameters, gradients, first, second, steps = map(list, zip(*moved, strict=True))
        adamw_step(
            parameters,
            gradients,
            first,
            second,
            [],
            steps,
            fused=True,
            amsgrad=False,
            beta1=self.betas[0],
            beta2=self.betas[1],
            lr=self.lr,
            weight_decay=self.weight_decay,
            eps=self.eps,
            maximize=False,
        )


def optimiser_of(
    config: Config,
    parameters: Iterable[nn.Parameter],
    *,
    lr: float,
    weight_decay: float | None = None,
    velocities: Iterable[Tensor] = (),
) -> Optimiser:
    """A fresh optimiser as a config asks for it.

    Parameters
    ----------
    weight_decay : None: the config's.
    velocities : of SGD, see `Sgd`.
    """
    decay = config.weight_decay if weight_decay is None else weight_decay
    if config.optimiser == "adamw":
        betas = config.adam_beta1, config.adam_beta2
        return AdamW(parameters, lr=lr, betas=betas, eps=config.adam_eps, weight_decay=decay)
    return Sgd(
        parameters,
        lr=lr,
        momentum=config.momentum,
        weight_decay=decay,
        nesterov=config.nesterov,
        velocities=velocities if config.momentum else (),
    )
