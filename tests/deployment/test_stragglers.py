"""Runs that do not wait for all, over TLS on the real clock, and what the local engine makes of their record.

Minutes long: pytest -m deployment_faults.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import harness
import pytest
from harness import arrivals, model

from .test_faults import rows, submit

if TYPE_CHECKING:
    from .conftest import Deployment

pytestmark = [pytest.mark.deployment_faults, pytest.mark.timeout(2400)]

SITES = 3
FEW: dict[str, Any] = harness.TINY | {"num-clients": SITES, "clients-per-round": 2}
# Resumed from the beginning, so that every round is made again; measured once, at the end.
FEW |= {"rounds": 3, "evaluate-every": 3, "checkpoint-every": 3}


@pytest.fixture(scope="module")
def up(deploy: Callable[..., Deployment]) -> Deployment:
    deployment = deploy(SITES)
    deployment.start_all()
    return deployment


def finished(up: Deployment, name: str, **settings: Any) -> Path:
    run = submit(up, name, **settings)
    output, _ = run.communicate(timeout=1500)
    assert run.returncode == 0, output
    return up.runs / name


def made_again_here(folder: Path, elsewhere: Path) -> Path:
    """The run made again by the local engine from what it recorded of arrivals."""
    again = elsewhere / folder.name
    shutil.copytree(folder, again)
    harness.resume_local(again, from_round=0, runs_dir=str(elsewhere))
    return again


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("buffered", {"buffer-size": 1}),
        ("first", {"clients-drawn": 3, "round-deadline": 20}),
    ],
)
def test_the_local_engine_repeats_a_deployment_to_the_bit(
    up: Deployment, tmp_path: Path, name: str, changes: dict[str, Any]
) -> None:
    folder = finished(up, name, **FEW | changes)
    assert [row["failed"] for row in rows(folder)] == [0, 0, 0]
    again = made_again_here(folder, tmp_path)
    assert harness.same_tensors(model(folder), model(again))
    assert arrivals(folder) == arrivals(again)
    # Personal models too: every site trained when it was asked, and not oftener.
    assert (folder / "clients.jsonl").read_bytes() == (again / "clients.jsonl").read_bytes()
