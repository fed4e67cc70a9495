"""How far the runs of a sweep are, by what is on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fedloge.config import OPERATIONAL, differences
from fedloge.errors import RunDirError
from fedloge.partition import number_is_open
from fedloge.results.run import Run, open_run
from fedloge.sweeps.plan import PlannedRun


@dataclass(frozen=True)
class Standing:
    """How far a planned run is: ``done``, ``begun`` (with the last round recorded) or ``new``."""

    state: Literal["done", "begun", "new"]
    rounds_done: int = 0

    def __str__(self) -> str:
        if self.state == "begun":
            return f"to be resumed after round {self.rounds_done}"
        return {"done": "done", "new": "to be run"}[self.state]


def run_folder(run: PlannedRun) -> Path:
    """The folder of a planned run, which may not exist yet."""
    return Path(run.config.runs_dir) / run.name


def standing(run: PlannedRun) -> Standing:
    """How far a run is, by its folder.

    Raises
    ------
    RunDirError
        Its folder is damaged, or holds a run with other settings or more rounds.
    """
    folder = run_folder(run)
    if not folder.exists():
        return Standing("new")
    found = open_run(folder)
    _check_same(folder, found, run)
    if found.rounds_done >= run.config.rounds or found.stopped_early:
        return Standing("done", found.rounds_done)
    return Standing("begun", found.rounds_done)


def rounds_done(run: PlannedRun) -> int:
    """The last round recorded; 0 also if the folder cannot be read at the moment."""
    try:
        return open_run(run_folder(run)).rounds_done
    except RunDirError:
        return 0


def _check_same(folder: Path, found: Run, run: PlannedRun) -> None:
    # Where the data say how many clients there are, the run on disk knows it and the plan does not.
    counted = {"num-clients", "split-into", "clients-per-round"}
    ignored = OPERATIONAL | (counted if number_is_open(run.config) else set())
    unlike = [
        f"{key} was {old!r}, now {new!r}"
        for key, (old, new) in differences([found.config, run.config]).items()
        if key not in ignored
    ]
    if unlike:
        raise RunDirError(
            f"{folder} was run with other settings: {'; '.join(unlike)}. Move it away, or give the "
            "sweep another name"
        )
    if found.rounds_done > run.config.rounds:
        raise RunDirError(
            f"{folder} has run to round {found.rounds_done}, the sweep asks for {run.config.rounds}; "
            "raise rounds, move it away, or give the sweep another name"
        )
