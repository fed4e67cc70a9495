"""Compare the speed of two checkouts, by the same runs with both commands, in turn.

``uv run python experiments/benchmarks/against.py --old OTHER/.venv/bin/fedloge``
"""

from __future__ import annotations

import json
import os
import resource
import shlex
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import noise_data
import torch
import typer
from PIL import Image
from rich.table import Table

from fedloge.console import fail, stderr, stdout
from fedloge.errors import FedlogeError, InputError, RunError

SHARED_SETTINGS: dict[str, Any] = {
    "device": "cpu",
    "threads": 1,
    "dataset": "image-folder",
    "long-tail": "none",
    "partitioner": "iid",
    "local-epochs": 1,
    "batch-size": 8,
    "evaluate-every": noise_data.NEVER,
}
"""Settings of every run; both commands must know their keys."""


@dataclass(frozen=True)
class Workload:
    """A run whose rounds are timed.

    Attributes
    ----------
    clients : in the federation; all take part in every round.
    images : training images of each client, square images of noise.
    side : of an image, in pixels.
    rounds : that are timed.
    """

    name: str
    model: str
    clients: int
    images: int
    side: int
    rounds: int

    def settings(self, data: Path) -> dict[str, Any]:
        """The config of a run. Two more rounds are not timed: the first warms up, the last is evaluated."""
        return SHARED_SETTINGS | {
            "model": self.model,
            "data-path": str(data),
            "num-clients": self.clients,
            "clients-per-round": self.clients,
            "rounds": self.rounds + 2,
        }

    def write_images(self, folder: Path) -> Path:
        """Write the data, the same for both commands; returns the folder."""
        count = self.clients * self.images
        for split, number, seed in (("train", count, 1), ("test", max(20, count // 5), 2)):
            made = noise_data.images(number, (3, self.side, self.side), seed)
            for place, (pixels, label) in enumerate(zip(made.inputs, made.labels, strict=True)):
                path = folder / split / str(int(label)) / f"{place:06d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(path)
        return folder


def workloads(quick: bool) -> tuple[Workload, ...]:
    """Training that is nearly all arithmetic, and rounds that are nearly all overhead."""
    if quick:
        return (
            Workload("training, ResNet-8", "resnet8", 2, 40, 32, rounds=3),
            Workload("100 of 100 tiny clients", "cnn", 100, 2, 8, rounds=3),
        )
    return (
        Workload("training, ResNet-8", "resnet8", 4, 350, 32, rounds=5),
        Workload("1,000 of 1,000 tiny clients", "cnn", 1000, 2, 8, rounds=4),
    )


def time_run(command: list[str], settings: dict[str, Any], cache: Path) -> dict[str, float]:
    """The median seconds per round, and the processor seconds of the whole command.

    Raises
    ------
    RunError
        The command failed; the text is the last line that it printed.
    """
    with TemporaryDirectory(prefix="fedloge-against-") as folder:
        sets = [f"--set={key}={value}" for key, value in settings.items()]
        whole = [*command, "run", "--engine=local", f"--runs-dir={folder}", "--name=timed", *sets]
        before = _processor_of_children()
        # Each command has its own cache, since the two may store decoded images in different ways.
        environment = os.environ | {"FEDLOGE_CACHE": str(cache)}
        environment.pop("PYTHONPATH", None)
        done = subprocess.run(
            whole, capture_output=True, text=True, cwd=folder, env=environment, check=False
        )
        if done.returncode:
            last = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
            raise RunError(f"{shlex.join(command)}: {last}")
        lines = (Path(folder) / "timed" / "timing.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if "evaluate-seconds" not in row][1:]
    return {
        "round": statistics.median(row["seconds"] for row in rows),
        "processor": _processor_of_children() - before,
    }


def paired(
    time_old: Callable[[], dict[str, float]],
    time_new: Callable[[], dict[str, float]],
    repeats: int,
) -> list[tuple[dict[str, float], dict[str, float]]]:
    """Time both in turn, the old first in every other pair, so that a drift of the machine evens out."""
    pairs = []
    for number in range(repeats):
        if number % 2:
            new = time_new()
            old = time_old()
        else:
            old = time_old()
            new = time_new()
        pairs.append((old, new))
    return pairs


def compared(pairs: list[tuple[dict[str, float], dict[str, float]]]) -> dict[str, dict[str, float]]:
    """For each figure: the medians, and the median, lowest and highest of the pairs' ratios.

    The interval from lowest to highest misses the ratio's true median with probability 2^(1-n) for
    n pairs, whatever the distribution: 3 % for six.
    """
    found = {}
    for figure in pairs[0][0]:
        ratios = [new[figure] / old[figure] for old, new in pairs]
        found[figure] = {
            "old": statistics.median(old[figure] for old, _ in pairs),
            "new": statistics.median(new[figure] for _, new in pairs),
            "ratio": statistics.median(ratios),
            "low": min(ratios),
            "high": max(ratios),
        }
    return found


def _processor_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _table(results: dict[str, dict[str, dict[str, float]]], repeats: int) -> Table:
    table = Table(title=f"New over old, {repeats} pairs of runs", title_justify="left")
    table.add_column("what")
    for heading in ("old", "new", "ratio", "lowest .. highest"):
        table.add_column(heading, justify="right")
    named = {"round": "per round", "processor": "the whole command, processor"}
    for workload, figures in results.items():
        table.add_row(f"[bold]{workload}[/]")
        for figure, row in figures.items():
            table.add_row(
                f"  {named[figure]}",
                f"{row['old']:.3f} s",
                f"{row['new']:.3f} s",
                f"{row['ratio']:.3f}",
                f"{row['low']:.3f} .. {row['high']:.3f}",
            )
    return table


def against(
    old: Annotated[str, typer.Option(metavar="COMMAND", help="The other checkout's `fedloge`.")],
    new: Annotated[
        str, typer.Option(metavar="COMMAND", help="Default: the `fedloge` of this Python.")
    ] = "",
    repeats: Annotated[int, typer.Option(min=1, help="Pairs of runs of each workload.")] = 6,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A config key of both; repeatable."),
    ] = None,
    limit: Annotated[
        float, typer.Option(help="Exit with code 1 if a round's ratio is above this.")
    ] = 1.03,
    quick: Annotated[bool, typer.Option("--quick", help="Small work.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False,
) -> None:
    """Time the same runs by two `fedloge` commands, in turn."""
    commands = {"old": shlex.split(old), "new": shlex.split(new) or [_own_command()]}
    pairs_of = [item.partition("=") for item in set_ or ()]
    if wrong := [key for key, equals, _ in pairs_of if not equals]:
        raise InputError(f"--set {wrong[0]}: expected key=value")
    changes = {key: value for key, _, value in pairs_of}
    results = {}
    with TemporaryDirectory(prefix="fedloge-against-") as made, stderr().status("") as status:
        for number, workload in enumerate(workloads(quick)):
            data = workload.write_images(Path(made) / f"images-{number}")
            settings = workload.settings(data) | changes

            def timed(side: str, name: str = workload.name, settings: Any = settings) -> Any:
                status.update(f"{name}: {side}")
                return time_run(commands[side], settings, Path(made) / f"cache-{side}")

            for side in commands:
                timed(side)  # decodes the images and warms the disk; does not count
            pairs = paired(partial(timed, "old"), partial(timed, "new"), repeats)
            results[workload.name] = compared(pairs)
    if json_:
        sys.stdout.write(json.dumps({"repeats": repeats, "results": results}, indent=1) + "\n")
    else:
        stdout().print(_table(results, repeats))
    slower = [n for n, figures in results.items() if figures["round"]["ratio"] > limit]
    if slower:
        raise RunError(f"slower than {limit:g} times the old: {'; '.join(slower)}")


def _own_command() -> str:
    return str(Path(sys.executable).with_name("fedloge"))


if __name__ == "__main__":
    sys.argv[0] = "against"
    torch.set_num_threads(1)
    try:
        typer.run(against)
    except FedlogeError as exc:
        fail(str(exc), exc.exit_code)
