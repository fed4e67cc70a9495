"""The weighted mean of clients' tensors, exact, so that order and grouping cannot matter.

Floating-point sums depend on their order, and replies arrive in any order. Here
each value is rounded once to a multiple of a power of two and summed in 64-bit
integers. Integer sums are associative, so the bits are the same for every arrival
order, for every number of workers, and for partial sums merged later. The rounding
moves the mean by at most 2^-48 per client, which is less than the rounding of float32
itself for every |value| above 1e-7.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from fedloge.errors import UpdateError

_LIMIT_BITS = 15  # |value| < 2^15
_SUM_BITS = 62
_FRACTION_BITS = 52
_HALF_BITS = 30
MOST_MOVED = 4.0
"""What a value may move by in a round where sums have 32 bits."""
_PIECE = (
    2**16
)  # values handled at a time, so that intermediate results stay in the processor's cache


class WeightedSum:
    """Adds up weight * tensor, tensor by tensor.

    Parameters
    ----------
    template : the tensors' names, shapes and dtypes.
    total_weight : at least the sum of all weights that will be added, 1 .. 2^29.

    Raises
    ------
    ValueError
        `total_weight` is out of range.
    """

    def __init__(self, template: Mapping[str, Tensor], total_weight: int) -> None:
        if not 1 <= total_weight <= 2**29:
            raise ValueError(f"total_weight must be 1 .. 2^29, got {total_weight}")
        self.total_weight = total_weight
        self.weight = 0
        self._scale = 2.0 ** (_SUM_BITS - _LIMIT_BITS - math.ceil(math.log2(total_weight)))
        self._template = {name: (t.shape, t.dtype) for name, t in template.items()}
        self._runs = _runs(template)
        # Used again for every piece: new memory for each would take a third of the time.
        self._scaled = torch.empty(_PIECE, dtype=torch.float64)
        self._rounded = torch.empty(_PIECE, dtype=torch.int64)
        self._totals = [
            torch.zeros(sum(template[name].numel() for name in run), dtype=torch.int64)
            for run in self._runs
        ]
        self._sums = {
            name: part.view(template[name].shape)
            for run, total in zip(self._runs, self._totals, strict=True)
            for name, part in zip(
                run, total.split([template[name].numel() for name in run]), strict=True
            )
        }

    def add(self, tensors: Mapping[str, Tensor], weight: int) -> None:
        """Add one client's tensors, checked before by `check_update`, with its weight (> 0).

        `ValueError`: all weights together exceed `total_weight`.
        """
        self._take(weight)
        for run, total in zip(self._runs, self._totals, strict=True):
            flat = [tensors[name].reshape(-1) for name in run]
            pieces = (flat[0] if len(flat) == 1 else torch.cat(flat)).split(_PIECE)
            for part, values in zip(total.split(_PIECE), pieces, strict=True):
                # float32's 24 bits times the weight are exact in float64, so there is one rounding.
                scaled = self._scaled[: len(values)].copy_(values).mul_(weight * self._scale)
                part.add_(self._rounded[: len(values)].copy_(scaled.round_()))

    def partial(self) -> dict[str, Tensor]:
        """The int64 sums so far, by tensor name, for `merge_partial` elsewhere."""
        return self._sums

    def merge_partial(self, sums: Mapping[str, Tensor], weight: int) -> None:
        """Add the `partial` of a sum made elsewhere with the same template and total weight.

        `ValueError`: it is of another model, or all weights together exceed `total_weight`.
        """
        if {name: t.shape for name, t in sums.items()} != {
            name: t.shape for name, t in self._sums.items()
        }:
            raise ValueError("a partial sum of another model cannot be merged")
        self._take(weight)
        for name, total in self._sums.items():
            total.add_(sums[name])

    def mean(self) -> dict[str, Tensor]:
        """The weighted mean, in each tensor's own dtype; `UpdateError` if nothing was added."""
        self._check_any()
        denominator = self._scale * self.weight
        return {
            name: (total.to(torch.float64) / denominator).to(self.dtype(name))
            for name, total in self._sums.items()
        }

    def dtype(self, name: str) -> torch.dtype:
        """Of a tensor's mean."""
        return self._template[name][1]

    def _check_any(self) -> None:
        if self.weight == 0:
            raise UpdateError("nothing to average: no client answered with a positive weight")

    def _take(self, weight: int) -> None:
        if weight < 0 or self.weight + weight > self.total_weight:
            raise ValueError(
                f"weights exceed the announced total: {self.weight} + {weight} > {self.total_weight}"
            )
        self.weight += weight


class DifferenceSum(WeightedSum):
    """Adds up what tensors have moved by, so small that a sum fits into 32 bits.

    No sum of clients that keep to `MOST_MOVED` can exceed 2^31: a value times its weight is below 2^30 over all
    weights, and each client's rounding adds half at most. The mean is off by 2^-29 per client at most,
    where all weights are there.

    Parameters
    ----------
    before : the tensors that were moved, as every client was sent them.
    """

    def __init__(self, before: Mapping[str, Tensor], total_weight: int) -> None:
        super().__init__(before, total_weight)
        self._before = dict(before)
        bits = math.ceil(math.log2(total_weight))
        self._scale = 2.0 ** (_HALF_BITS - math.log2(MOST_MOVED) - bits)

    def add(self, tensors: Mapping[str, Tensor], weight: int) -> None:
        """As `WeightedSum.add`; `UpdateError` if a value has moved by `MOST_MOVED` or more."""
        moved = {}
        for name, before in self._before.items():
            moved[name] = tensors[name].double() - before.double()
            if before.numel() and not float(moved[name].abs().max()) < MOST_MOVED:
                raise UpdateError(
                    f"tensor {name!r} has moved by {MOST_MOVED:g} or more in a round, which average-bits=32 cannot "
                    "hold; set average-bits=64"
                )
        super().add(moved, weight)

    def largest(self, clients: int) -> int:
        """What no sum of so many clients' values exceeds in magnitude, in the units of `partial`."""
        return int(self.total_weight * MOST_MOVED * self._scale) + clients

    def mean(self) -> dict[str, Tensor]:
        """The tensors moved by the weighted mean of what they moved by; `UpdateError` if nothing was added."""
        self._check_any()
        denominator = self._scale * self.weight
        return {
            name: (self._before[name].double() + total.double() / denominator).to(self.dtype(name))
            for name, total in self.partial().items()
        }


def _runs(template: Mapping[str, Tensor]) -> list[list[str]]:
    # Small tensors of one dtype are joined and added as one: one by one, the calls would take most of the time.
    runs: list[list[str]] = []
    size, dtype = _PIECE, None
    for name, tensor in template.items():
        if size + tensor.numel() > _PIECE or tensor.dtype != dtype:
            runs.append([])
            size, dtype = 0, tensor.dtype
        runs[-1].append(name)
        size += tensor.numel()
    return runs


class ExactSum:
    """The plain sum of clients' tensors, for values up to 2^40, each rounded to 2^-52.

    Whole parts and fractions are summed separately, as integers. So the sum does not
    depend on the order, like `WeightedSum`, and large and small values keep their digits.

    Parameters
    ----------
    template : the tensors' names, shapes and dtypes.
    """

    def __init__(self, template: Mapping[str, Tensor]) -> None:
        self._dtypes = {name: t.dtype for name, t in template.items()}
        self._whole = {
            name: torch.zeros(t.shape, dtype=torch.int64) for name, t in template.items()
        }
        self._parts = {
            name: torch.zeros(t.shape, dtype=torch.int64) for name, t in template.items()
        }

    def add(self, tensors: Mapping[str, Tensor]) -> None:
        """Add one client's tensors (checked before by `check_update`)."""
        for name in self._dtypes:
            pieces = zip(
                tensors[name].reshape(-1).split(_PIECE),
                self._whole[name].view(-1).split(_PIECE),
                self._parts[name].view(-1).split(_PIECE),
                strict=True,
            )
            for values, wholes, parts in pieces:
                # A client that lacks most classes sends mostly zeros.
                if bool(values.any()):
                    value = values.to(torch.float64)
                    whole = value.floor()
                    part = ((value - whole) * 2.0**_FRACTION_BITS).round_().to(torch.int64)
                    _carry(wholes, parts, whole.to(torch.int64), part)

    def partial(self) -> dict[str, tuple[Tensor, Tensor]]:
        """The int64 sums so far, whole parts and fractions (in units of 2^-52), for `merge_partial` elsewhere."""
        return {name: (self._whole[name], self._parts[name]) for name in self._dtypes}

    def merge_partial(self, sums: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Add what partial sums of the same template add up to; together of fewer than 2^11 clients."""
        for name in self._dtypes:
            _carry(self._whole[name], self._parts[name], *sums[name])

    def total(self) -> dict[str, Tensor]:
        """The sums, in each tensor's own dtype."""
        return {
            name: (
                self._whole[name].double() + self._parts[name].double() * 2.0**-_FRACTION_BITS
            ).to(dtype)
            for name, dtype in self._dtypes.items()
        }


def _carry(wholes: Tensor, parts: Tensor, whole: Tensor, part: Tensor) -> None:
    """Add whole parts and fractions to sums of them, in place."""
    parts += part
    wholes += whole
    wholes += parts >> _FRACTION_BITS
    parts &= 2**_FRACTION_BITS - 1


def check_update(
    tensors: Mapping[str, Tensor], template: Mapping[str, Tensor], limit: float = 2**_LIMIT_BITS
) -> None:
    """Refuse tensors that cannot be averaged with `template`.

    Raises
    ------
    UpdateError
        A tensor is missing, unknown, of another shape or dtype, not finite, or has a value
        of magnitude `limit` or more (by default 2^15: such a model has diverged).
    """
    if missing := template.keys() - tensors.keys():
        raise UpdateError(f"tensor {min(missing)!r} is missing ({len(missing)} of {len(template)})")
    if unknown := tensors.keys() - template.keys():
        raise UpdateError(f"tensor {min(unknown)!r} is not part of the model")
    for name, expected in template.items():
        got = tensors[name]
        if got.shape != expected.shape:
            raise UpdateError(
                f"tensor {name!r} has shape {tuple(got.shape)}, expected {tuple(expected.shape)}"
            )
        if got.dtype != expected.dtype:
            raise UpdateError(f"tensor {name!r} has dtype {got.dtype}, expected {expected.dtype}")
        # aminmax gives NaN where there is one, and NaN compares false: this refuses NaN and infinity.
        if got.numel() and not all(-limit < float(value) < limit for value in got.aminmax()):
            finite = bool(got.isfinite().all())
            bad = f"a value of {limit:g} or more" if finite else "a value that is not finite"
            raise UpdateError(f"tensor {name!r} holds {bad}")
