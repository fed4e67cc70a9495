"""One client's data in one round, as local training sees it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from fedloge.config import Config
from fedloge.data.examples import Examples, Preparation
from fedloge.rng import rng

EVALUATION_BATCH = 256
"""Examples per forward pass where nothing is trained; always the same, so that bits are too."""

Batches = Iterator[tuple[Shaped[Tensor, "batch ..."], Int[Tensor, " batch"]]]


class Recorder(Protocol):
    """Makes of a training step one that is recorded and replayed (`fedloge.learning.fast`)."""

    def recorded(self, step: Any, purpose: str, *, uniform: bool) -> tuple[Any, Any]:
        """The step whose terms count, and what to call in its place."""
        ...


@dataclass(frozen=True)
class ClientData:
    """One client in one round: its examples and what a method may know of them.

    Attributes
    ----------
    client : partition id.
    train : the client's training examples, raw, on the training device.
    counts : training examples of each class, on the training device.
    preparation : how inputs become what the network takes.
    received : the shared tensors as this round began (the anchor of FedProx or Ditto).
    validation : examples of the client's that are held out from training; None where none are.
    rounds_trained : rounds in which this client has trained before; 0 means never.
    recorder : records training steps and replays them; None: steps are taken one by one.
    """

    client: int
    round: int
    config: Config
    train: Examples
    counts: Int[Tensor, " classes"]
    preparation: Preparation
    received: Mapping[str, Tensor] = field(repr=False)
    validation: Examples | None = None
    rounds_trained: int = 0
    recorder: Recorder | None = field(default=None, repr=False)

    def batches(
        self, epochs: int, purpose: str = "train", batch_size: int | None = None
    ) -> Batches:
        """Shuffled, augmented, prepared batches; the last of an epoch may be smaller.

        Many batches are augmented at once, so that an example costs a gather, not a Python call.
        """
        size = batch_size or self.config.batch_size
        chunk = size * max(1, 2048 // size)
        generator = rng(self.config.seed, purpose, self.round, self.client)
        for _ in range(epochs):
            order = torch.from_numpy(generator.permutation(len(self.train)))
            for indices in order.to(self.train.device).split(chunk):
                inputs = self.preparation.augment(self.train.inputs[indices], generator)
                yield from zip(
                    self.preparation.prepare(inputs).split(size),
                    self.train.labels[indices].split(size),
                    strict=True,
                )

    def plain_batches(self) -> Batches:
        """The training examples in their order, not augmented: for statistics and tuning on features."""
        for start in range(0, len(self.train), EVALUATION_BATCH):
            part = slice(start, start + EVALUATION_BATCH)
            yield self.preparation.prepare(self.train.inputs[part]), self.train.labels[part]
