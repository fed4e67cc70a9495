"""The same two apps under Flower's own simulation give the local engine's bits."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import harness
import pytest
import tomli_w

from fedloge import config as configs

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {
    # The packages are those of this interpreter: no fresh environment for each run.
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ADDRESS": "local",
    "OMP_NUM_THREADS": "1",
}


class Flower:
    """`flwr` with a home and a SuperLink of its own.

    `flwr run . local` would start that SuperLink by itself, on a port that is the same for
    everybody, and give it a few seconds: no ground for a test on a busy machine.
    """

    def __init__(self, folder: Path) -> None:
        self.home, self.cwd = folder / "home", folder / "cwd"
        self.home.mkdir()
        self.cwd.mkdir()
        scripts = Path(sys.executable).parent
        path = f"{scripts}{os.pathsep}{os.environ['PATH']}"
        self.env = os.environ | ENVIRONMENT | {"FLWR_HOME": str(self.home), "PATH": path}
        self.flwr = scripts / "flwr"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        connection = {"address": f"127.0.0.1:{self.port}", "insecure": True}
        (self.home / "config.toml").write_text(tomli_w.dumps({"superlink": {"test": connection}}))
        options = (
            f"--insecure --simulation --isolation subprocess --host 127.0.0.1 --port {self.port}"
        )
        self.superlink = subprocess.Popen(
            [scripts / "flower-superlink", *options.split()],
            env=self.env,
            cwd=self.cwd,
            stdout=(folder / "superlink.log").open("w"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def wait(self) -> None:
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline and self.superlink.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5):
                    return
            except OSError:
                time.sleep(0.2)
        raise TimeoutError("the SuperLink did not start")

    def __call__(self, *args: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.flwr, *args],
            env=self.env,
            cwd=self.cwd,
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )

    def stop(self) -> None:
        self.superlink.terminate()
        try:
            self.superlink.wait(20)
        except subprocess.TimeoutExpired:
            pass
        finally:
            # The processes it started are of its session, and may outlive it.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.superlink.pid, signal.SIGKILL)
            self.superlink.wait()


@pytest.fixture
def flower(tmp_path: Path) -> Iterator[Flower]:
    made = Flower(tmp_path)
    try:
        made.wait()
        yield made
    finally:
        made.stop()


@pytest.mark.slow
@pytest.mark.timeout(600)  # most of it is processes importing torch, on however few cores there are
def test_flowers_simulation_gives_the_local_engines_bits(flower: Flower, tmp_path: Path) -> None:
    config = configs.from_flat(harness.TINY | {"rounds": 2, "name": "flower"})
    # Flower takes scalars alone: each table is a string.
    (flower.cwd / "run.toml").write_text(tomli_w.dumps(config.for_flower()))
    # One worker process, whatever the machine: starting it is what takes the time.
    cores = len(os.sched_getaffinity(0))
    nodes = f"num-supernodes={config.num_clients} client-resources-num-cpus={cores}"
    started = flower(
        "run", ROOT, "test", "--stream", "--run-config", "run.toml", "--federation-config", nodes
    )
    said = started.stdout + started.stderr
    # `--stream` ends well even for a run that failed: `flwr ls` knows.
    listed = json.loads(flower("ls", "test", "--format", "json").stdout)
    assert [run["status"] for run in listed["runs"]] == ["finished:completed"], said[-3000:]

    # `runs-dir` is relative to where the SuperLink was started, and the log names it whole.
    folder = flower.cwd / "runs/flower"
    assert f"fedloge: run flower is complete: {folder}" in said
    assert {path.name for path in (folder / "heads").iterdir()} <= {
        f"client-{k:05d}" for k in range(4)
    }
    ours = harness.run_local(harness.tiny(tmp_path, "local", rounds=2))
    assert harness.differences(ours, folder) == []

    # The run can go on without Flower's engine.
    resumed = harness.fedloge("resume", folder, "--rounds", "3", folder=tmp_path / "cli")
    assert resumed.code == 0, resumed.err
    longer = harness.run_local(harness.tiny(tmp_path, "longer", rounds=3))
    assert harness.differences(longer, folder) == []
