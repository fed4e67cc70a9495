"""What a client answers as one vector of integers, to be masked: its update, its sums, its figures.

The integers are those that the server itself would add up without masks (`WeightedSum`,
`ExactSum`), so a sum of vectors ends in the same bits. A figure becomes the integer that it is in
units of 2^-1074, the smallest step of a float64, cut into words of 32 bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedloge.errors import UpdateError
from fedloge.messages.averaging import ExactSum, WeightedSum, check_update
from fedloge.messages.protocol import LARGEST_FIGURE, LARGEST_SUM

_UNIT_BITS = 1074
_WORD_BITS = 32
_FIGURE_WORDS = 35  # 1120 bits: figures below 2^20 in units of 2^-1074, and the sign in each word


@dataclass(frozen=True)
class VectorSums:
    """What a sum of clients' vectors says.

    Attributes
    ----------
    shared : the weighted sum of the shared tensors; None where none were asked for.
    sums : the sums that were asked for beside the model.
    figures : the sum of each figure, as `math.fsum` would give it.
    """

    shared: WeightedSum | None
    sums: dict[str, Tensor]
    figures: dict[str, float]


@dataclass(frozen=True)
class VectorLayout:
    """Which tensors and figures a vector holds, in the order of their names.

    Attributes
    ----------
    shared : template of the shared tensors; empty where none are sent.
    sums : template of the sums beside the model.
    figures : names, ascending.
    total_weight : the weight of all clients that were asked.
    """

    shared: Mapping[str, Tensor]
    sums: Mapping[str, Tensor]
    figures: Sequence[str]
    total_weight: int

    def __post_init__(self) -> None:
        # By name: a server that has resumed has its tensors in another order than the network.
        for name in ("shared", "sums"):
            object.__setattr__(self, name, dict(sorted(getattr(self, name).items())))

    @property
    def words(self) -> int:
        """Length of a vector."""
        sums = sum(t.numel() for t in self.sums.values())
        shared = sum(t.numel() for t in self.shared.values())
        return shared + 2 * sums + _FIGURE_WORDS * len(self.figures)

    def pack(
        self,
        shared: Mapping[str, Tensor],
        weight: int,
        sums: Mapping[str, Tensor],
        figures: Mapping[str, float],
    ) -> np.ndarray:
        """A client's vector, as uint64.

        `UpdateError`: a value is not finite, out of range or of another shape. Behind masks nobody
        else would see it.
        """
        check_update(shared, self.shared)
        check_update(sums, self.sums, limit=LARGEST_SUM)
        parts: list[Tensor] = []
        if self.shared:
            one = WeightedSum(self.shared, self.total_weight)
            one.add(shared, weight)
            parts += one.partial().values()
        exact = ExactSum(self.sums)
        exact.add(sums)
        parts += [half for pair in exact.partial().values() for half in pair]
        parts += [_figure_words(name, figures[name]) for name in self.figures]
        if not parts:
            return np.zeros(0, np.uint64)
        return torch.cat([part.reshape(-1) for part in parts]).numpy().view(np.uint64)

    def unpack(self, vector: np.ndarray, weight: int, clients: int) -> VectorSums:
        """What the sum of `clients` vectors says; their weights add up to `weight`.

        `UpdateError`: a sum is larger than so many vectors can give. A client did not keep to its
        bounds, or masks are left in it.
        """
        rest = torch.from_numpy(vector.view(np.int64))
        shared, rest = self._taken(rest, self.shared)
        whole_and_parts = {}
        for name, template in self.sums.items():
            size = template.numel()
            whole, parts, rest = rest.split([size, size, len(rest) - 2 * size])
            _check_range(name, whole, clients * 2**40)
            _check_range(name, parts, clients * 2**52, least=0)
            whole_and_parts[name] = whole.view(template.shape), parts.view(template.shape)
        exact = ExactSum(self.sums)
        exact.merge_partial(whole_and_parts)
        figures = {}
        for name in self.figures:
            words, rest = rest.split([_FIGURE_WORDS, len(rest) - _FIGURE_WORDS])
            figures[name] = _figure_sum(name, words, clients)
        total = None
        if self.shared:
            total = WeightedSum(self.shared, self.total_weight)
            total.merge_partial(shared, weight)
            check_update(total.mean(), self.shared)
        return VectorSums(total, exact.total(), figures)

    @staticmethod
    def _taken(rest: Tensor, template: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        sizes = [t.numel() for t in template.values()]
        *parts, rest = rest.split([*sizes, len(rest) - sum(sizes)])
        taken = {
            name: part.view(t.shape)
            for (name, t), part in zip(template.items(), parts, strict=True)
        }
        return taken, rest


def _check_range(name: str, words: Tensor, most: int, least: int | None = None) -> None:
    least = -most if least is None else least
    if words.numel() and not (least <= int(words.min()) and int(words.max()) <= most):
        raise UpdateError(f"the sum {name!r} is out of its range")


def _figure_words(name: str, value: float) -> Tensor:
    if not -LARGEST_FIGURE < value < LARGEST_FIGURE:
        raise UpdateError(f"figure {name!r} is {value!r}, expected a finite one below 1e6")
    above, below = float(value).as_integer_ratio()
    units = abs(above) * (2**_UNIT_BITS // below)
    mask, sign = 2**_WORD_BITS - 1, -1 if above < 0 else 1
    return torch.tensor(
        [sign * (units >> (_WORD_BITS * k) & mask) for k in range(_FIGURE_WORDS)],
        dtype=torch.int64,
    )


def _figure_sum(name: str, words: Tensor, clients: int) -> float:
    _check_range(name, words, clients * 2**_WORD_BITS)
    total: int = sum(int(word) << (_WORD_BITS * k) for k, word in enumerate(words.tolist()))
    if abs(total) > clients * int(LARGEST_FIGURE) << _UNIT_BITS:
        raise UpdateError(f"the sum of figure {name!r} is out of its range")
    # Python rounds the quotient of two integers correctly, as math.fsum rounds its sum.
    return total / (1 << _UNIT_BITS)
