"""Thousands of natural clients: how long a run takes to start, its memory, and its personal states on disk.

    uv run python experiments/benchmarks/natural_users.py --table users.csv.gz    # columns user_id, class
    uv run python experiments/benchmarks/natural_users.py --users 9275            # a table of this many users

Images are generated: 32 x 32, each class a pattern of its own under noise. Every user is a client.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from scale import memory

import fedloge
from fedloge.config import Config
from fedloge.data import DataSet, Examples, ImagePreparation, Manifest, read_table
from fedloge.observer import Observer, RoundDone, RunStarted
from fedloge.rng import rng

CLASSES, PER_CLASS = 1203, 100


def data(config: Config) -> DataSet:
    """Generated images in the layout of a table; ``data-path`` is the table, or a number of users."""
    lines = read_table(Path(config.data_path)) if not config.data_path.isdecimal() else None
    lines = lines or invented(int(config.data_path))
    names, labels = lines.numbered("label")
    middle = (0.5,) * 3
    return DataSet(
        name="natural users",
        train=Examples(images(labels), torch.from_numpy(labels)),
        test=Examples(torch.empty(0, 3, 32, 32, dtype=torch.uint8), torch.empty(0).long()),
        classes=names,
        preparation=ImagePreparation(middle, middle, "none"),
        train_manifest=lines,
    )


def invented(users: int) -> Manifest:
    """As many images of each class, over users of log-normal size: 1 to some thousands of images each."""
    draw = rng(0, "invented-users")
    sizes = np.exp(1.5 * draw.standard_normal(users))
    owners = np.concatenate(
        [
            np.arange(users),
            draw.choice(users, CLASSES * PER_CLASS - users, p=sizes / sizes.sum()),
        ]
    )
    labels = draw.permutation(np.repeat(np.arange(CLASSES), PER_CLASS))
    return Manifest({"site": list(map(str, owners)), "label": list(map(str, labels))})


def images(labels: np.ndarray) -> torch.Tensor:
    """uint8 images: the class's pattern of 4 x 4 squares, under noise."""
    draw = rng(0, "patterns")
    patterns = draw.integers(0, 200, (labels.max() + 1, 3, 4, 4), dtype=np.uint8)
    made = np.empty((len(labels), 3, 32, 32), dtype=np.uint8)
    for part in np.array_split(np.arange(len(labels)), 1 + len(labels) // 4096):
        squares = patterns[labels[part]].repeat(8, axis=2).repeat(8, axis=3)
        made[part] = squares + draw.integers(0, 56, squares.shape, dtype=np.uint8)
    return torch.from_numpy(made)


class _Watch(Observer):
    """Notes when the rounds begin, and the memory after each."""

    def __init__(self, only_start: bool) -> None:
        self.only_start = only_start
        self.began, self.memory = time.monotonic(), list[float]()
        self.start: dict[str, float] = {}

    def on_start(self, event: RunStarted) -> None:
        self.start = {
            "seconds to the first round": round(time.monotonic() - self.began, 1),
            "of these processor seconds, with Python's start": round(time.process_time(), 1),
            "MiB at the first round": round(memory()),
        }
        if self.only_start:
            sys.stdout.write(json.dumps(self.start, indent=1) + "\n")
            raise SystemExit

    def on_round(self, event: RoundDone) -> None:
        self.memory.append(memory())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run some rounds and print what they took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", default="")
    parser.add_argument("--users", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--evaluate-every", type=int, default=10**6)
    parser.add_argument("--only-start", action="store_true")
    given = parser.parse_args(arguments)
    watch = _Watch(given.only_start)
    with TemporaryDirectory(prefix="fedloge-users-") as folder:
        run = fedloge.run(
            Config(
                dataset=f"{Path(__file__).resolve()}:data", partitioner="natural", num_clients=0
            ),
            observers=[watch],
            data_path=given.table or str(given.users),
            clients_per_round=100,
            rounds=given.rounds,
            evaluate_every=given.evaluate_every,
            local_epochs=1,
            norm="group",
            # A simplex of 1,203 rows needs 1,202 features; this network has 128.
            method_options={"prototypes": "none"},
            checkpoint_every=2,
            device="cpu",
            runs_dir=folder,
            name="users",
        )
        heads = sorted((run.path / "heads").rglob("*.safetensors"))
        stored = sum(file.stat().st_size for file in heads)
        clients = len({file.parent for file in heads})
        found = {
            "clients": run.config.num_clients,
            **watch.start,
            "MiB after each round": [round(value) for value in watch.memory],
            "clients with personal state": clients,
            "files of personal state": len(heads),
            "bytes of personal state": stored,
            "bytes of the newest heads themselves": sum(map(_tensors, _newest(heads))),
            "seconds a round": [round(line["seconds"], 1) for line in run.timing_lines],
            "last": run.evaluated[-1] if run.evaluated else {},
        }
    print(json.dumps(found, indent=1))  # noqa: T201


def _newest(files: Sequence[Path]) -> list[Path]:
    return list({file.parent: file for file in files}.values())


def _tensors(file: Path) -> int:
    """Bytes of a file's tensors, without its header."""
    with file.open("rb") as f:
        return file.stat().st_size - 8 - int.from_bytes(f.read(8), "little")


if __name__ == "__main__":
    main()
