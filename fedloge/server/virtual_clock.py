"""A simulation's clock: when each client would have answered, if clients had unlike speeds.

Time is in seconds from the beginning of the run, and passes while clients train; averaging, measuring
and messages take none. All of it depends on the config alone, so that a simulation gives the same
arrivals on every engine, and after a resume.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fedloge.config import Config
from fedloge.rng import rng

CLOCK = "clock."
"""What the names of its tensors in a checkpoint begin with."""


class VirtualClock:
    """The time now, and until when each client is busy.

    A client does one thing after the other, as a node of Flower's: one that is asked while it still
    works at something nobody waits for begins when that is done.

    Parameters
    ----------
    kept : the tensors of a checkpoint, of which those of a clock are read; empty for a new run.

    Attributes
    ----------
    now : seconds since the run began.
    """

    def __init__(self, config: Config, kept: Mapping[str, Tensor]) -> None:
        self._config = config
        nobody = torch.zeros(config.num_clients, dtype=torch.float64)
        self.now = float(kept.get(f"{CLOCK}now", torch.zeros(1, dtype=torch.float64)))
        self._free: list[float] = kept.get(f"{CLOCK}free", nobody).tolist()

    def slowness(self, client: int) -> float:
        """How many times as long an example takes this client as the fastest there may be.

        Log-uniform from 1 to ``speed-spread``.
        """
        drawn = rng(self._config.seed, "client-speed", client=client).random()
        return float(max(1.0, self._config.speed_spread) ** drawn)

    def answered(self, client: int, examples: int) -> float:
        """When a client that is asked now, to train on so many examples, will have answered."""
        work = examples * self._config.local_epochs * self._config.example_seconds
        self._free[client] = max(self.now, self._free[client]) + work * self.slowness(client)
        return self._free[client]

    def state(self) -> dict[str, Tensor]:
        """Its tensors, for a checkpoint."""
        return {
            f"{CLOCK}now": torch.tensor([self.now], dtype=torch.float64),
            f"{CLOCK}free": torch.tensor(self._free, dtype=torch.float64),
        }
