"""What a message costs at a site: with Flower's own SuperExec, and with the imports kept warm.

`uv run python experiments/benchmarks/message_cost.py`

One SuperLink and one site on loopback, the digits with the small CNN, one client of two a round. The
run and its bits are the same each time. Wall seconds are those of a round, which is one message; CPU
seconds are those of the site's SuperExec and all it started, less what it took to start, by message.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Annotated

import typer

from fedloge.console import print_json, stdout

WAYS = {"flower-superexec": ["flower-superexec"], "warm": ["fedloge", "superexec"]}
BIN = Path(sys.executable).parent


def free_ports(number: int) -> list[int]:
    """Ports of loopback that nobody listens on."""
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in held:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in held]


def cpu_seconds(session: int) -> float:
    """Of all processes of a session, and of those that have ended in it and were waited for."""
    ticks = 0
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError, IndexError):
            if entry.name.isdigit() and os.getsid(int(entry.name)) == session:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


class Federation:
    """A SuperLink, and sites with the given command in place of their SuperExec."""

    def __init__(self, folder: Path, command: list[str]) -> None:
        self.folder = folder
        self.link, *self.nodes = free_ports(3)
        self.site: list[subprocess.Popen[bytes]] = []
        self._all: list[subprocess.Popen[bytes]] = []
        self._command = command
        home = folder / "flwr"
        home.mkdir(parents=True)
        (home / "config.toml").write_text(
            f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "127.0.0.1:{self.link}"\ninsecure = true\n'
        )
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("FLWR_")},
            **{"FLWR_HOME": str(home), "FLWR_TELEMETRY_ENABLED": "0", "OMP_NUM_THREADS": "1"},
            **{"FLWR_DISABLE_UPDATE_CHECK": "1", "PATH": f"{BIN}:{os.environ['PATH']}"},
        }

    @contextlib.contextmanager
    def up(self) -> Iterator[None]:
        """While the block runs; nothing is left of it."""
        try:
            self._start(
                *("flower-superlink", "--insecure", f"--port={self.link}", "--host=127.0.0.1"),
                *("--disable-runtime-dependency-installation", f"--database={self.folder}/link.db"),
            )
            time.sleep(5)
            for k, port in enumerate(self.nodes):
                state = f'state-dir="{self.folder}/state-{k}"'
                self._start(
                    *("flower-supernode", "--insecure", f"--superlink=127.0.0.1:{self.link}"),
                    *(f"--port={port}", "--isolation=process", "--node-config"),
                    f"partition-id={k} num-partitions=2 {state}",
                )
                self.site.append(
                    self._start(
                        *self._command, "--insecure", f"--runtime-api-address=127.0.0.1:{port}"
                    )
                )
            yield
        finally:
            for process in self._all:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM)
            for process in self._all:
                process.wait()

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=self.environment,
                start_new_session=True,
            )
        self._all.append(process)
        return process

    def run(self, rounds: int) -> Path:
        """A run to its end; its folder."""
        settings = {
            **{"num-clients": 2, "clients-per-round": 1, "rounds": rounds, "local-epochs": 1},
            **{"evaluate-every": rounds, "dataset": "digits", "runs-dir": self.folder},
        }
        sets = [f"--set={key}={value}" for key, value in settings.items()]
        command = ["fedloge", "run", "--engine=superlink", "--superlink=here", "--name=run", *sets]
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            log = (self.folder / "log").read_text(errors="replace")
            raise typer.BadParameter(done.stderr + log[-3000:])
        return self.folder / "run"


def measured(way: str, rounds: int, folder: Path) -> dict[str, float]:
    """Seconds a message, and the run's model for comparing."""
    federation = Federation(folder, WAYS[way])
    with federation.up():
        time.sleep(15)  # the imports of a warm parent are no part of a message
        before = sum(cpu_seconds(site.pid) for site in federation.site)
        run = federation.run(rounds)
        spent = sum(cpu_seconds(site.pid) for site in federation.site) - before
    timing = [json.loads(line) for line in (run / "timing.jsonl").read_text().splitlines()]
    messages = 2 + rounds + 2  # whoami, training, and both evaluate in the last round
    return {
        "wall seconds": median(line["train-seconds"] for line in timing),
        "CPU seconds": spent / messages,
    }


def main(
    rounds: Annotated[int, typer.Option(help="Rounds of a run.", min=1)] = 8,
    repeats: Annotated[int, typer.Option(help="Runs of each, in turn.", min=1)] = 2,
    json_: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
) -> None:
    """Measure both ways in turn, and print medians and their ratio."""
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(repeats):
            for way, rows in found.items():
                rows.append(measured(way, rounds, Path(folder) / f"{way}-{repeat}"))
    cost = {
        way: {key: round(median(row[key] for row in all_), 2) for key in all_[0]}
        for way, all_ in found.items()
    }
    if json_:
        print_json(cost)
        return
    for way, row in cost.items():
        stdout().print(f"{way:18} " + ", ".join(f"{key} {value:.2f}" for key, value in row.items()))


if __name__ == "__main__":
    typer.run(main)
