"""The same two apps under Flower's own simulation give the local engine's bits."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
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
from flwr.common.config import parse_config_args

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

    `flwr run .` would start that SuperLink by itself, on a port that is the same for
    everybody, and give it a few seconds: no ground for a test on a busy machine.
    """

    def __init__(self, folder: Path) -> None:
        self.home, self.cwd = folder / "home", folder / "cwd"
        self.home.mkdir()
        self.cwd.mkdir()
        scripts = Path(sys.executable).parent
        path = f"{scripts}{os.pathsep}{os.environ['PATH']}"
        self.env = os.environ | ENVIRONMENT | {"FLWR_HOME": str(self.home), "PATH": path}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        connection = {"address": f"127.0.0.1:{self.port}", "insecure": True}
        # The connection of commands that name none, in place of one to the SuperLink of everybody.
        connections = {"superlink": {"default": "test", "test": connection}}
        (self.home / "config.toml").write_text(tomli_w.dumps(connections))
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
        return self.shell(shlex.join(["flwr", *map(str, args)]))

    def shell(self, script: str) -> subprocess.CompletedProcess[str]:
        """What a person types in this project's folder."""
        return subprocess.run(
            ["bash", "-ec", script],
            env=self.env,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )

    def ended(self) -> list[tuple[str, str]]:
        """How the runs ended, the newest first: `--stream` ends well even for a run that failed."""
        runs = json.loads(self("ls", "--format", "json").stdout)["runs"]
        return [(run["status"], run["status-details"]) for run in runs]

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


@pytest.fixture(scope="module")
def flower(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flower]:
    made = Flower(tmp_path_factory.mktemp("flower"))
    try:
        made.wait()
        yield made
    finally:
        made.stop()


def readmes_command() -> str:
    """The block of the README that starts a run on Flower's own simulation."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```\w*\n(.*?)^```$", text, re.S | re.M)
    (command,) = (block for block in blocks if "flwr run ." in block)
    return command


@pytest.mark.slow
@pytest.mark.timeout(600)  # most of it is processes importing torch, on however few cores there are
def test_the_readmes_command_gives_the_local_engines_bits(flower: Flower, tmp_path: Path) -> None:
    started = flower.shell(readmes_command())
    said = started.stdout + started.stderr
    assert flower.ended()[0][0] == "finished:completed", said[-3000:]

    # `runs-dir` is relative to where the SuperLink was started, and the log names it whole.
    folder = flower.cwd / "runs/fedloge-digits-1"
    assert f"fedloge: run fedloge-digits-1 is complete: {folder}" in said
    assert {path.name for path in (folder / "heads").iterdir()} <= {
        f"client-{k:05d}" for k in range(20)
    }
    # A simulation is nobody's site: it has no audit log.
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    typed = shlex.split(readmes_command(), comments=True)
    given = parse_config_args([typed[typed.index("--run-config") + 1]])
    config = configs.from_flat(given).replace(runs_dir=str(tmp_path), name="local")
    ours = harness.run_local(config)
    assert harness.differences(ours, folder) == []

    # The run can go on without Flower's engine.
    resumed = harness.fedloge("resume", folder, "--rounds", "4", folder=tmp_path / "cli")
    assert resumed.code == 0, resumed.err
    assert harness.differences(harness.resume_local(ours, rounds=4), folder) == []


@pytest.mark.deployment_faults  # test_ray.py has masked sums in CI; this one starts Flower's processes
@pytest.mark.timeout(600)
def test_masked_sums_in_flowers_simulation_leave_the_plain_record(
    flower: Flower, tmp_path: Path
) -> None:
    settings = {"name": "masked", "num-clients": 4, "clients-per-round": 3, "rounds": 1}
    settings |= {"partitioner-options": "alpha = 5.0", "local-epochs": 1}
    asked = " ".join(f"{k}={json.dumps(v)}" for k, v in settings.items())
    start = "flwr run . --stream --federation-config num-supernodes=4 --run-config"
    started = flower.shell(
        "export FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1; "
        f"{start} {shlex.quote(asked + ' secure-aggregation=true')}"
    )
    assert flower.ended()[0][0] == "finished:completed", (started.stdout + started.stderr)[-3000:]
    plain = configs.from_flat(settings).replace(runs_dir=str(tmp_path))
    assert harness.differences(harness.run_local(plain), flower.cwd / "runs/masked") == []


@pytest.mark.deployment_faults  # tests/server/test_simulated_nodes.py asks Flower's grid in this process
@pytest.mark.timeout(600)
def test_too_few_simulated_nodes_are_named_at_once_with_the_remedy(flower: Flower) -> None:
    started = flower("run", ".", "--stream")
    remedy = (
        "Flower simulates 2 SuperNodes, and the run has 20 clients; "
        "give flwr run --federation-config num-supernodes=20"
    )
    assert f"fedloge: the run has not started: {remedy}\n" in started.stdout + started.stderr
    status, details = flower.ended()[0]
    assert status == "finished:failed" and details.endswith(remedy)
