"""One test suite for every partitioner, in the manner of scikit-learn's check_estimator.

`check_partitioner` makes all checks at once. With `partitioner_checks` pytest shows them one by one::

    @pytest.mark.parametrize("check", partitioner_checks(), ids=str)
    def test_my_partitioner(check):
        check(my_partitioner)

What is wrong is one line, without the frames of this module. A partitioner that asks for the manifest is
given one with the columns ``path``, ``site`` and ``group``.
"""

from __future__ import annotations

import inspect
import traceback
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedloge.data.manifest import Manifest
from fedloge.errors import FedlogeError, PartitionError, in_one_line
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
        __tracebackhide__ = (
            True  # pytest shows the test's own line and the message, not what is below
        )
        return self.refusal(partitioner) is None

    def refusal(self, partitioner: Partitioner) -> str | None:
        """Why the partitioner refuses this setting; None if it splits it by the rules."""
        __tracebackhide__ = True
        who = f"check_partitioner {name_of(partitioner)!r}, {self.name}"
        broken = ""
        try:
            self._try(partitioner, who)
        except _Refusal as refusal:
            return str(refusal)
        except PartitionError as exc:
            broken = str(exc)
        if broken:  # raised here, so that no other error is shown as the cause of this one
            raise PartitionError(broken)
        return None

    @cached_property
    def manifest(self) -> Manifest:
        """What a partitioner that asks for it is told of each example besides its label: 41 sites, groups of two."""
        numbers = range(len(self.labels))
        return Manifest(
            {
                "path": [f"{i}.png" for i in numbers],
                "site": [f"site {i % 41}" for i in numbers],
                "group": [str(i // 2) for i in numbers],
            }
        )

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
        told = {"manifest": self.manifest} if _asks_for_manifest(partitioner) else {}
        try:
            return partitioner(labels, self.num_clients, rng(1, "check-partitioner"), **told)
        except FedlogeError as exc:
            raise _Refusal(str(exc)) from None
        except Exception as exc:
            last = traceback.extract_tb(exc.__traceback__)[-1]
            raise PartitionError(
                f"{who}: it fails with {in_one_line(exc)} (line {last.lineno} of {last.filename})"
            ) from None


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
    __tracebackhide__ = True
    refusals = {check.name: check.refusal(partitioner) for check in partitioner_checks()}
    if all(refusals.values()):
        setting, reason = next(iter(refusals.items()))
        raise PartitionError(
            f"check_partitioner {name_of(partitioner)!r}: refuses every setting; the first is "
            f"{setting}: {reason}"
        )


def name_of(partitioner: Partitioner) -> str:
    """A partitioner's own name, for messages; of a `functools.partial` that of its function."""
    named: Any = getattr(partitioner, "func", partitioner)
    own = getattr(named, "name", None) or getattr(named, "__name__", None)
    return str(own or type(named).__name__)


def _asks_for_manifest(partitioner: Partitioner) -> bool:
    return "manifest" in inspect.signature(partitioner).parameters
