"""All clients' examples at one place, as no federation has them: what centralised training sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedloge.learning.client_data import Batches, ClientData
from fedloge.rng import rng


@dataclass(frozen=True)
class PooledData(ClientData):
    """The training examples of all clients in one round, and the steps to take on them.

    The steps of a run are numbered from 0. They go through the examples in passes, each in an order
    of its own. A round takes up where the one before ended, so a run's batches do not depend on how
    its steps are split into rounds.

    Attributes
    ----------
    first_step : number of the round's first step in the run.
    steps : how many steps the round takes.
    """

    first_step: int = 0
    steps: int = 0

    @property
    def who(self) -> str:
        """How messages to the user call it."""
        return "centralised training"

    def batches(
        self,
        epochs: int,
        purpose: str = "train",
        batch_size: int | None = None,
        through: Callable[[Tensor], Tensor] | None = None,
    ) -> Batches:
        """The round's batches, shuffled, augmented and prepared; the last of a pass may be smaller.

        `epochs` is not read: the number of steps is set. The others are as for a client.
        """
        size, seed = batch_size or self.config.batch_size, self.config.seed
        per_pass = -(-len(self.train) // size)
        at_once = max(1, 2048 // size)  # batches that are augmented in one call
        step, end = self.first_step, self.first_step + self.steps
        while step < end:
            number, place = divmod(step, per_pass)
            part, skipped = divmod(place, at_once)
            order = torch.from_numpy(
                rng(seed, f"pooled-{purpose}", number).permutation(len(self.train))
            )
            chunk = size * at_once
            indices = order[part * chunk : (part + 1) * chunk].to(self.train.device)
            draws = rng(seed, f"pooled-{purpose}/augment", number, part)
            inputs = self.preparation.augment(self.train.inputs.index_select(0, indices), draws)
            prepared = self.preparation.prepare(inputs)
            made = (through(prepared) if through else prepared).split(size)
            labels = self.train.labels.index_select(0, indices).split(size)
            for batch in list(zip(made, labels, strict=True))[skipped : skipped + end - step]:
                yield batch
                step += 1


def steps_of(examples: Sequence[int], *, epochs: int, batch_size: int) -> int:
    """SGD steps that clients with so many examples take together in a round."""
    return sum(epochs * -(-count // batch_size) for count in examples)
