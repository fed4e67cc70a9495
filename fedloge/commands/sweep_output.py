"""``fedloge sweep``: show the plan, run it, and show how the runs ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedloge.console import fail, print_json, stderr, stdout
from fedloge.interrupts import exit_code, terminable
from fedloge.recipe_files import recipe_path
from fedloge.results.number_words import plural
from fedloge.sweeps.child_runs import Outcome
from fedloge.sweeps.plan import TRIALS_FOLDER, PlannedRun, Sweep
from fedloge.sweeps.run_sweep import (
    check_methods,
    failures,
    usable_jobs,
)
from fedloge.sweeps.standing import Standing
from fedloge.sweeps.sweep_file import load_sweep
from fedloge.sweeps.tuning import Choice, in_words, plan_of, run_tuned_sweep


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
    plan = plan_of(planned)
    if dry_run:
        _show_plan(planned, plan, at_once, as_json=as_json)
        return True
    at_once = min(at_once, max(1, sum(s.state != "done" for _, s in plan)))
    console = stderr()
    console.print(_headline(planned, plan, at_once), soft_wrap=True, markup=False)
    try:
        with terminable():
            outcomes, choices = run_tuned_sweep(
                planned,
                jobs=at_once,
                engine=engine,
                track=track,
                say=lambda text: console.print(text, soft_wrap=True, markup=False),
            )
    except KeyboardInterrupt as exc:
        fail("interrupted; the same command again goes on with the sweep", exit_code(exc))
    _show_outcomes(planned, outcomes, choices, as_json=as_json)
    return not failures(outcomes)


Plan = Sequence[tuple[PlannedRun, Standing]]


def _headline(planned: Sweep, plan: Plan, jobs: int) -> str:
    states = [standing.state for _, standing in plan]
    counts = (
        f"{states.count('done')} done, {states.count('begun')} begun, {states.count('new')} new"
    )
    trials = len(planned.trials.runs) if planned.trials else 0
    first = f"{plural(trials, 'trial')} and " if trials else ""
    runs = plural(len(states) - trials, "run")
    return f"sweep {planned.name}: {first}{runs} ({counts}), {jobs} at a time"


def _show_plan(planned: Sweep, plan: Plan, jobs: int, *, as_json: bool) -> None:
    trials = len(planned.trials.runs) if planned.trials else 0
    if as_json:
        runs = [
            {"name": run.name, "label": run.label, "state": standing.state}
            | {"config": run.config.flat()}
            | ({"waits-for": run.tuned_as} if run.tuned_as else {})
            for run, standing in plan
        ]
        head: dict[str, Any] = {"name": planned.name, "folder": str(planned.folder)}
        print_json(head | ({"trials": runs[:trials]} if trials else {}) | {"runs": runs[trials:]})
        return
    out = stdout()
    for place, (run, standing) in enumerate(plan):
        name = f"{TRIALS_FOLDER}/{run.name}" if place < trials else run.name
        what = "to be run with what the trials choose" if run.tuned_as else str(standing)
        out.print(f"{name}: {what}", soft_wrap=True, markup=False)
    out.print(_headline(planned, plan, jobs), soft_wrap=True, markup=False)
    out.print(f"folder: {planned.folder}", soft_wrap=True, markup=False)


def _show_outcomes(
    planned: Sweep, outcomes: Sequence[Outcome], choices: Sequence[Choice], *, as_json: bool
) -> None:
    failed = failures(outcomes)
    if as_json:
        runs = [
            {"name": o.run.name, "done": not o.problem, "problem": o.problem, "seconds": o.seconds}
            for o in outcomes
        ]
        tuned = {"tuned": [choice.as_json() for choice in choices]} if planned.tuning else {}
        head: dict[str, Any] = {"name": planned.name, "folder": str(planned.folder)}
        print_json(head | tuned | {"runs": runs})
        return
    out = stdout()
    for choice in choices:
        out.print(f"tuned: {in_words(choice)}", soft_wrap=True, markup=False)
    out.print(f"{len(outcomes) - len(failed)} of {plural(len(outcomes), 'run')} done")
    for outcome in failed:
        out.print(f"failed: {outcome.run.name}: {outcome.problem}", soft_wrap=True, markup=False)
    if failed:
        out.print("the same command again goes on with what failed", soft_wrap=True)
    if len(failed) < len(outcomes):
        out.print(f"fedloge table --sweep {planned.folder}", soft_wrap=True, markup=False)
