"""Secure aggregation over TLS at five sites, one of which is killed between the two messages of a round.

Minutes long: pytest -m deployment_faults.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import harness
import pytest
from safetensors.torch import load_file

from fedloge.commands.site_keys import make_masking_key

from .test_faults import rows, submit, until

if TYPE_CHECKING:
    from .conftest import Deployment

log = logging.getLogger(__name__)
pytestmark = [pytest.mark.deployment_faults, pytest.mark.timeout(2400)]

SITES = 5
ONE_ROUND: dict[str, Any] = harness.TINY | {
    "num-clients": SITES,
    "clients-per-round": SITES,
    "rounds": 1,
}


@pytest.fixture(scope="module")
def up(deploy: Callable[..., Deployment]) -> Deployment:
    """Five sites, each with a key of its own and everybody's public keys."""
    deployment = deploy(SITES)
    folders = [deployment.folder / f"state-{k}" for k in range(SITES)]
    lines = [make_masking_key(folder / "masking.key", k) for k, folder in enumerate(folders)]
    for folder in folders:
        (folder / "peers.toml").write_text("\n".join(lines))
    deployment.start_all()
    return deployment


def remembered(up: Deployment, k: int) -> list[dict[str, Any]]:
    """What site k keeps of the secure sums it took part in."""
    paths = list((up.folder / f"state-{k}").glob(f"secure-*/client-{k:05d}/secure-sums.jsonl"))
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def answers(up: Deployment, k: int) -> int:
    """How many answers site k has sent so far."""
    return up.log(f"supernode-{k}").count("Sent successfully")


@contextlib.contextmanager
def held_still(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """A service and what it started, stopped for the time of the block."""
    os.killpg(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGCONT)


def test_a_site_without_its_key_takes_no_part(up: Deployment) -> None:
    """It does not fall back on a key that others can compute; four of five go on."""
    key = up.folder / "state-4" / "masking.key"
    elsewhere = key.rename(key.with_name("elsewhere"))
    run = submit(up, "keyless", **ONE_ROUND | {"secure-aggregation": "true"})
    output, _ = run.communicate(timeout=1500)
    assert run.returncode == 0, output
    (failed,) = rows(up.runs / "keyless", "failures")
    assert failed["client"] == 4 and "make one with 'fedloge site-key'" in failed["reason"]
    elsewhere.rename(key)


def test_a_site_killed_between_the_two_messages_is_in_the_sum(
    up: Deployment, tmp_path: Path
) -> None:
    before = [answers(up, k) for k in range(SITES)]
    run = submit(up, "secure", **ONE_ROUND | {"secure-aggregation": "true"})
    registered = lambda: all(answers(up, k) > n for k, n in enumerate(before))  # noqa: E731
    until(registered, 900, "all sites have said who they are")
    # Site 4 waits, so that the second message comes only when site 0 is gone.
    with held_still(up.processes["superexec-client-4"]):
        until(lambda: bool(remembered(up, 0)), 600, "site 0 has masked its update")
        until(lambda: answers(up, 0) > before[0] + 1, 300, "and sent it")
        up.kill(*up.client(0))
        assert not remembered(up, 4)
    output, _ = run.communicate(timeout=1500)
    assert run.returncode == 0, output

    # It is among the survivors of the sum, of which it opened nothing.
    opened = {
        k: [row["survivors"] for row in remembered(up, k) if "survivors" in row]
        for k in range(SITES)
    }
    assert opened == {0: [], **{k: [[0, 1, 2, 3, 4]] for k in range(1, SITES)}}
    local = harness.run_local(
        harness.tiny(tmp_path, "plain", num_clients=SITES, clients_per_round=SITES, rounds=1)
    )
    there, here = (
        load_file(folder / "checkpoint" / "round-000001.safetensors")
        for folder in (up.runs / "secure", local)
    )
    assert harness.same_tensors(there, here)
    (row,), (plain,) = rows(up.runs / "secure"), rows(local)
    assert row["clients"] == SITES and row["train/loss"] == plain["train/loss"]
