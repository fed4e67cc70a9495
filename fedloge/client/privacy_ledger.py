"""What a site's examples have been spent for: every noisy step of every run, written down before it is taken.

Epsilon of a site is over all of its runs, because whoever sees two models sees more than either says.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedloge.atomic_files import alone, disk_error, write_atomically
from fedloge.errors import PolicyError, RunError
from fedloge.learning.privacy_accountant import Spending, epsilon, merged

FILE = "privacy.json"
"""The ledger's name in a site's state folder; no run can take it: it is no folder."""
_FORMAT = 1


@dataclass(frozen=True)
class PrivacyLedger:
    """The ledger of one site.

    Parameters
    ----------
    folder : the site's state folder.
    max_epsilon : of all runs together; 0: without a bound.
    delta : at which epsilon is computed.
    """

    folder: Path
    max_epsilon: float
    delta: float

    def spend(self, run: str, name: str, steps: Spending) -> None:
        """Write down steps that are going to be taken, flushed to the disk.

        Parameters
        ----------
        run, name : of the run that they are taken for.

        Raises
        ------
        PolicyError
            With them epsilon would exceed its bound. Nothing is written then.
        RunError
            The ledger cannot be read or written, so that nothing may be spent.
        """
        with self._locked():
            runs = self._read()
            own = [*runs.get(run, ("", []))[1], steps]
            runs[run] = name, [*merged(own)]
            total = epsilon([one for _, spent in runs.values() for one in spent], self.delta)
            if self.max_epsilon and not total <= self.max_epsilon:
                raise PolicyError(
                    "max-epsilon",
                    f"with {steps.steps} further steps epsilon would be {total:.3g} at delta {self.delta:g} over "
                    f"all runs of this site, {self.max_epsilon:g} are allowed",
                )
            self._write(runs, total)

    def spent(self) -> dict[str, tuple[str, list[Spending]]]:
        """By run: its name and its steps; `RunError` if the ledger cannot be read."""
        return self._read()

    def epsilon_of(self, run: str, delta: float) -> float:
        """Epsilon of one run's steps alone."""
        return epsilon(self._read().get(run, ("", []))[1], delta)

    @property
    def _file(self) -> Path:
        return self.folder / FILE

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with alone(self.folder):
                yield
        except OSError as exc:
            raise disk_error(self._file, exc) from None

    def _read(self) -> dict[str, tuple[str, list[Spending]]]:
        try:
            content = json.loads(self._file.read_bytes())
            if content["format"] != _FORMAT:
                raise ValueError
            return {
                run: (str(of["name"]), [_steps(row) for row in of["steps"]])
                for run, of in content["runs"].items()
            }
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise RunError(
                f"{self._file} cannot be read, so that nobody knows what was spent; restore a backup of it"
            ) from None

    def _write(self, runs: dict[str, tuple[str, list[Spending]]], total: float) -> None:
        rows = {
            run: {
                "name": name,
                "epsilon": _figure(epsilon(spent, self.delta)),
                "steps": [vars(one) for one in spent],
            }
            for run, (name, spent) in runs.items()
        }
        content = {"format": _FORMAT, "delta": self.delta, "epsilon": _figure(total), "runs": rows}
        write_atomically(self._file, json.dumps(content, indent=1).encode(), private=True)


def _steps(row: dict[str, Any]) -> Spending:
    one = Spending(float(row["sampling"]), float(row["noise"]), int(row["steps"]))
    if not (0 < one.sampling <= 1 and 0 <= one.noise < math.inf and one.steps > 0):
        raise ValueError
    return one


def _figure(value: float) -> float | None:
    """None for infinity, which JSON has not."""
    return value if math.isfinite(value) else None
