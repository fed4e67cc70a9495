"""Ctrl-C at who waits for a deployed run: the run goes on, and the line says how to follow, end and resume it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from harness import TINY, lines

if TYPE_CHECKING:
    from .conftest import Deployment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_ctrl_c_says_what_becomes_of_the_run(federation: Deployment) -> None:
    settings = TINY | {"num-clients": 3, "clients-per-round": 2, "rounds": 1000}
    runs = ["run", "--name=followed", f"--runs-dir={federation.runs}"]
    process = subprocess.Popen(
        [str(Path(sys.executable).with_name("fedloge")), *federation.arguments(*runs, **settings)],
        env=federation.environment,
        cwd=federation.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    folder, deadline = federation.runs / "followed", time.monotonic() + 400
    while process.poll() is None and not lines(folder, "metrics") and time.monotonic() < deadline:
        time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    said = err.splitlines()[-1]
    found = re.search(r"end it with '(flwr stop (\d+) compose)'", said)
    assert found is not None and f"'flwr log {found[2]} compose'" in said
    resume = f"'fedloge resume {folder} --engine superlink --superlink compose' continues it"
    assert resume in said and "Traceback" not in err
    done = federation.run(*found[1].split())
    assert done.returncode == 0, done.stderr
