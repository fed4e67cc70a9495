"""Running a sweep: each run in a process of its own, several at once, none done twice.

What is finished is skipped, what was interrupted is resumed from its checkpoint, and a
run that fails leaves the others alone. The folder of a sweep holds its runs and, under
``.sweep``, each run's configuration and log.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tomli_w

from fedloge.config import OPERATIONAL
from fedloge.errors import ConfigError, RunDirError
from fedloge.results.grouping import SWEEP_FILE
from fedloge.results.run import Run, open_run
from fedloge.results.terminal_tables import duration, percent, plural
from fedloge.sweep.spec import PlannedRun, Sweep

Say = Callable[[str], None]
_POLL_SECONDS = 0.2
_STATUS_SECONDS = 60.0
_GRACE_SECONDS = 10.0


@dataclass(frozen=True)
class Standing:
    """How far a planned run has come: ``done``, ``begun`` (and after which round) or ``new``."""

    state: Literal["done", "begun", "new"]
    rounds_done: int = 0

    def __str__(self) -> str:
        if self.state == "begun":
            return f"to be resumed after round {self.rounds_done}"
        return {"done": "done", "new": "to be run"}[self.state]


@dataclass(frozen=True)
class Outcome:
    """What became of a planned run; `problem` is one line, empty when all went well."""

    run: PlannedRun
    standing: Standing
    seconds: float
    problem: str = ""


@dataclass
class _Child:
    run: PlannedRun
    process: subprocess.Popen[bytes]
    slot: int
    began: float


def standing(run: PlannedRun) -> Standing:
    """What there is of a run on disk.

    Raises
    ------
    RunDirError
        Its folder is damaged, or holds a run with other settings or further rounds.
    """
    folder = Path(run.config.runs_dir) / run.name
    if not folder.exists():
        return Standing("new")
    found = open_run(folder)
    _check_same(folder, found, run)
    if found.rounds_done >= run.config.rounds:
        return Standing("done", found.rounds_done)
    return Standing("begun", found.rounds_done)


def check_methods(sweep: Sweep) -> None:
    """Load every run's method and its options, so that a typo is found before the first run.

    Raises
    ------
    InputError
        A method is unknown or cannot be loaded, or an option of it is wrong.
    """
    from fedloge.methods import method_class, method_options

    for run in sweep.runs:
        method_options(method_class(run.config.method), run.config)


def usable_jobs(sweep: Sweep, wanted: int | None = None) -> int:
    """How many runs go at once: `wanted`, or as many as the cores (or GPUs) allow.

    Raises
    ------
    ConfigError
        More are wanted than the cores allow at the runs' threads each.
    """
    threads = max(run.config.threads for run in sweep.runs)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    most = max(1, (cores or 1) // threads)
    if wanted is not None and wanted > most:
        raise ConfigError(
            f"--jobs: {wanted} runs of {plural(threads, 'thread')} each on {plural(cores or 1, 'core')}; "
            f"threads that share cores are several times slower: use at most {most}"
        )
    return wanted or min(most, _gpus(sweep) or most)


def run_sweep(
    sweep: Sweep, *, jobs: int, engine: str = "local", track: Sequence[str] = (), say: Say
) -> list[Outcome]:
    """Run what is not done yet, `jobs` at a time; the outcomes stand in the sweep's order.

    Raises
    ------
    RunDirError
        A run's folder holds something else, or another process runs this sweep.
    """
    standings = {run.name: standing(run) for run in sweep.runs}
    work = sweep.folder / ".sweep"
    work.mkdir(parents=True, exist_ok=True)
    outcomes = {
        run.name: Outcome(run, standings[run.name], 0.0)
        for run in sweep.runs
        if standings[run.name].state == "done"
    }
    if outcomes:
        say(f"{plural(len(outcomes), 'run')} of {len(sweep.runs)} done before")
    with _lock(sweep, work / "lock") as lock:
        _write_plan(sweep, work)
        pending = [run for run in sweep.runs if run.name not in outcomes]
        clock = _Clock(pending, standings, jobs)
        children: list[_Child] = []
        gpus = _gpus(sweep)
        try:
            while pending or children:
                while pending and len(children) < jobs:
                    run = pending.pop(0)
                    slot = min(set(range(jobs)) - {child.slot for child in children})
                    child = _start(run, standings[run.name], slot, gpus, engine, track, work, lock)
                    children.append(child)
                    say(f"{run.name}: {_beginning(standings[run.name])}")
                time.sleep(_POLL_SECONDS)
                for child in [c for c in children if c.process.poll() is not None]:
                    children.remove(child)
                    outcome = _outcome(child, work)
                    outcomes[child.run.name] = outcome
                    say(f"[{len(outcomes)}/{len(sweep.runs)}] {_ending(outcome)}")
                if clock.due():
                    say(clock.status(children))
        finally:
            _stop(children)
    return [outcomes[run.name] for run in sweep.runs]


def _check_same(folder: Path, found: Run, run: PlannedRun) -> None:
    old, new = found.config.flat(), run.config.flat()
    unlike = [
        f"{key} was {old[key]!r}, now {new[key]!r}"
        for key in old
        if key not in OPERATIONAL and old[key] != new[key]
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


def _gpus(sweep: Sweep) -> int:
    """How many GPUs the runs may use; 0 where they are to run on the CPU."""
    if all(run.config.device == "cpu" for run in sweep.runs):
        return 0
    import torch

    return torch.cuda.device_count()


@contextlib.contextmanager
def _lock(sweep: Sweep, path: Path) -> Iterator[int]:
    """Hold the sweep: the runs inherit the lock, so that it outlives a killed parent."""
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


def _start(
    run: PlannedRun,
    standing: Standing,
    slot: int,
    gpus: int,
    engine: str,
    track: Sequence[str],
    work: Path,
    lock: int,
) -> _Child:
    recipe = work / f"{run.name}.toml"
    config = run.config.replace(resume=standing.state == "begun")
    recipe.write_text(tomli_w.dumps(config.nested()), encoding="utf-8")
    environment = os.environ | {"OMP_NUM_THREADS": str(config.threads)}
    if gpus > 1 and config.device in ("auto", "cuda"):
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = visible.split(",") if visible else [str(i) for i in range(gpus)]
        environment["CUDA_VISIBLE_DEVICES"] = names[slot % gpus]
    arguments = ["run", str(recipe), "--engine", engine, "--json"]
    arguments += [part for name in track for part in ("--track", name)]
    with (work / f"{run.name}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", "from fedloge.commands.main import main; main()", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            pass_fds=(lock,),
        )
    return _Child(run, process, slot, time.monotonic())


def _outcome(child: _Child, work: Path) -> Outcome:
    seconds, code = time.monotonic() - child.began, child.process.returncode
    if code == 0:
        try:
            return Outcome(child.run, standing(child.run), seconds)
        except RunDirError as exc:
            return Outcome(child.run, Standing("begun"), seconds, str(exc))
    log = work / f"{child.run.name}.log"
    if code < 0:
        problem = f"killed by signal {signal.Signals(-code).name} (out of memory?); see {log}"
    else:
        said = [line for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
        problem = said[-1].removeprefix("fedloge: ") if said else f"exit code {code}; see {log}"
    return Outcome(child.run, Standing("begun"), seconds, problem)


def _stop(children: Sequence[_Child]) -> None:
    for child in children:
        child.process.terminate()
    deadline = time.monotonic() + _GRACE_SECONDS
    for child in children:
        try:
            child.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.process.kill()
            child.process.wait()


def _beginning(standing: Standing) -> str:
    return f"resumed after round {standing.rounds_done}" if standing.state == "begun" else "started"


def _ending(outcome: Outcome) -> str:
    if outcome.problem:
        return f"{outcome.run.name}: FAILED after {duration(outcome.seconds)}: {outcome.problem}"
    done = open_run(Path(outcome.run.config.runs_dir) / outcome.run.name)
    last = done.evaluated[-1] if done.evaluated else {}
    figures = [f"{side} {percent(last.get(name))} %" for side, name in done.primary.items()]
    return f"{outcome.run.name}: done in {duration(outcome.seconds)}, {', '.join(figures)}"


class _Clock:
    """Says now and then how far the whole is, and when it may be over."""

    def __init__(
        self, runs: Sequence[PlannedRun], standings: dict[str, Standing], jobs: int
    ) -> None:
        self._runs = list(runs)
        self._before = {run.name: standings[run.name].rounds_done for run in runs}
        self._jobs = jobs
        self._began = self._said = time.monotonic()

    def due(self) -> bool:
        """Whether it is time to say something."""
        if time.monotonic() - self._said < _STATUS_SECONDS:
            return False
        self._said = time.monotonic()
        return True

    def status(self, children: Sequence[_Child]) -> str:
        """The runs under way and the time that is left, judged by the rounds so far."""
        now = {run.name: _rounds_done(run) for run in self._runs}
        # A run that can no longer be read counts as not begun: less than before.
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


def _rounds_done(run: PlannedRun) -> int:
    try:
        return open_run(Path(run.config.runs_dir) / run.name).rounds_done
    except RunDirError:
        return 0


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Turn SIGTERM into KeyboardInterrupt while the block runs, so that no run outlives it."""

    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def failures(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The outcomes that are no success."""
    return [outcome for outcome in outcomes if outcome.problem]
