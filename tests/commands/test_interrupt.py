"""Ctrl-C: one line that says how to go on, and exit code 130."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import harness
import pytest

from fedloge.commands.main import main


def interrupted(tmp_path: Path, *args: str | Path) -> tuple[int, list[str]]:
    """The exit code and last lines of a run that gets SIGINT after its first round."""
    command = "from fedloge.commands.main import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", command, *map(str, args)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        # Tests that run in the background are deaf to SIGINT, and their children would be, too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    metrics = tmp_path / "runs/long/metrics.jsonl"
    before = metrics.stat().st_size if metrics.exists() else 0
    deadline = time.monotonic() + 200
    while process.poll() is None and time.monotonic() < deadline:
        if metrics.exists() and metrics.stat().st_size > before:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    return process.returncode, err.splitlines()


def test_an_interrupted_run_says_how_to_go_on(tmp_path: Path) -> None:
    changes = harness.settings(rounds=100_000)
    code, err = interrupted(
        tmp_path, "run", "--runs-dir", tmp_path / "runs", "--name", "long", *changes
    )
    folder = tmp_path / "runs/long"
    assert code == 130
    assert err[-1] == f"fedloge: interrupted; 'fedloge resume {folder}' continues the run"
    assert sum("fedloge resume" in line for line in err) == 1
    assert not any("Traceback" in line or "Aborted" in line for line in err)
    # What it says is true.
    found = re.search(r"'(fedloge resume .*)'", err[-1])
    assert found is not None
    done = len(harness.lines(folder, "metrics"))
    again = harness.fedloge(
        *found[1].split()[1:], "--rounds", str(done + 1), folder=tmp_path / "cwd"
    )
    assert again.code == 0, again.err
    assert [row["round"] for row in harness.lines(folder, "metrics")] == [*range(1, done + 2)]


def test_any_other_command_just_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*args: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)

    monkeypatch.setattr("fedloge.recipe_files.known_files", slow)
    monkeypatch.setattr(sys, "argv", ["fedloge", "recipes"])
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(SystemExit) as ended:
            main()
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended.value.code == 130
