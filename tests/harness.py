"""Small real runs, in this process or in one that may be killed, and how to compare them."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from fedloge.config import Config, from_flat
from fedloge.engines.local import LocalGrid
from fedloge.federation import open_federation
from fedloge.observer import Observer, Observers
from fedloge.results.run import open_run
from fedloge.results.trained_model import Model
from fedloge.server.run_record import RunRecord
from fedloge.server.server_app import app as server_app

CHILD = Path(__file__).parent / "child.py"
RECORDS = ("metrics.jsonl", "clients.jsonl", "classes.jsonl")
TINY: dict[str, Any] = {
    "device": "cpu",
    "num-clients": 4,
    "clients-per-round": 3,
    "rounds": 3,
    "local-epochs": 1,
    "batch-size": 32,
    "evaluate-every": 1,
    "partitioner-options.alpha": 5.0,
    "imbalance-factor": 0.1,
}


def tiny(runs_dir: Path, name: str = "run", **changes: Any) -> Config:
    """A federation of four that takes a tenth of a second a round."""
    base = from_flat(TINY)
    return base.replace(runs_dir=str(runs_dir), name=name, **changes)


def frozen(folder: Path, **changes: Any) -> Config:
    """Digits under a frozen random ResNet-8, which is 2 MFLOP an image."""
    keys: dict[str, Any] = {
        "method": "fedavg",
        "model": "resnet8",
        "train_part": "none",
        "feature_scale": "standard",
        "cache_dir": str(folder / "cache"),
    }
    return tiny(folder, **(keys | changes))


def settings(**changes: Any) -> list[str]:
    """The same for the command line."""
    flat = TINY | {key.replace("_", "-"): value for key, value in changes.items()}
    return [arg for key, value in flat.items() for arg in ("--set", f"{key}={value}")]


def recipe(**changes: Any) -> str:
    """The same as lines of TOML."""
    flat = TINY | {key.replace("_", "-"): value for key, value in changes.items()}
    return "\n".join(f"{key} = {json.dumps(value)}" for key, value in flat.items())


def run_local(
    config: Config,
    grid: Callable[[Config], LocalGrid] = LocalGrid,
    observers: Iterable[Observer] = (),
) -> Path:
    """Run in this process; returns the run's folder."""
    made = grid(config)
    made.observers = Observers(observers)
    server_app(made, made.server_context())
    return Path(config.runs_dir) / config.name


def resume_local(
    folder: Path, grid: Callable[[Config], LocalGrid] = LocalGrid, **changes: Any
) -> Path:
    """Resume in this process, with the config that the run keeps."""
    from fedloge import config as configs

    config = configs.load(folder / "config.toml")
    return run_local(config.replace(resume=True, **changes), grid)


def called_again(step: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
    """What a CUDA graph does, by calling: the same memory is read and written at every replay."""
    step()
    terms = step()
    return lambda: terms.copy_(step()), terms


# What a run leaves


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    path = folder / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def newest_checkpoint(folder: Path) -> dict[str, Tensor]:
    manifest = json.loads((folder / "checkpoint/manifest.json").read_text())
    return load_file(folder / "checkpoint" / manifest["checkpoints"][-1]["file"])


def goes_on_from(folder: Path) -> dict[str, Tensor]:
    """The tensors of the newest checkpoint that the next round needs: not the heads that probes made."""
    tensors = newest_checkpoint(folder)
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("made.")}


def accuracy(model: Model, folder: Path, client: int | None = None) -> float:
    """A model's accuracy on the test images of a run: all, or a client's own."""
    federation = open_federation(open_run(folder).config)
    images, labels = federation.data.test.inputs, federation.data.test.labels
    if client is not None:
        own = torch.from_numpy(federation.partition.test[client])
        images, labels = images[own], labels[own]
    predicted = torch.cat([model(part).argmax(dim=1) for part in images.split(256)])
    return (predicted == labels).double().mean().item()


def model(folder: Path) -> dict[str, Tensor]:
    """The shared tensors of the newest checkpoint."""
    tensors = newest_checkpoint(folder)
    return {name: tensor for name, tensor in tensors.items() if name.startswith("shared.")}


def arrivals(folder: Path) -> list[dict[str, Any]]:
    """Whose answers came and counted, a line for each round."""
    return lines(folder, "arrivals")


def heads(folder: Path) -> dict[str, dict[str, Tensor]]:
    """Each client's newest personal state; nothing where no client has trained."""
    return {
        client.name: load_file(max(client.glob("round-*.safetensors")))
        for client in sorted((folder / "heads").glob("*"))
        if any(client.glob("round-*.safetensors"))
    }


def same_tensors(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def differences(one: Path, other: Path, records: tuple[str, ...] = RECORDS) -> list[str]:
    """In what two runs differ: tensors bit by bit, records byte by byte."""
    found = []
    if not same_tensors(newest_checkpoint(one), newest_checkpoint(other)):
        found.append("checkpoint")
    mine, theirs = heads(one), heads(other)
    if mine.keys() != theirs.keys():
        found.append("clients with heads")
    found += [k for k in mine.keys() & theirs.keys() if not same_tensors(mine[k], theirs[k])]
    found += [name for name in records if (one / name).read_bytes() != (other / name).read_bytes()]
    return found


def attempts(folder: Path) -> tuple[int, ...]:
    return RunRecord(folder, "", "").bases()


# The command line, in a process of its own


@dataclass(frozen=True)
class Finished:
    code: int
    out: str
    err: str


@cache
def _forkserver() -> multiprocessing.context.ForkServerContext:
    # A fresh process for every command, forked from one that has torch and Flower imported:
    # seconds saved each time, and nothing of the test's own process in it.
    context = multiprocessing.get_context("forkserver")
    needed = ("engines.local", "results.terminal_tables", "results.report", "commands.main")
    heavy = ["torch._dynamo", "sklearn.datasets"]
    context.set_forkserver_preload([*(f"fedloge.{name}" for name in needed), *heavy])
    return context


class Command:
    """`fedloge ARGS` running in a process that a test may kill."""

    def __init__(self, args: tuple[str, ...], folder: Path, env: dict[str, str]) -> None:
        import runpy

        folder.mkdir(parents=True, exist_ok=True)
        number = len(list(folder.glob("*.out")))
        self.out, self.err = folder / f"{number}.out", folder / f"{number}.err"
        values = {"ARGS": args, "OUT": str(self.out), "ERR": str(self.err), "ENV": env}
        values["CWD"] = str(folder)
        self.process: ForkServerProcess = _forkserver().Process(
            target=runpy.run_path, args=(str(CHILD), values)
        )
        self.process.start()

    def finish(self, timeout: float = 120) -> Finished:
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            raise TimeoutError(f"fedloge did not end within {timeout} s: {self.err.read_text()}")
        return Finished(self.process.exitcode, self.out.read_text(), self.err.read_text())

    def kill(self) -> bool:
        """SIGKILL; whether there was still something to kill."""
        alive = self.process.is_alive()
        if alive:
            assert self.process.pid is not None
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()
        return alive

    def kill_after(self, condition: Callable[[], bool], timeout: float = 60) -> bool:
        deadline = time.monotonic() + timeout
        while self.process.is_alive() and not condition() and time.monotonic() < deadline:
            time.sleep(0.002)
        return self.kill()


def fedloge(*args: str | Path, folder: Path, **env: str) -> Finished:
    """`fedloge ARGS` to its end."""
    return Command(tuple(map(str, args)), folder, env).finish()


def mount_small_disk(folder: Path, kibibytes: int) -> Callable[[], None] | None:
    """A real file system of this size at `folder`; None where mounting is not permitted."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        return None
    if done.returncode:
        return None
    return lambda: subprocess.run(["umount", "-l", str(folder)], check=True) and None
