"""Server optimisers: the change that a round's average asks for is taken as a gradient (FedOpt).

With theta the shared parameters as the round began and D = average - theta,

- ``fedavgm``: v <- beta v + D; theta <- theta + lr v. Hsu, Qi, Brown 2019, arXiv 1909.06335, section 4.
- ``fedadam``: m <- beta m + (1 - beta) D; v <- beta2 v + (1 - beta2) D^2;
  theta <- theta + lr m / (sqrt(v) + tau). Reddi et al., ICLR 2021, arXiv 2003.00295, algorithm 2.
- ``fedyogi``: the same with v <- v - (1 - beta2) D^2 sign(v - D^2).

As in the paper v starts at tau^2 and nothing is corrected for bias. (Flower's strategies start it at
0, and its FedAdam corrects for bias.) Only parameters that clients train take this step. Buffers,
such as running statistics, and what a method makes on the server are averages as they are.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

import torch
from torch import Tensor

from fedloge.config import Config
from fedloge.errors import RunError, UpdateError
from fedloge.messages import check_update

PREFIX = "server-optimiser/"
"""Begins the names of its tensors in a checkpoint."""
USUAL_LR = {"fedavgm": 1.0, "fedadam": 0.1, "fedyogi": 0.01}
"""What ``server-lr = 0`` stands for: the defaults of Flower's strategies."""


class ServerOptimiser:
    """One optimiser with its state.

    Parameters
    ----------
    names : of the shared tensors that take the step.
    state : as `state` gave it, with other tensors beside it; without its own it starts anew.
    """

    def __init__(
        self, config: Config, names: Collection[str], state: Mapping[str, Tensor] | None = None
    ) -> None:
        self.config, self.names = config, sorted(names)
        self.lr = config.server_lr or USUAL_LR[config.server_optimiser]
        self._state = {k: t for k, t in (state or {}).items() if k.startswith(PREFIX)}

    @property
    def state(self) -> dict[str, Tensor]:
        """Its tensors, for a checkpoint; all names begin with `PREFIX`."""
        return dict(self._state)

    def step(
        self, round: int, before: Mapping[str, Tensor], averaged: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """The shared tensors after the step.

        Parameters
        ----------
        before : the shared tensors as the round began.
        averaged : the average of what the clients sent.

        Raises
        ------
        RunError
            A value is not finite, or too large to be averaged in the next round.
        """
        moved = dict(averaged)
        for name in self.names:
            change = averaged[name] - before[name]
            moved[name] = before[name] + self.lr * self._direction(name, change)
        try:
            check_update(moved, dict(averaged))
        except UpdateError as exc:
            raise RunError(
                f"round {round}: after the step of {self.config.server_optimiser} {exc}; lower server-lr, "
                f"which is {self.lr:g}, then start again"
            ) from None
        return moved

    def _direction(self, name: str, change: Tensor) -> Tensor:
        c = self.config
        first = self._of("momentum", name, change, 0.0)
        if c.server_optimiser == "fedavgm":
            return self._keep("momentum", name, c.server_momentum * first + change)
        first = self._keep(
            "momentum", name, c.server_momentum * first + (1 - c.server_momentum) * change
        )
        second, square = self._of("second", name, change, c.server_tau**2), change.square()
        if c.server_optimiser == "fedadam":
            second = c.server_beta2 * second + (1 - c.server_beta2) * square
        else:
            second = second - (1 - c.server_beta2) * square * torch.sign(second - square)
        second = self._keep("second", name, second)
        return first / (second.sqrt() + c.server_tau)

    def _of(
        self, kind: Literal["momentum", "second"], name: str, like: Tensor, start: float
    ) -> Tensor:
        kept = self._state.get(f"{PREFIX}{kind}/{name}")
        return torch.full_like(like, start) if kept is None else kept

    def _keep(self, kind: Literal["momentum", "second"], name: str, value: Tensor) -> Tensor:
        self._state[f"{PREFIX}{kind}/{name}"] = value
        return value
