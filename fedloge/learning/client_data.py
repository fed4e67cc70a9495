"""One client's data in one round, as local training sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from fedloge.config import Config
from fedloge.data.examples import Examples, Preparation
from fedloge.learning.local_privacy import LocalPrivacy
from fedloge.learning.mixup import Mixer
from fedloge.models.network import Network
from fedloge.rng import rng

EVALUATION_BATCH = 256
"""Examples per forward pass where nothing is trained. One size everywhere: it changes the last bits."""

Labelled = tuple[Float[Tensor, "examples features"], Int[Tensor, " examples"]]
Batches = Iterator[tuple[Shaped[Tensor, "batch ..."], Int[Tensor, " batch"]]]


class Recorder(Protocol):
    """Turns a training step into one that is recorded once and then replayed (`fedloge.learning.fast`)."""

    def recorded(self, step: Any, purpose: str, *, uniform: bool) -> tuple[Any, Any]:
        """The step that names the loss terms, and the function to call in its place; see `Step`."""
        ...


@dataclass(frozen=True)
class InEvaluation:
    """What an evaluation has of a client anyway, for probes; each is computed when first asked for, once.

    Attributes
    ----------
    train : shared features of the client's training examples, not augmented, and their labels.
    test : shared features and classes of the client's test examples.
    test_for : the same of test examples as one of `personal` sees them.
    personal : the client's models by name, of type `fedloge.models.head.Predictor`.
    untold : by ``train`` and ``test``, which classes the site has too few examples of to tell of
        them; {}: all may be told.
    """

    train: Callable[[], Labelled]
    test: Callable[[], Labelled]
    test_for: Callable[[Any], Labelled]
    personal: Callable[[], Mapping[str, Any]]
    untold: Mapping[str, Bool[Tensor, " classes"]] = field(default_factory=dict)


@dataclass(frozen=True)
class ClientData:
    """One client in one round: its examples, and all that a method may know of it.

    Attributes
    ----------
    client : number of the client, 0 .. num-clients - 1.
    round : number of the round, from 1.
    train : the client's training examples, raw, on the training device.
    counts : how many training examples it has of each class, on the training device.
    preparation : how inputs become what the network takes.
    received : the shared tensors as the server sent them in this round, by name.
    validation : the client's examples that are held out from training; None if none are.
    rounds_trained : rounds in which this client has trained before; 0 means never.
    recorder : records training steps and replays them (config ``fast``); None: plain steps.
    mixer : mixes the batches of local training (config ``mixup``); None: they are not mixed.
    measured : in an evaluation, what it has of the client; None in training.
    privacy : how `fedloge.learning.loop.sgd` makes its steps private; None: plain steps.
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
    mixer: Mixer | None = field(default=None, repr=False)
    measured: InEvaluation | None = field(default=None, repr=False)
    privacy: LocalPrivacy | None = field(default=None, repr=False)

    @property
    def who(self) -> str:
        """How messages to the user call it."""
        return f"client {self.client}"

    def batches(
        self,
        epochs: int,
        purpose: str = "train",
        batch_size: int | None = None,
        through: Callable[[Tensor], Tensor] | None = None,
    ) -> Batches:
        """Shuffled, augmented and prepared batches; the last of an epoch may be smaller.

        Many batches are made in one call, which costs less than a call per batch.

        Parameters
        ----------
        epochs : passes over the training examples.
        purpose : names the draws of shuffling and augmentation (see `fedloge.rng.rng`).
        batch_size : examples per batch; None: ``batch-size`` of the config.
        through : what a frozen backbone makes of prepared inputs, in the place of these.
        """
        size = batch_size or self.config.batch_size
        chunk = size * max(1, 2048 // size)
        generator = rng(self.config.seed, purpose, self.round, self.client)
        for _ in range(epochs):
            order = torch.from_numpy(generator.permutation(len(self.train)))
            for indices in order.to(self.train.device).split(chunk):
                inputs = self.preparation.augment(
                    self.train.inputs.index_select(0, indices), generator
                )
                prepared = self.preparation.prepare(inputs)
                made = through(prepared) if through else prepared
                yield from zip(
                    made.split(size),
                    self.train.labels.index_select(0, indices).split(size),
                    strict=True,
                )

    def plain_batches(self) -> Batches:
        """The training examples in order, not augmented: for statistics and for tuning on features."""
        for start in range(0, len(self.train), EVALUATION_BATCH):
            part = slice(start, start + EVALUATION_BATCH)
            yield self.preparation.prepare(self.train.inputs[part]), self.train.labels[part]

    def plain_features(self, features: Callable[[Tensor], Tensor]) -> Labelled:
        """What ``features`` makes of `plain_batches`, and the labels; the caller sets the mode."""
        parts = [(features(x), y) for x, y in self.plain_batches()]
        return torch.cat([h for h, _ in parts]), torch.cat([y for _, y in parts])

    @torch.no_grad()
    def train_features(self, net: Network, features: Callable[[Any, Tensor], Tensor]) -> Labelled:
        """Shared features, ``features(net, inputs)``, and labels of all training examples, not augmented.

        Sets evaluation mode. In an evaluation they are computed once, for all that ask.
        """
        net.eval()
        if self.measured is not None:
            return self.measured.train()
        return self.plain_features(partial(features, net))
