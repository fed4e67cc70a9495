"""What a data set is, by digests of what was decoded: a run is resumed on the data it was started with.

Every example counts, those that a long tail leaves out and those for testing included, with its bytes as
they were decoded (before augmentation and normalisation), its label and its place. Of each example the
CRC-32 is taken. A source that has decoded its images once knows them and nothing is read again; of any
other source all bytes are read, once in each process, at about a second for a gigabyte. The digests
tell data that have changed from data that have not; they are no defence against someone who forges data.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt32
from torch import Tensor

from fedloge.data.examples import DataSet, Examples
from fedloge.digest import digest

_NAMED = 4
"""So many classes are named in a sentence about what has changed."""


@dataclass(frozen=True)
class Content:
    """What a data set is.

    Parameters
    ----------
    classes : the class names in their order.
    train, test : for each class a digest of its examples, in their order.
    labels : a digest of all labels, in the order of the examples.
    """

    classes: tuple[str, ...]
    train: tuple[str, ...]
    test: tuple[str, ...]
    labels: str

    @property
    def digest(self) -> str:
        """One digest of it all."""
        return digest(json.dumps(self.described()).encode())

    def described(self) -> dict[str, Any]:
        """As JSON values, from which `of` makes it again."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> Content:
        """What `described` has described; `KeyError`, `TypeError` or `ValueError` for anything else."""
        lists = {key: tuple(described[key]) for key in ("classes", "train", "test")}
        if not all(isinstance(text, str) for values in lists.values() for text in values):
            raise ValueError("digests and names of classes are texts")
        if {len(lists["train"]), len(lists["test"])} != {len(lists["classes"])}:
            raise ValueError("expected a digest for each class")
        return cls(**lists, labels=str(described["labels"]))


def content_of(data: DataSet) -> Content:
    """The digests of a data set."""
    labels = [part.labels.cpu().contiguous().numpy().tobytes() for part in (data.train, data.test)]
    return Content(
        data.classes,
        _by_class(data.train, data.num_classes),
        _by_class(data.test, data.num_classes),
        digest(*labels),
    )


def checksums(inputs: Tensor) -> UInt32[np.ndarray, " examples"]:
    """The CRC-32 of each input's bytes."""
    if not inputs.numel():
        return np.zeros(len(inputs), np.uint32)
    rows = inputs.cpu().reshape(len(inputs), -1).contiguous().view(torch.uint8).numpy()
    return np.fromiter(map(zlib.crc32, rows), np.uint32, len(rows))


def _by_class(examples: Examples, classes: int) -> tuple[str, ...]:
    known = examples.checks
    checks = checksums(examples.inputs) if known is None else np.asarray(known, dtype=np.uint32)
    form = json.dumps([str(examples.inputs.dtype), list(examples.inputs.shape[1:])]).encode()
    labels = examples.classes.cpu().numpy()
    order = np.argsort(labels, kind="stable")
    ends = np.cumsum(np.bincount(labels, minlength=classes))[:-1]
    return tuple(digest(form, own.astype("<u4").tobytes()) for own in np.split(checks[order], ends))


def changed(before: Content, now: Content) -> str:
    """What of the data has changed, as a clause of a sentence; empty if nothing has."""
    if before == now:
        return ""
    if before.classes != now.classes:
        return _classes_changed(before.classes, now.classes)
    said = [
        _images_changed(split, old, new, before.classes)
        for split, old, new in (
            ("training", before.train, now.train),
            ("test", before.test, now.test),
        )
        if old != new
    ]
    return " and ".join(said) or "the order or the labels of its examples are others"


def _classes_changed(before: Sequence[str], now: Sequence[str]) -> str:
    gone = [name for name in before if name not in now]
    new = [name for name in now if name not in before]
    if not gone and not new:
        return "its classes have another order"
    words = [f"{_listed(names)} {what}" for names, what in ((gone, "gone"), (new, "new")) if names]
    return f"its classes are others: {', '.join(words)}"


def _images_changed(
    split: str, before: Sequence[str], now: Sequence[str], classes: Sequence[str]
) -> str:
    differ = [i for i, (old, new) in enumerate(zip(before, now, strict=True)) if old != new]
    swapped = [
        (i, j)
        for i in differ
        for j in differ
        if i < j and before[i] == now[j] and before[j] == now[i]
    ]
    exchanged = [f"those of {classes[i]!r} and {classes[j]!r} are exchanged" for i, j in swapped]
    other = [classes[i] for i in differ if all(i not in pair for pair in swapped)]
    words = exchanged[:_NAMED]
    if other:
        words.append(f"those of {_listed(other)} are others than before")
    return f"of its {split} examples {', '.join(words)}"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:_NAMED]))
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED} more classes"
