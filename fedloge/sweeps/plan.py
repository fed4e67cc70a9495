"""What a sweep is to run: its runs, and the trials by which some of them are tuned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fedloge.config import Config, Scalar

Choose = Literal["global", "personal", "both"]
TRIALS_FOLDER = "tune"


@dataclass(frozen=True)
class PlannedRun:
    """One run of a sweep.

    Attributes
    ----------
    name : the run's folder; the same whenever the sweep is read.
    label : the name of its row in tables; empty: its method and settings.
    config : the whole configuration, with name and runs-dir.
    tuned_as : name of the `TunedMethod` whose best values it waits for; empty: it waits for none.
        While it waits, its configuration has the values of the first trial.
    """

    name: str
    label: str
    config: Config
    tuned_as: str = ""


@dataclass(frozen=True)
class Trial:
    """One combination of the values that a method is tuned over.

    Attributes
    ----------
    values : by config key.
    run : what is run to try them.
    finals : the runs of the sweep with these values, by the names of those that wait for the choice.
    """

    values: Mapping[str, Scalar]
    run: PlannedRun
    finals: Mapping[str, PlannedRun]


@dataclass(frozen=True)
class TunedMethod:
    """A method in one setting of the grid, and the trials of which one is chosen.

    Attributes
    ----------
    name : unique in the sweep.
    method : its label; without one, the method's name.
    setting : what else varies, by config key; not the seed.
    trials : at least one, in the order of the lists.
    """

    name: str
    method: str
    setting: Mapping[str, Scalar]
    trials: tuple[Trial, ...]


@dataclass(frozen=True)
class Tuning:
    """The part of a sweep that comes first: trials, and the figure by which one is chosen."""

    choose: Choose
    methods: tuple[TunedMethod, ...]


@dataclass(frozen=True)
class Sweep:
    """A sweep as it is to be run.

    Attributes
    ----------
    folder : holds the runs.
    by : the grid's keys that are settings of the comparison, not of a method; tables are split by them.
    runs : in the order of the file.
    tuning : what is run before to choose options; None: nothing.
    """

    name: str
    folder: Path
    by: tuple[str, ...]
    runs: list[PlannedRun]
    tuning: Tuning | None = None

    @property
    def trials(self) -> Sweep | None:
        """The trials as a sweep of their own, in a folder within this one's; None without any."""
        if self.tuning is None:
            return None
        runs = [trial.run for tuned in self.tuning.methods for trial in tuned.trials]
        return Sweep(f"{self.name}, trials", self.folder / TRIALS_FOLDER, self.by, runs)

    def all_runs(self) -> Iterator[PlannedRun]:
        """Every run that may come to be run: trials, and the sweep's own with any values."""
        yield from (run for run in self.runs if not run.tuned_as)
        for tuned in self.tuning.methods if self.tuning else ():
            for trial in tuned.trials:
                yield from (trial.run, *trial.finals.values())
