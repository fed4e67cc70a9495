"""Running a sweep: each run in a process of its own, several at once, none done twice.

A finished run is skipped, and an interrupted one is resumed from its checkpoint. A run that
fails does not stop the others. The folder of a sweep holds its runs and, under ``.sweep``,
each run's configuration and log.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from fedloge.errors import ConfigError, RunDirError
from fedloge.results.grouping import SWEEP_FILE
from fedloge.results.number_words import duration, percent, plural
from fedloge.results.run import open_run
from fedloge.sweeps.child_runs import ChildRun, Outcome, Starter, outcome, stop, usable_gpus
from fedloge.sweeps.plan import PlannedRun, Sweep
from fedloge.sweeps.standing import Standing, rounds_done, run_folder, standing

Say = Callable[[str], None]
_POLL_SECONDS = 0.2
_STATUS_SECONDS = 60.0


def check_methods(sweep: Sweep) -> None:
    """Load every run's method and its options, so that a mistake is found before the first run.

    Raises
    ------
    InputError
        A method is unknown or cannot be loaded, or an option of it is wrong.
    """
    # For start-up time: methods need torch.
    from fedloge.methods import method_class, method_options

    for run in sweep.all_runs():
        method_options(method_class(run.config.method), run.config)


def usable_jobs(sweep: Sweep, wanted: int | None = None) -> int:
    """How many runs go at once: `wanted`, or as many as the cores (or GPUs) allow.

    Raises
    ------
    ConfigError
        More runs are wanted than the cores allow, given the threads of each run.
    """
    threads = max(run.config.threads for run in sweep.all_runs())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    most = max(1, (cores or 1) // threads)
    if wanted is not None and wanted > most:
        raise ConfigError(
            f"--jobs: {wanted} runs of {plural(threads, 'thread')} each on {plural(cores or 1, 'core')}; "
            f"threads that share cores are several times slower: use at most {most}"
        )
    return wanted or min(most, usable_gpus(sweep) or most)


def run_sweep(
    sweep: Sweep, *, jobs: int, engine: str = "local", track: Sequence[str] = (), say: Say
) -> list[Outcome]:
    """Run what is not done yet, `jobs` runs at a time, seed by seed; the outcomes are in the sweep's order.

    Parameters
    ----------
    engine : local or ray.
    track : trackers by name.
    say : is called with one line of text now and then.

    Raises
    ------
    RunDirError
        A run's folder holds something else, or another process runs this sweep.
    """
    standings = {run.name: standing(run) for run in sweep.runs}
    work = sweep.folder / ".sweep"
    work.mkdir(parents=True, exist_ok=True)
    done = {
        run.name: Outcome(run, standings[run.name], 0.0)
        for run in sweep.runs
        if standings[run.name].state == "done"
    }
    if done:
        say(f"{plural(len(done), 'run')} of {len(sweep.runs)} done before")
    with _lock(sweep, work / "lock") as lock:
        _write_plan(sweep, work)
        starter = Starter(engine, track, work, lock, usable_gpus(sweep))
        pending = [run for run in _seed_by_seed(sweep.runs) if run.name not in done]
        for ended in _run_all(pending, standings, starter, jobs, say):
            done[ended.run.name] = ended
            say(f"[{len(done)}/{len(sweep.runs)}] {_ending(ended)}")
    return [done[run.name] for run in sweep.runs]


def _seed_by_seed(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """The runs with the first seed, then those with the next one.

    A sweep that is stopped half-way then holds a whole table of fewer seeds, not half a table.
    """
    seeds = list(dict.fromkeys(run.config.seed for run in runs))
    return sorted(runs, key=lambda run: seeds.index(run.config.seed))


def failures(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The outcomes of runs that failed."""
    return [outcome for outcome in outcomes if outcome.problem]


def _run_all(
    runs: Sequence[PlannedRun],
    standings: Mapping[str, Standing],
    starter: Starter,
    jobs: int,
    say: Say,
) -> Iterator[Outcome]:
    """Keep `jobs` runs going until all have ended; yields their outcomes as they end."""
    pending, children = list(runs), list[ChildRun]()
    progress = _Progress(runs, standings)
    try:
        while pending or children:
            while pending and len(children) < jobs:
                run = pending.pop(0)
                slot = min(set(range(jobs)) - {child.slot for child in children})
                children.append(starter.start(run, standings[run.name], slot))
                say(f"{run.name}: {_beginning(standings[run.name])}")
            time.sleep(_POLL_SECONDS)
            for child in [c for c in children if c.process.poll() is not None]:
                children.remove(child)
                yield outcome(child, starter.folder)
            if progress.due():
                say(progress.status(children))
    finally:
        stop(children)


@contextlib.contextmanager
def _lock(sweep: Sweep, path: Path) -> Iterator[int]:
    """Lock the sweep. The runs inherit the lock, so it is held even if this process is killed."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunDirError(
                f"{sweep.folder}: another process runs this sweep; wait for it, or stop it"
            ) from None
        yield lock
    finally:
        os.close(lock)


def _write_plan(sweep: Sweep, work: Path) -> None:
    plan = {
        "format": 1,
        "name": sweep.name,
        "by": list(sweep.by),
        "runs": {run.name: {"label": run.label} for run in sweep.runs},
    }
    temporary = work / SWEEP_FILE
    temporary.write_text(json.dumps(plan, indent=1) + "\n", encoding="utf-8")
    temporary.replace(sweep.folder / SWEEP_FILE)


def _beginning(standing: Standing) -> str:
    return f"resumed after round {standing.rounds_done}" if standing.state == "begun" else "started"


def _ending(outcome: Outcome) -> str:
    if outcome.problem:
        return f"{outcome.run.name}: FAILED after {duration(outcome.seconds)}: {outcome.problem}"
    done = open_run(run_folder(outcome.run))
    last = done.evaluated[-1] if done.evaluated else {}
    figures = [f"{side} {percent(last.get(name))} %" for side, name in done.primary.items()]
    return f"{outcome.run.name}: done in {duration(outcome.seconds)}, {', '.join(figures)}"


class _Progress:
    """Says now and then how far the sweep is, and how long it may still take."""

    def __init__(self, runs: Sequence[PlannedRun], standings: Mapping[str, Standing]) -> None:
        self._runs = list(runs)
        self._before = {run.name: standings[run.name].rounds_done for run in runs}
        self._began = self._said = time.monotonic()

    def due(self) -> bool:
        """Whether it is time to say something."""
        if time.monotonic() - self._said < _STATUS_SECONDS:
            return False
        self._said = time.monotonic()
        return True

    def status(self, children: Sequence[ChildRun]) -> str:
        """The runs under way and the time that is left, judged by the rounds so far."""
        now = {run.name: rounds_done(run) for run in self._runs}
        # A run that cannot be read at the moment counts as not begun, which is less than before.
        done = sum(max(0, now[run.name] - self._before[run.name]) for run in self._runs)
        left = sum(max(0, run.config.rounds - now[run.name]) for run in self._runs)
        under_way = ", ".join(
            f"{child.run.name} {now[child.run.name]}/{child.run.config.rounds}"
            for child in children
        )
        if not done:
            return f"running: {under_way}"
        seconds = (time.monotonic() - self._began) / done * left
        return f"running: {under_way}; about {duration(seconds)} left"
