"""The runs of a sweep as separate processes, each with its configuration and its log in a file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tomli_w

from fedloge.config import Config
from fedloge.errors import RunDirError
from fedloge.sweeps.plan import PlannedRun, Sweep
from fedloge.sweeps.standing import Standing, standing

_GRACE_SECONDS = 10.0


@dataclass(frozen=True)
class Outcome:
    """How a planned run ended; `problem` is one line, empty if there was none."""

    run: PlannedRun
    standing: Standing
    seconds: float
    problem: str = ""


@dataclass(frozen=True)
class ChildRun:
    """A run under way; `slot` is its number, from 0, among those that run at once."""

    run: PlannedRun
    process: subprocess.Popen[bytes]
    slot: int
    began: float


@dataclass(frozen=True)
class Starter:
    """How the runs of one sweep are started.

    Attributes
    ----------
    folder : holds the runs' configurations and logs.
    lock : file descriptor of a lock; every run inherits it, so it is held until the last one ends.
    gpus : how many GPUs the runs share, one for each run, in turn; 0: none.
    """

    engine: str
    track: Sequence[str]
    folder: Path
    lock: int
    gpus: int

    def start(self, run: PlannedRun, standing: Standing, slot: int) -> ChildRun:
        """Start a run, or resume it where it has begun."""
        recipe = self.folder / f"{run.name}.toml"
        config = run.config.replace(resume=standing.state == "begun")
        recipe.write_text(tomli_w.dumps(config.nested()), encoding="utf-8")
        arguments = ["run", str(recipe), "--engine", self.engine, "--json"]
        arguments += [part for name in self.track for part in ("--track", name)]
        with log_file(self.folder, run).open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "fedloge", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment(config, slot),
                pass_fds=(self.lock,),
            )
        return ChildRun(run, process, slot, time.monotonic())

    def _environment(self, config: Config, slot: int) -> dict[str, str]:
        environment = os.environ | {"OMP_NUM_THREADS": str(config.threads)}
        if self.gpus > 1 and config.device in ("auto", "cuda"):
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            names = visible.split(",") if visible else [str(i) for i in range(self.gpus)]
            environment["CUDA_VISIBLE_DEVICES"] = names[slot % self.gpus]
        return environment


def usable_gpus(sweep: Sweep) -> int:
    """How many GPUs the runs may use; 0 if all runs are for the CPU."""
    if all(run.config.device == "cpu" for run in sweep.runs):
        return 0
    import torch  # for start-up time: `fedloge sweep --dry-run` on the CPU needs no torch

    return torch.cuda.device_count()


def log_file(folder: Path, run: PlannedRun) -> Path:
    """The file of what a run prints."""
    return folder / f"{run.name}.log"


def outcome(child: ChildRun, folder: Path) -> Outcome:
    """How a run whose process has ended went."""
    seconds, code = time.monotonic() - child.began, child.process.returncode
    if code == 0:
        try:
            return Outcome(child.run, standing(child.run), seconds)
        except RunDirError as exc:
            return Outcome(child.run, Standing("begun"), seconds, str(exc))
    log = log_file(folder, child.run)
    if code < 0:
        problem = f"killed by signal {signal.Signals(-code).name} (out of memory?); see {log}"
    else:
        said = [line for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
        problem = said[-1].removeprefix("fedloge: ") if said else f"exit code {code}; see {log}"
    return Outcome(child.run, Standing("begun"), seconds, problem)


def stop(children: Sequence[ChildRun]) -> None:
    """End the runs, by force if they do not end within some seconds."""
    for child in children:
        child.process.terminate()
    deadline = time.monotonic() + _GRACE_SECONDS
    for child in children:
        try:
            child.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.process.kill()
            child.process.wait()
