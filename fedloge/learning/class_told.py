"""What the sums that a client sends tell of its single classes, as a method or a probe declares it.

A site's policy reads this. Sums that nobody has declared are taken for the most telling kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ClassTold:
    """What sums tell of single classes.

    Attributes
    ----------
    counts : whether they tell how many examples of a class a client holds.
    sums : whether they hold sums over the examples of a class, such as of features or gradients. For
        a class of one example that is this example's own feature or gradient.
    leaves_out : whether what makes the sums leaves out the classes that may not be told, by
        ``client.measured.untold``, so that a policy has nothing to take out of them.
    of : the examples that are summed: those the client trains on, holds out, or tests on.

    Where either is true, the first axis of each tensor is the class, unless the maker leaves them out.
    """

    counts: bool = True
    sums: bool = True
    leaves_out: bool = False
    of: Literal["train", "validation", "test"] = "train"


NOTHING_OF_CLASSES = ClassTold(counts=False, sums=False)
"""Sums over all examples of a client alike."""
