"""Thousands of users on kept features: what rounds and a head in closed form over all of them take.

    uv run python experiments/benchmarks/users_on_features.py --table users.csv.gz   # columns user_id, class
    uv run python experiments/benchmarks/users_on_features.py --users 9275           # a table of this many users

Features of 1,280 numbers are made up; every user is a client. ``--head`` solves for the head of all users in
closed form, in the place of rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from natural_users import invented
from scale import memory

import fedloge
from fedloge.config import Config
from fedloge.data import read_table
from fedloge.observer import Observer, RoundDone, RunStarted

DATA = f"{Path(__file__).with_name('made_up_features.py').resolve()}:of_users"


class _Watch(Observer):
    """When the rounds begin, what they take, and the memory after each."""

    def __init__(self) -> None:
        self.made = self.began = time.monotonic()
        self.memory: list[float] = []
        self.seconds: list[float] = []
        self.processor: list[float] = []

    def on_start(self, event: RunStarted) -> None:
        self.began = time.monotonic()
        self.processor.append(sum(os.times()[:4]))

    def on_round(self, event: RoundDone) -> None:
        self.memory.append(memory())
        self.seconds.append(time.monotonic() - self.began)
        self.processor.append(sum(os.times()[:4]))


def settings(given: argparse.Namespace) -> dict[str, Any]:
    """A linear head by 100 users a round; or all users in one, for a head in closed form."""
    if given.head:
        table = read_table(Path(given.table)) if given.table else invented(given.users)
        assert table is not None
        return {
            "method": "fed3r",
            "method_options": {"head": given.head},
            "rounds": 1,
            "clients_per_round": given.asked or len(set(table.column("site"))),
        }
    return {
        "method": "fedavg",
        "method_options": {"loss": "balanced-softmax", "tune-epochs": 0},
        "rounds": given.rounds,
        "clients_per_round": given.asked or 100,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", default="")
    parser.add_argument("--users", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--engine", default="local")
    parser.add_argument("--head", default="", help="raw, normalised or fedcof")
    parser.add_argument("--asked", type=int, default=0, help="users a round")
    given = parser.parse_args(arguments)
    watch, chosen = _Watch(), settings(given)
    with TemporaryDirectory(prefix="fedloge-users-") as folder:
        run = fedloge.run(
            Config(dataset=DATA, partitioner="natural", num_clients=0),
            observers=[watch],
            engine=given.engine,
            data_path=given.table or str(given.users),
            model="identity",
            feature_scale="standard",
            local_epochs=1,
            batch_size=32,
            momentum=0.0,
            lr=0.1,
            evaluate_every=10**6,
            checkpoint_every=100,
            device="cpu",
            runs_dir=folder,
            name="users",
            **chosen,
        )
        last = run.timing_lines[-1]
        found = {
            "clients": run.config.num_clients,
            "rounds": run.config.rounds,
            "seconds to the first round": round(watch.began - watch.made, 1),
            "seconds of all rounds": round(watch.seconds[-1], 1),
            "of the last evaluation": round(last.get("evaluate-seconds", 0.0), 1),
            "processor seconds of all rounds": round(watch.processor[-1] - watch.processor[0], 1),
            "MiB after the first, a middle and the last round": [
                round(watch.memory[k]) for k in (0, len(watch.memory) // 2, -1)
            ],
            "bytes up a round": last["bytes-up"],
        }
    print(json.dumps(found, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
