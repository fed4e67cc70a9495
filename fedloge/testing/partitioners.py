"""One suite that any partitioner can be put through, as scikit-learn's check_estimator does."""

from __future__ import annotations

import random

import numpy as np
import torch
from numpy.typing import NDArray

from fedloge.errors import PartitionError
from fedloge.partition.partition import Indices, Partitioner, verify_parts
from fedloge.rng import rng


def check_partitioner(partitioner: Partitioner) -> None:
    """Try a partitioner on small and awkward settings; ``check_partitioner(my_partitioner)``.

    It must split balanced and long-tailed labels, in any order, over one client or
    several, by the rules of `Partitioner`; draw the same from the same generator; leave
    its input and every process-wide random state alone. It may refuse a setting with a
    `PartitionError`, but not all of them. Clients without images are allowed here.

    Raises
    ------
    PartitionError
        Names the partitioner, the setting and the rule it broke.
    """
    name = getattr(partitioner, "name", None) or getattr(
        partitioner, "__name__", type(partitioner).__name__
    )
    refusals = []
    for setting, (labels, num_clients) in _settings().items():
        who = f"check_partitioner {name!r}, {setting}"
        try:
            _check(partitioner, labels, num_clients, who)
        except _Refusal as refusal:
            refusals.append(f"{setting}: {refusal}")
    if len(refusals) == len(_settings()):
        raise PartitionError(
            f"check_partitioner {name!r}: refuses every setting; the first is {refusals[0]}"
        )


class _Refusal(Exception):
    """The partitioner does not serve this setting, and says so."""


def _settings() -> dict[str, tuple[NDArray[np.int64], int]]:
    balanced = np.repeat(np.arange(10), 30)
    tail = np.repeat(np.arange(6), [120, 45, 17, 6, 2, 1])
    return {
        "balanced": (balanced, 5),
        "balanced, shuffled": (rng(0, "check-partitioner").permutation(balanced), 5),
        "long tail down to 1 image": (tail, 4),
        "one client": (tail, 1),
        "one class": (np.zeros(50, dtype=np.int64), 3),
        "40 clients": (balanced, 40),
    }


def _check(partitioner: Partitioner, labels: NDArray[np.int64], num_clients: int, who: str) -> None:
    given = labels.copy()
    before = _process_wide_states()
    first = _split(partitioner, given, num_clients, who)
    after = _process_wide_states()
    verify_parts(
        first, len(labels), num_clients, lossy=bool(getattr(partitioner, "lossy", False)), who=who
    )
    if not np.array_equal(given, labels):
        raise PartitionError(f"{who}: it changes the labels it is given; work on a copy")
    for source, state in before.items():
        if state != after[source]:
            raise PartitionError(
                f"{who}: it draws from or seeds {source}; draw from the rng it is given"
            )
    second = _split(partitioner, given, num_clients, who)
    if any(not np.array_equal(a, b) for a, b in zip(first, second, strict=True)):
        raise PartitionError(
            f"{who}: the same rng gives another split the second time; draw from nothing else"
        )


def _split(
    partitioner: Partitioner, labels: NDArray[np.int64], num_clients: int, who: str
) -> list[Indices]:
    try:
        return partitioner(labels, num_clients, rng(1, "check-partitioner"))
    except PartitionError as exc:
        raise _Refusal(str(exc)) from None
    except Exception as exc:
        raise PartitionError(f"{who}: it fails with {type(exc).__name__}: {exc}") from exc


def _process_wide_states() -> dict[str, str]:
    # Read, never written: comparing them is the only way to notice a draw.
    return {
        "Python's random module": repr(random.getstate()),
        "NumPy's global random state": repr(
            [
                item.tobytes() if isinstance(item, np.ndarray) else item
                for item in np.random.get_state()  # noqa: NPY002
            ]
        ),
        "torch's global random state": repr(torch.random.get_rng_state().numpy().tobytes()),
    }
