"""``fedloge sweep``: show the plan, run it, and show how the runs ended."""

from __future__ import annotations

from collections.abc import Sequence

from fedloge.console import fail, print_json, stderr, stdout
from fedloge.recipe_files import recipe_path
from fedloge.results.number_words import plural
from fedloge.sweeps.child_runs import Outcome
from fedloge.sweeps.run_sweep import (
    check_methods,
    failures,
    run_sweep,
    stopped_by_signals,
    usable_jobs,
)
from fedloge.sweeps.standing import Standing, standing
from fedloge.sweeps.sweep_file import Sweep, load_sweep


def sweep(
    file: str,
    overrides: Sequence[str],
    runs_dir: str,
    *,
    jobs: int | None,
    engine: str,
    track: Sequence[str],
    dry_run: bool,
    as_json: bool,
) -> bool:
    """Run a sweep file; True if every run is done (or, in a dry run, could begin)."""
    planned = load_sweep(recipe_path(file, "sweep"), overrides, runs_dir)
    check_methods(planned)
    at_once = usable_jobs(planned, jobs)
    standings = {run.name: standing(run) for run in planned.runs}
    if dry_run:
        _show_plan(planned, standings, at_once, as_json=as_json)
        return True
    at_once = min(at_once, max(1, sum(s.state != "done" for s in standings.values())))
    console = stderr()
    console.print(_headline(planned, standings, at_once), soft_wrap=True, markup=False)
    try:
        with stopped_by_signals():
            outcomes = run_sweep(
                planned,
                jobs=at_once,
                engine=engine,
                track=track,
                say=lambda text: console.print(text, soft_wrap=True, markup=False),
            )
    except KeyboardInterrupt:
        fail("interrupted; the same command again goes on with the sweep", 130)
    _show_outcomes(planned, outcomes, as_json=as_json)
    return not failures(outcomes)


def _headline(planned: Sweep, standings: dict[str, Standing], jobs: int) -> str:
    states = [s.state for s in standings.values()]
    counts = (
        f"{states.count('done')} done, {states.count('begun')} begun, {states.count('new')} new"
    )
    return f"sweep {planned.name}: {plural(len(states), 'run')} ({counts}), {jobs} at a time"


def _show_plan(planned: Sweep, standings: dict[str, Standing], jobs: int, *, as_json: bool) -> None:
    if as_json:
        runs = [
            {"name": run.name, "label": run.label, "state": standings[run.name].state}
            | {"config": run.config.flat()}
            for run in planned.runs
        ]
        print_json({"name": planned.name, "folder": str(planned.folder), "runs": runs})
        return
    out = stdout()
    for run in planned.runs:
        out.print(f"{run.name}: {standings[run.name]}", soft_wrap=True, markup=False)
    out.print(_headline(planned, standings, jobs), soft_wrap=True, markup=False)
    out.print(f"folder: {planned.folder}", soft_wrap=True, markup=False)


def _show_outcomes(planned: Sweep, outcomes: Sequence[Outcome], *, as_json: bool) -> None:
    failed = failures(outcomes)
    if as_json:
        runs = [
            {"name": o.run.name, "done": not o.problem, "problem": o.problem, "seconds": o.seconds}
            for o in outcomes
        ]
        print_json({"name": planned.name, "folder": str(planned.folder), "runs": runs})
        return
    out = stdout()
    out.print(f"{len(outcomes) - len(failed)} of {plural(len(outcomes), 'run')} done")
    for outcome in failed:
        out.print(f"failed: {outcome.run.name}: {outcome.problem}", soft_wrap=True, markup=False)
    if failed:
        out.print("the same command again goes on with what failed", soft_wrap=True)
    if len(failed) < len(outcomes):
        out.print(f"fedloge table --sweep {planned.folder}", soft_wrap=True, markup=False)
