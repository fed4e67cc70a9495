"""Long tails: how many examples of each class are kept, and which.

The exponential curve is that of Cui et al., "Class-Balanced Loss Based on Effective
Number of Samples" (CVPR 2019); the step curve that of Buda et al. (Neural Networks 2018).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedloge.errors import DataError

LongTail = Literal["exp", "step", "none"]


def long_tail_counts(
    num_classes: int, largest: int, imbalance_factor: float, kind: LongTail
) -> list[int]:
    """Number of examples of each class, largest class first.

    Parameters
    ----------
    num_classes : C, at least 1.
    largest : n_max, the number of examples of class 0.
    imbalance_factor : IF, size of the smallest class over that of the largest, in (0, 1].
    kind : ``exp``: floor(n_max * IF^(c / (C - 1))); ``step``: n_max for the first half of the
        classes (rounded up), floor(n_max * IF) for the others; ``none``: n_max for all.
    """
    if kind == "none" or num_classes == 1:
        return [largest] * num_classes
    if kind == "step":
        head = (num_classes + 1) // 2
        return [largest] * head + [int(largest * imbalance_factor)] * (num_classes - head)
    return [int(largest * imbalance_factor ** (c / (num_classes - 1))) for c in range(num_classes)]


def long_tail_indices(
    labels: NDArray[np.integer], imbalance_factor: float, kind: LongTail
) -> NDArray[np.int64]:
    """Indices of a long-tailed subset: the first examples of each class in the data set's order.

    The curve starts from the size of class 0. Indices are ordered class by class, class 0
    first. ``none`` keeps every example, in this order too.

    Raises
    ------
    DataError
        A class has fewer examples than the curve asks for, or the curve asks for none.
    """
    available = np.bincount(labels)
    by_class = np.argsort(labels, kind="stable").astype(np.int64)
    if kind == "none":
        return by_class
    wanted = long_tail_counts(len(available), int(available[0]), imbalance_factor, kind)
    for c, (want, have) in enumerate(zip(wanted, available, strict=True)):
        if want < 1:
            raise DataError(
                f"long-tail {kind!r}: class {c} would keep none of its {have} examples; "
                f"raise imbalance-factor ({imbalance_factor:g})"
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
