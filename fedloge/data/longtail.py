"""Long tails: how many examples of each class are kept, and which.

The exponential curve is that of Cui et al., "Class-Balanced Loss Based on Effective
Number of Samples" (CVPR 2019); the step curve that of Buda et al. (Neural Networks 2018). The Pareto
curve falls faster at first, as ImageNet-LT's does (Liu et al., CVPR 2019).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedloge.config.reading import read_json
from fedloge.errors import DataError
from fedloge.options import Options, Positive, checked_options


class ParetoOptions(Options):
    """Options of ``long-tail = "pareto"``.

    `power`: how fast it falls at first; larger is nearer to the exponential curve. 3 gives ImageNet-LT's
    total from its largest and smallest class (117,195 images for its 115,846).
    """

    power: Positive = 3.0


class CountsOptions(Options):
    """Options of ``long-tail = "counts"``.

    `file`: a JSON list with the number of examples to keep of each class, in the order of the classes.
    """

    file: str


_OPTIONS: Mapping[str, type[Options]] = {"pareto": ParetoOptions, "counts": CountsOptions}


def long_tail_counts(
    num_classes: int,
    largest: int,
    imbalance_factor: float,
    kind: str,
    options: Mapping[str, Any] | None = None,
) -> list[int]:
    """Number of examples of each class, largest class first; for ``counts`` in the order of the file.

    Parameters
    ----------
    num_classes : C, at least 1.
    largest : n_max, the number of examples of class 0.
    imbalance_factor : IF, size of the smallest class over that of the largest, in (0, 1].
    kind : ``exp``: floor(n_max * IF^(c / (C - 1))); ``step``: n_max for the first half of the
        classes (rounded up), floor(n_max * IF) for the others; ``pareto``:
        floor(n_max * (1 + (IF^(-1/a) - 1) c / (C - 1))^-a) with the power a; ``counts``: as a file says;
        ``none``: n_max for all.
    options : those of the kind, kebab-case.

    Raises
    ------
    ConfigError
        The kind has no such option.
    DataError
        The file cannot be read, or has another number of classes.
    """
    given = checked_options(
        _OPTIONS.get(kind, Options), options or {}, f"long-tail-options of {kind!r}"
    )
    if isinstance(given, CountsOptions):
        counts = counts_of_file(Path(given.file).expanduser())
        if len(counts) != num_classes:
            raise DataError(
                f"long-tail-options.file: {given.file} has the counts of {len(counts)} classes, the training "
                f"set has {num_classes}; give one for each"
            )
        return counts
    if kind == "none" or num_classes == 1:
        return [largest] * num_classes
    if kind == "step":
        head = (num_classes + 1) // 2
        return [largest] * head + [int(largest * imbalance_factor)] * (num_classes - head)
    last = num_classes - 1
    if isinstance(given, ParetoOptions):
        steep = imbalance_factor ** (-1 / given.power) - 1
        # The last class has n_max * IF, which rounding must not take one from.
        return [
            int(largest * (1 + steep * c / last) ** -given.power + 1e-6) for c in range(last + 1)
        ]
    return [int(largest * imbalance_factor ** (c / last)) for c in range(num_classes)]


def long_tail_indices(
    labels: NDArray[np.integer],
    imbalance_factor: float,
    kind: str,
    options: Mapping[str, Any] | None = None,
) -> NDArray[np.int64]:
    """Indices of a long-tailed subset: the first examples of each class in the data set's order.

    The curve starts from the size of class 0. Indices are ordered class by class, class 0
    first. ``none`` keeps every example, in this order too.

    Raises
    ------
    ConfigError
        The kind has no such option.
    DataError
        A class has fewer examples than the curve asks for, or the curve asks for none.
    """
    available = np.bincount(labels)
    by_class = np.argsort(labels, kind="stable").astype(np.int64)
    if not len(labels):
        return by_class
    wanted = long_tail_counts(len(available), int(available[0]), imbalance_factor, kind, options)
    if kind == "none":
        return by_class
    remedy = (
        "change the file" if kind == "counts" else f"raise imbalance-factor ({imbalance_factor:g})"
    )
    for c, (want, have) in enumerate(zip(wanted, available, strict=True)):
        if want < 1:
            raise DataError(
                f"long-tail {kind!r}: class {c} would keep none of its {have} examples; {remedy}"
            )
        if want > have:
            raise DataError(
                f"long-tail {kind!r} asks for {want} examples of class {c}, which has {have}; "
                'set long-tail = "none" to take the data set as it is'
            )
    starts = np.cumsum(available) - available
    return np.concatenate(
        [by_class[start : start + want] for start, want in zip(starts, wanted, strict=True)]
    )


def said_of_tail(kind: str, kept: int, of: int) -> str:
    """What a long tail left out, as half a sentence.

    >>> said_of_tail("exp", 308, 1050)
    'long-tail exp keeps 308 of 1,050 training images'
    """
    return f"long-tail {kind} keeps {kept:,} of {of:,} training images"


def counts_of_file(path: Path) -> list[int]:
    """Images of each class, from a JSON list. `DataError`: it cannot be read, or is no such list."""
    expected = "a JSON list of whole numbers, the number of examples of each class"
    counts = read_json(path, "counts of classes", expected, DataError)
    if not isinstance(counts, list) or not all(type(n) is int and n >= 0 for n in counts):
        raise DataError(f"counts of classes: {path}: expected {expected}")
    return counts
