"""A round of a method that trains on all clients' examples at one place, as a simulation can."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from fedloge.errors import RunError, UpdateError
from fedloge.federation import Federation
from fedloge.learning.pooled_data import steps_of
from fedloge.messages import check_update
from fedloge.methods.method import Part
from fedloge.rng import torch_seeded


class PooledTraining:
    """Trains in the server's process, for as many steps as the clients of a round would take together.

    Parameters
    ----------
    sample : the clients drawn for a round, by its number.
    """

    def __init__(self, federation: Federation, sample: Callable[[int], Sequence[int]]) -> None:
        self._federation, self._sample = federation, sample
        self._steps: list[int] = []  # of the rounds so far, from the first

    def train(
        self, round: int, shared: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, float], int]:
        """Train `shared` for a round; returns the tensors, figures, and how many images were passed through.

        `RunError`: training diverged.
        """
        fed, config = self._federation, self._federation.config
        while len(self._steps) < round:
            self._steps.append(self._steps_of(len(self._steps) + 1))
        net = fed.load(shared, fed.initial[Part.PERSONAL])
        data = fed.pooled_data(round, shared, sum(self._steps[: round - 1]), self._steps[round - 1])
        try:
            with torch_seeded(config.seed, "local-update", round):
                update = fed.method.local_update(net, data)
            trained = {name: t.clone() for name, t in fed.tensors(Part.SHARED).items()}
            check_update(trained, dict(shared))
        except UpdateError as exc:
            raise RunError(f"round {round}: {exc}") from None
        figures = {f"train/{name}": value for name, value in update.metrics.items()}
        return trained, figures, self._images(data.first_step, data.steps)

    def _steps_of(self, round: int) -> int:
        config, held = self._federation.config, self._federation.partition.train
        examples = [len(held[client]) for client in self._sample(round)]
        return steps_of(examples, epochs=config.local_epochs, batch_size=config.batch_size)

    def _images(self, first: int, steps: int) -> int:
        total = len(self._federation.partition.trained_on)
        size = self._federation.config.batch_size
        per_pass = -(-total // size)

        def passed(step: int) -> int:
            passes, rest = divmod(step, per_pass)
            return passes * total + min(rest * size, total)

        return passed(first + steps) - passed(first)
