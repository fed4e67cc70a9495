"""Examples: inputs of any kind and their labels, and how inputs become what a network takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float, Int64, Shaped, UInt32
from numpy.typing import NDArray
from torch import Tensor

from fedloge.data.manifest import Manifest
from fedloge.errors import DataError

Labels = Int64[Tensor, " examples"] | Float[Tensor, "examples classes"]


@dataclass(frozen=True)
class Examples:
    """Inputs and labels of one set of examples.

    Parameters
    ----------
    inputs : (examples, ...) of any shape and dtype: uint8 images, cached features, token ids.
    labels : (examples,), int64, 0..classes-1; or (examples, classes), for each example the shares
        of the classes, which sum to 1 (soft labels; not every loss takes them).
    checks : the CRC-32 of each input's bytes, where the source knows them; None: they are computed
        where they are asked for (`fedloge.data.content`).
    """

    inputs: Shaped[Tensor, "examples ..."]
    labels: Labels
    checks: UInt32[np.ndarray, " examples"] | None = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def device(self) -> torch.device:
        """The device that they are on."""
        return self.labels.device

    @property
    def classes(self) -> Int64[Tensor, " examples"]:
        """The class of each example; for soft labels the one with the largest share."""
        return self.labels if self.labels.ndim == 1 else self.labels.argmax(dim=1)

    def take(self, indices: NDArray[np.integer] | Int64[Tensor, " chosen"]) -> Examples:
        """A copy of the chosen examples, in the order of `indices`; repeats are allowed.

        All of them in their own order are not copied: they may be a file that is larger than memory.
        """
        chosen = torch.as_tensor(indices, dtype=torch.int64, device=self.device)
        if len(chosen) == len(self) and torch.equal(
            chosen, torch.arange(len(self), device=self.device)
        ):
            return self
        checks = None if self.checks is None else self.checks[chosen.cpu().numpy()]
        # Several times faster than indexing, whose kernel moves element by element.
        inputs, labels = (t.index_select(0, chosen) for t in (self.inputs, self.labels))
        return Examples(inputs, labels, checks)

    def to(self, device: torch.device) -> Examples:
        """The same examples on a device."""
        return Examples(self.inputs.to(device), self.labels.to(device), self.checks)


class Preparation(Protocol):
    """How raw inputs become what a network takes: in training they are augmented, and always prepared."""

    def augment(self, inputs: Tensor, generator: np.random.Generator) -> Tensor:
        """A batch of raw inputs, varied at random by `generator`; same shape and dtype."""
        ...

    def prepare(self, inputs: Tensor) -> Tensor:
        """A batch of raw inputs as the network takes it; an input does not depend on the others."""
        ...

    def described(self) -> dict[str, object]:
        """What an exported model needs to prepare inputs again, as JSON values."""
        ...


@dataclass(frozen=True)
class AsTheyAre:
    """The preparation of inputs that a network takes as they are: features, token ids.

    Half-precision features are widened to float32.
    """

    def augment(self, inputs: Tensor, generator: np.random.Generator) -> Tensor:
        """The inputs, not varied."""
        return inputs

    def prepare(self, inputs: Tensor) -> Tensor:
        """Floating point numbers as float32, integers as they are."""
        return inputs.float() if inputs.is_floating_point() else inputs

    def described(self) -> dict[str, object]:
        """The kind of preparation, which has no parameters."""
        return {"kind": "as-they-are"}


@dataclass(frozen=True)
class DataSet:
    """A training and a test set over the same classes.

    Parameters
    ----------
    name : its name in messages and records.
    train, test : the examples; all inputs have one shape and dtype.
    classes : class names; a label is a position in this tuple.
    preparation : how inputs become what a network takes.
    train_manifest, test_manifest : what else is known of each example (where it came from, at which
        site), in the order of the examples; None if the source does not say.

    Raises
    ------
    DataError
        A manifest has another number of rows than there are examples.
    """

    name: str
    train: Examples
    test: Examples
    classes: tuple[str, ...]
    preparation: Preparation
    train_manifest: Manifest | None = field(default=None, repr=False)
    test_manifest: Manifest | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for split, examples, manifest in (
            ("train", self.train, self.train_manifest),
            ("test", self.test, self.test_manifest),
        ):
            if manifest is not None and len(manifest) != len(examples):
                raise DataError(
                    f"data set {self.name!r}: the manifest of {split} has {len(manifest)} rows for "
                    f"{len(examples)} examples; expected one for each"
                )

    @property
    def train_origins(self) -> Sequence[str]:
        """Where each training example came from: the manifest's paths; empty if it has none."""
        return _paths(self.train_manifest)

    @property
    def test_origins(self) -> Sequence[str]:
        """Where each test example came from: the manifest's paths; empty if it has none."""
        return _paths(self.test_manifest)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input: (channels, height, width) of images."""
        return tuple(self.train.inputs.shape[1:])

    @property
    def network_shape(self) -> tuple[int, ...]:
        """Shape of one prepared input, as the network takes it."""
        return tuple(self.blank_inputs(1).shape[1:])

    def blank_inputs(self, count: int) -> Tensor:
        """A prepared batch of `count` all-zero inputs, to find out the shapes in a network."""
        raw = torch.zeros(count, *self.input_shape, dtype=self.train.inputs.dtype)
        return self.preparation.prepare(raw)


def _paths(manifest: Manifest | None) -> Sequence[str]:
    return manifest.column("path") if manifest is not None and "path" in manifest else ()
