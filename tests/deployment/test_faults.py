"""What a deployment does when a part of it is killed. Minutes long: pytest -m deployment_faults."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from harness import TINY
from safetensors import safe_open
from safetensors.torch import load_file

if TYPE_CHECKING:
    from .conftest import Deployment

log = logging.getLogger(__name__)

pytestmark = [pytest.mark.deployment_faults, pytest.mark.timeout(1800)]

SMALL: dict[str, Any] = TINY | {
    "num-clients": 3,
    "clients-per-round": 3,
    "evaluate-every": 100,
}


@pytest.fixture(scope="module")
def up(deploy: Callable[..., Deployment]) -> Deployment:
    deployment = deploy()
    deployment.start_all()
    return deployment


def rows(folder: Path, name: str = "metrics") -> list[dict[str, Any]]:
    path = folder / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def until(seen: Callable[[], bool], seconds: float, what: str) -> float:
    """Wait for something; how long it took."""
    began = time.monotonic()
    while not seen():
        if time.monotonic() - began > seconds:
            pytest.fail(f"not within {seconds} s: {what}")
        time.sleep(0.5)
    return time.monotonic() - began


def submit(up: Deployment, name: str, **settings: Any) -> subprocess.Popen[str]:
    arguments = up.arguments("run", f"--name={name}", f"--runs-dir={up.runs}", **settings)
    return subprocess.Popen(
        [Path(sys.executable).with_name("fedloge"), *arguments],
        env=up.environment,
        cwd=up.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def head(up: Deployment, k: int, run: str) -> dict[str, Any]:
    """What the newest stored head of client k says of itself."""
    paths = sorted((up.folder / f"state-{k}").glob(f"{run}-*/client-{k:05d}/*.safetensors"))
    with safe_open(paths[-1], framework="pt") as f:
        return json.loads(f.metadata()["fedloge"])


def test_a_killed_supernode_comes_back_and_finds_its_head(up: Deployment) -> None:
    folder = up.runs / "node"
    # A round that lacks one of three goes on: two are the quorum. The time limit matters: a node
    # that is back before the SuperLink has missed it neither answers nor counts as gone.
    run = submit(up, "node", **SMALL | {"rounds": 8, "min_fraction": 0.6, "round_timeout": 150})
    until(lambda: len(rows(folder)) >= 1, 600, "round 1")
    until(lambda: "ROUND 2" in up.log("supernode-2"), 300, "round 2 at the client")
    up.kill(*up.client(2))
    before = head(up, 2, "node")
    killed = time.monotonic()
    # What `restart: unless-stopped` does: again and again, until the old heartbeat has lapsed.
    refused = 0
    while True:
        try:
            up.start(*up.client(2))
            time.sleep(15)
            if up.processes["supernode-2"].poll() is None:
                break
        except RuntimeError:
            pass
        refused += 1
        up.kill(*up.client(2))
        assert refused < 40
    log.info("back after %.0f s, refused %d times", time.monotonic() - killed, refused)
    output, _ = run.communicate(timeout=1500)
    assert run.returncode == 0, output

    took_part = [row["clients"] for row in rows(folder)]
    failures = rows(folder, "failures")
    log.info("clients a round: %s; failures: %s", took_part, failures)
    assert min(took_part) == 2 and took_part[-1] == 3
    assert {row["client"] for row in failures} == {2}
    after = head(up, 2, "node")
    # It went on from the head it had, and did not begin anew.
    missed = len(failures)
    assert before["rounds-trained"] >= 1
    assert after["rounds-trained"] in (8 - missed, 8 - missed + 1)
    assert after["rounds-trained"] > before["rounds-trained"] and after["round"] == 8


def test_a_killed_server_resumes_from_its_checkpoint(up: Deployment, tmp_path: Path) -> None:
    folder = up.runs / "link"
    run = submit(up, "link", **SMALL | {"rounds": 4})
    until(lambda: len(rows(folder)) >= 2, 600, "round 2")
    app = [
        pid for pid in up.alive() if b"flwr-serverapp" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    up.kill("superlink", "superexec-server")
    for pid in app:  # it runs in a container with its superexec, and dies with it
        if Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGKILL)
    killed = time.monotonic()
    up.start("superlink")
    up.start("superexec-server")
    log.info("server healthy again %.0f s after it was killed", time.monotonic() - killed)
    output, _ = run.communicate(timeout=600)
    # Flower ends the run as failed; whoever followed it is told so.
    assert run.returncode == 1 and "finished:failed" in output, output
    log.info("told: %s", output.strip().splitlines()[-1])
    done_before = len(rows(folder))
    assert 2 <= done_before < 4

    # The nodes' registrations are in the SuperLink's database, and they find it again by themselves.
    resumed = up.fedloge("resume", str(folder))
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert [row["round"] for row in rows(folder)] == [1, 2, 3, 4]
    log.info("complete %.0f s after the server was killed", time.monotonic() - killed)

    sets = [f"--set={key}={value}" for key, value in (SMALL | {"rounds": 4}).items()]
    program = Path(sys.executable).with_name("fedloge")
    subprocess.run([program, "run", "--name=link", f"--runs-dir={tmp_path}", *sets], check=True)
    there, here = (
        load_file(path / "checkpoint" / "round-000004.safetensors")
        for path in (folder, tmp_path / "link")
    )
    assert all(torch.equal(tensor, here[name]) for name, tensor in there.items())
    for k in range(3):
        paths = sorted((up.folder / f"state-{k}").glob(f"link-*/client-{k:05d}/*4.safetensors"))
        mine = load_file(paths[-1])
        reference = tmp_path / "link" / "heads" / f"client-{k:05d}" / paths[-1].name
        assert all(torch.equal(t, mine[name]) for name, t in load_file(reference).items())


def test_a_rotated_key(up: Deployment, tmp_path: Path) -> None:
    """The operator's guide, step by step: the old key is refused from then on, the new one accepted."""
    (node,) = set(re.findall(r"SuperNode ID: (\d+)", up.log("supernode-1")))
    old = tmp_path / "old.key"
    old.write_bytes((up.secrets / "client-1" / "supernode.key").read_bytes())
    began = time.monotonic()
    assert up.run("flwr", "supernode", "unregister", str(node), "compose").returncode == 0
    until(
        lambda: up.processes["supernode-1"].poll() is not None, 90, "the old key's node is cut off"
    )
    log.info("cut off %.0f s after its key was unregistered", time.monotonic() - began)
    up.kill(*up.client(1))
    done = up.run("fedloge", "certs", f"--out={up.secrets}", "--add-client=1", "--replace")
    assert done.returncode == 0, done.stderr
    with pytest.raises(RuntimeError, match="Failed to activate SuperNode"):
        up.start("supernode-1")  # the new key is not registered yet
        time.sleep(10)
        up.wait_healthy("supernode-1", 1)
    up.kill("supernode-1")
    up.register(1)
    up.start(*up.client(1))
    until(lambda: "SuperNode ID" in up.log("supernode-1")[-500:], 60, "the new key is accepted")
    (up.secrets / "client-1" / "supernode.key").write_bytes(old.read_bytes())
    up.kill(*up.client(1))
    with pytest.raises(RuntimeError, match="Failed to activate SuperNode"):
        up.start("supernode-1")
        time.sleep(10)
        up.wait_healthy("supernode-1", 1)
    up.kill("supernode-1")
