"""How far each client's update goes, and which go too far beyond those of the others.

The length of an update is the L2 norm of the shared tensors' change. Lengths are compared by their
powers of two. So a round's updates can be summed as they come, those of one power of two
together, and a power is left out once all have come: no client's tensors are kept, and the order does
not matter.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping

import torch
from torch import Tensor

_STANDING_STILL = -(2**20)
_FEWEST = 3
"""Of fewer answers the median says nothing."""


class UpdateSizes:
    """The lengths of a round's updates.

    Parameters
    ----------
    before : the shared tensors as the clients were sent them.
    factor : an update is refused whose length is more than this many times the median of the
        round, both rounded down to powers of two; 0: none is.
    """

    def __init__(self, before: Mapping[str, Tensor], factor: float) -> None:
        self._before = before
        self._powers = math.floor(math.log2(factor)) if factor else None
        self._lengths: dict[int, float] = {}

    def power(self, client: int, tensors: Mapping[str, Tensor]) -> int:
        """The power of two of a client's update, which is remembered."""
        if self._powers is None:
            return 0
        norms = [
            float(torch.linalg.vector_norm((tensors[name] - old).float()))
            for name, old in self._before.items()
        ]
        self._lengths[client] = math.hypot(*norms)
        return _power(self._lengths[client])

    def most(self) -> int | None:
        """The largest power of two that is not refused; None: all may be."""
        if self._powers is None or len(self._lengths) < _FEWEST:
            return None
        median = statistics.median_low(self._lengths.values())
        return _power(median) + self._powers if median else None

    def refused(self) -> dict[int, str]:
        """Client -> why its update is refused."""
        most = self.most()
        if most is None:
            return {}
        median = statistics.median_low(self._lengths.values())
        return {
            client: f"its update has length {length:.3g}, the median of the round is {median:.3g} "
            "(max-update-norm)"
            for client, length in self._lengths.items()
            if _power(length) > most
        }


def _power(length: float) -> int:
    return math.frexp(length)[1] if length else _STANDING_STILL
