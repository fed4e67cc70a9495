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
from flwr.app import ArrayRecord
from torch import Tensor

from fedloge.config import Config
from fedloge.errors import UpdateError
from fedloge.messages.averaging import DifferenceSum, ExactSum, WeightedSum, check_update
from fedloge.messages.protocol import LARGEST_FIGURE, LARGEST_SUM
from fedloge.messages.records import decode

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
    before : the shared tensors as they were sent, where only what they moved by is summed, two values in
        a word of 64 bits; None: the tensors themselves, one in a word.
    """

    shared: Mapping[str, Tensor]
    sums: Mapping[str, Tensor]
    figures: Sequence[str]
    total_weight: int
    before: Mapping[str, Tensor] | None = None

    def __post_init__(self) -> None:
        # By name: a server that has resumed has its tensors in another order than the network.
        for name in ("shared", "sums"):
            object.__setattr__(self, name, dict(sorted(getattr(self, name).items())))

    @property
    def words(self) -> int:
        """Length of a vector."""
        sums = sum(t.numel() for t in self.sums.values())
        shared = self._shared_words
        return shared + 2 * sums + _FIGURE_WORDS * len(self.figures)

    @property
    def _shared_words(self) -> int:
        values = sum(t.numel() for t in self.shared.values())
        return values if self.before is None else -(-values // 2)

    def _mean(self) -> WeightedSum:
        if self.before is None:
            return WeightedSum(self.shared, self.total_weight)
        return DifferenceSum({name: self.before[name] for name in self.shared}, self.total_weight)

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
            one = self._mean()
            one.add(shared, weight)
            values = torch.cat([part.reshape(-1) for part in one.partial().values()])
            parts.append(values if self.before is None else _paired(values))
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
        shared, rest = rest.split([self._shared_words, len(rest) - self._shared_words])
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
            total = self._mean()
            values = shared
            if isinstance(total, DifferenceSum):
                values = _unpaired(shared)
                _check_range("update", values, total.largest(clients))
            total.merge_partial(self._named(values), weight)
            check_update(total.mean(), self.shared)
        return VectorSums(total, exact.total(), figures)

    def _named(self, values: Tensor) -> dict[str, Tensor]:
        sizes = [t.numel() for t in self.shared.values()]
        parts = values[: sum(sizes)].split(sizes)
        return {
            name: part.view(t.shape)
            for (name, t), part in zip(self.shared.items(), parts, strict=True)
        }


def model_before(
    config: Config, kind: str, sent: ArrayRecord | None
) -> Mapping[str, Tensor] | None:
    """What `VectorLayout` needs of a message of one kind and its model, if only differences are summed."""
    return decode(sent) if config.average_bits == 32 and kind == "train" and sent else None


def _paired(values: Tensor) -> Tensor:
    """Two values below 2^31 in each word, low + 2^32 high: words add up as both values do."""
    low, high = torch.nn.functional.pad(values, (0, len(values) % 2)).view(-1, 2).unbind(1)
    return low + (high << _WORD_BITS)


def _unpaired(words: Tensor) -> Tensor:
    """The values of `_paired`, also of a sum, where no sum of a value exceeds 2^31."""
    half = 1 << (_WORD_BITS - 1)
    low = ((words + half) & (2**_WORD_BITS - 1)) - half
    return torch.stack([low, (words - low) >> _WORD_BITS], dim=1).view(-1)


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
