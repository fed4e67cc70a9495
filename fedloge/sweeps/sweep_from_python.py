"""`fedloge.sweep`: a sweep file run from Python."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedloge.errors import RunError
from fedloge.launch.runs_from_python import Run, open_run
from fedloge.recipe_files import recipe_path
from fedloge.sweeps.run_sweep import check_methods, failures, usable_jobs
from fedloge.sweeps.standing import run_folder
from fedloge.sweeps.sweep_file import load_sweep
from fedloge.sweeps.tuning import run_tuned_sweep

log = logging.getLogger(__name__)


def sweep(
    file: str | Path,
    *,
    set: Mapping[str, Any] | Iterable[str] = (),
    jobs: int | None = None,
    engine: str = "local",
    runs_dir: str | Path = "",
    track: Sequence[str] = (),
) -> list[Run]:
    """Run methods x settings x seeds; a run that is done already is not run again.

    Each run is a process of its own. Progress is logged at level INFO. If the file tunes methods, the
    trials come first, and ``tuned.json`` in the sweep's folder tells of them.

    Parameters
    ----------
    file : the name of a sweep that comes with fedloge (``"digits"``), or the path of a TOML file.
    set : config keys that replace those of the file's base: ``{"rounds": 10}`` or ``["rounds=10"]``.
    jobs : runs at once; None: as many as the cores or GPUs allow.
    engine : local or ray.
    runs_dir : holds the sweep's folder; empty: as the file says, or ``runs``.
    track : trackers by name, as ``fedloge sweep --track`` takes them.

    Returns
    -------
    The runs, in the order of the file.

    Raises
    ------
    ConfigError
        The file, a key or a value is wrong, or two runs would be the same.
    RunError
        Some runs have failed, the others are done. The same call again goes on with those that failed.
    """
    planned = load_sweep(recipe_path(file, "sweep"), set, str(runs_dir))
    check_methods(planned)
    at_once = usable_jobs(planned, jobs)
    outcomes, _ = run_tuned_sweep(planned, jobs=at_once, engine=engine, track=track, say=log.info)
    if failed := failures(outcomes):
        first = failed[0]
        raise RunError(
            f"{len(failed)} of {len(outcomes)} runs of sweep {planned.name!r} failed; the first: "
            f"{first.run.name}: {first.problem}; the same call again goes on with them"
        )
    return [open_run(run_folder(outcome.run)) for outcome in outcomes]
