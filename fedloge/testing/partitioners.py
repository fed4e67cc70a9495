"""One test suite for every partitioner, in the manner of scikit-learn's check_estimator.

`check_partitioner` makes all checks at once. With `partitioner_checks` pytest shows them one by one::

    @pytest.mark.parametrize("check", partitioner_checks(), ids=str)
    def test_my_partitioner(check):
        check(my_partitioner)
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fedloge.errors import PartitionError
from fedloge.partition.partition import Indices, Partitioner, verify_parts
from fedloge.rng import rng
from fedloge.testing.random_states import process_wide_states


@dataclass(frozen=True)
class PartitionerCheck:
    """One named setting that a partitioner is tried on.

    Attributes
    ----------
    name : names the setting in messages.
    labels : (examples,), int64, what is split.
    num_clients : over how many clients.
    """

    name: str
    labels: NDArray[np.int64] = field(repr=False)
    num_clients: int

    def __call__(self, partitioner: Partitioner) -> bool:
        """Try it; False if the partitioner refuses this setting with a `PartitionError`.

        Raises
        ------
        PartitionError
            Names the partitioner, the setting and the rule that it broke.
        """
        return self.refusal(partitioner) is None

    def refusal(self, partitioner: Partitioner) -> str | None:
        """Why the partitioner refuses this setting; None if it splits it by the rules."""
        who = f"check_partitioner {name_of(partitioner)!r}, {self.name}"
        try:
            self._try(partitioner, who)
        except _Refusal as refusal:
            return str(refusal)
        return None

    def __str__(self) -> str:
        return self.name

    def _try(self, partitioner: Partitioner, who: str) -> None:
        given = self.labels.copy()
        before = process_wide_states()
        first = self._split(partitioner, given, who)
        after = process_wide_states()
        lossy = bool(getattr(partitioner, "lossy", False))
        verify_parts(first, len(self.labels), self.num_clients, lossy=lossy, who=who)
        if not np.array_equal(given, self.labels):
            raise PartitionError(f"{who}: it changes the labels it is given; work on a copy")
        for source, state in before.items():
            if state != after[source]:
                raise PartitionError(
                    f"{who}: it draws from or seeds {source}; draw from the rng it is given"
                )
        second = self._split(partitioner, given, who)
        if any(not np.array_equal(a, b) for a, b in zip(first, second, strict=True)):
            raise PartitionError(
                f"{who}: the same rng gives another split the second time; draw from nothing else"
            )

    def _split(
        self, partitioner: Partitioner, labels: NDArray[np.int64], who: str
    ) -> list[Indices]:
        try:
            return partitioner(labels, self.num_clients, rng(1, "check-partitioner"))
        except PartitionError as exc:
            raise _Refusal(str(exc)) from None
        except Exception as exc:
            raise PartitionError(f"{who}: it fails with {type(exc).__name__}: {exc}") from exc


class _Refusal(Exception):
    """The partitioner says that it cannot split this setting."""


def partitioner_checks() -> list[PartitionerCheck]:
    """All settings, in the order of `check_partitioner`."""
    balanced = np.repeat(np.arange(10), 30)
    tail = np.repeat(np.arange(6), [120, 45, 17, 6, 2, 1])
    shuffled = rng(0, "check-partitioner").permutation(balanced)
    return [
        PartitionerCheck("balanced", balanced, 5),
        PartitionerCheck("balanced, shuffled", shuffled, 5),
        PartitionerCheck("long tail down to 1 example", tail, 4),
        PartitionerCheck("one client", tail, 1),
        PartitionerCheck("one class", np.zeros(50, dtype=np.int64), 3),
        PartitionerCheck("40 clients", balanced, 40),
    ]


def check_partitioner(partitioner: Partitioner) -> None:
    """Try a partitioner on small and awkward settings; ``check_partitioner(my_partitioner)``.

    It must split balanced and long-tailed labels, in any order, over one client or several,
    by the rules of `Partitioner`. It must give the same split for the same generator, and
    leave its input and every process-wide random state alone. It may refuse a setting with
    a `PartitionError`, but not all of them. Clients without examples are allowed here.

    Raises
    ------
    PartitionError
        Names the partitioner, the setting and the rule that it broke.
    """
    refusals = {check.name: check.refusal(partitioner) for check in partitioner_checks()}
    if all(refusals.values()):
        setting, reason = next(iter(refusals.items()))
        raise PartitionError(
            f"check_partitioner {name_of(partitioner)!r}: refuses every setting; the first is "
            f"{setting}: {reason}"
        )


def name_of(partitioner: Partitioner) -> str:
    """A partitioner's own name, for messages."""
    own = getattr(partitioner, "name", None) or getattr(partitioner, "__name__", None)
    return str(own or type(partitioner).__name__)
