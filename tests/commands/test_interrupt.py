"""Ctrl-C: one line that says how to go on, and exit code 130."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import harness
import pytest

from fedloge.commands.main import main
from fedloge.config import Config
from fedloge.federation import open_federation
from fedloge.interrupts import Terminated, signals_kept, terminable
from fedloge.server.run_record import create

MARK = "FEDLOGE_TEST_INTERRUPT"


def interrupted(
    tmp_path: Path,
    *args: str | Path,
    how: signal.Signals = signal.SIGINT,
    name: str = "long",
) -> tuple[int, list[str]]:
    """The exit code and last lines of a run that gets a signal after its first round."""
    command = "from fedloge.commands.main import main; main()"
    mark = uuid.uuid4().hex
    process = subprocess.Popen(
        [sys.executable, "-c", command, *map(str, args)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=os.environ | {MARK: mark},
        # As a terminal's: Ctrl-C goes to the whole group.
        start_new_session=True,
        # Tests that run in the background are deaf to SIGINT, and their children would be, too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    metrics = tmp_path / "runs" / name / "metrics.jsonl"
    before = metrics.stat().st_size if metrics.exists() else 0
    deadline = time.monotonic() + 200
    while process.poll() is None and time.monotonic() < deadline:
        if metrics.exists() and metrics.stat().st_size > before:
            break
        time.sleep(0.05)
    if how is signal.SIGINT:
        os.killpg(process.pid, how)
    else:
        process.send_signal(how)
    _, err = process.communicate(timeout=60)
    deadline = time.monotonic() + 30
    while (left := marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not left, "processes of the run outlive it"
    return process.returncode, err.splitlines()


def marked(mark: str) -> list[int]:
    """The processes that were started by one that had this mark in its environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if f"{MARK}={mark}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found


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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "how", "code"),
    [
        ("local", signal.SIGTERM, 143),
        ("ray", signal.SIGINT, 130),
        ("ray", signal.SIGTERM, 143),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_every_engine_ends_by_the_signal_and_says_how_to_go_on(
    engine: str, how: signal.Signals, code: int, tmp_path: Path
) -> None:
    workers = {"ray-workers": 1} if engine == "ray" else {}
    changes = harness.settings(rounds=100_000, **workers)
    where = ("--runs-dir", tmp_path / "runs", "--name", "long", "--engine", engine)
    ended, err = interrupted(tmp_path, "run", *where, *changes, how=how)
    on = " --engine ray" if engine == "ray" else ""
    said = f"fedloge: interrupted; 'fedloge resume {tmp_path}/runs/long{on}' continues the run"
    assert (ended, err[-1]) == (code, said)
    assert not any("Traceback" in line or "SIGTERM" in line for line in err)


@pytest.mark.slow
def test_an_interrupted_sweep_goes_on_by_the_same_command(tmp_path: Path) -> None:
    sweep = tmp_path / "loss.toml"
    sweep.write_text(f"[base]\n{harness.recipe(rounds=100_000)}")
    where = (sweep, "--runs-dir", tmp_path / "runs")
    code, err = interrupted(tmp_path, "sweep", *where, name="loss/fedloge")
    assert code == 130
    assert err[-1] == "fedloge: interrupted; the same command again goes on with the sweep"
    assert not any("Traceback" in line for line in err)


@pytest.mark.parametrize(
    ("named", "said"),
    [(True, "'fedloge resume {folder}' continues the run"), (False, "begins the run anew")],
)
def test_before_the_first_round_it_says_what_is_there(
    named: bool,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A named run has its folder before its clients have answered; one without a name has none yet."""

    def cut(config: Config, *_: object, **__: object) -> Path:
        create(config, open_federation(config))
        raise KeyboardInterrupt

    # What is imported while it stands would keep it: of what takes the name along, nothing is imported then.
    importlib.import_module("fedloge.launch.runs_from_python")
    monkeypatch.setattr("fedloge.launch.run_on_engine.run_on_engine", cut)
    name = ["--name", "cut"] if named else []
    monkeypatch.setattr(
        sys, "argv", ["fedloge", "run", "--runs-dir", str(tmp_path), *name, *harness.settings()]
    )
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    assert said.format(folder=tmp_path / "cut") in capsys.readouterr().err


def test_signals_are_given_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated), terminable():
        with signals_kept():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as a library does
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert signal.getsignal(signal.SIGTERM) is before


def test_in_another_thread_no_signal_is_touched() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[object] = []

    def inside() -> None:
        with terminable(), signals_kept():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == [before]


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
