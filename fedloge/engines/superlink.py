"""The superlink engine: submits a run to a SuperLink, follows it, and finds out how it ended.

It submits what ``flwr run`` would submit from the source folder, but made from the installed
package, so that no source folder is needed. It calls Flower's own command line. ``flwr log
--stream`` exits with 0 even when the run failed, so ``flwr ls`` is asked how it ended.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tomli_w

from fedloge import config as configs
from fedloge.config import Config
from fedloge.console import stderr
from fedloge.errors import ConfigError, RunDirError, RunError
from fedloge.interrupts import Interrupted, Terminated
from fedloge.observer import Observer, Observers, RunEnded, tell, told_to_the_end
from fedloge.server.log_lines import PREFIX, Warned, from_json

log = logging.getLogger(__name__)
_UNREACHABLE_SECONDS = 120.0


def run(config: Config, superlink: str, observers: Iterable[Observer] = ()) -> Path:
    """Run a federation on a SuperLink; returns the run's folder on the server.

    Parameters
    ----------
    superlink : name of a connection in Flower's own config ($FLWR_HOME/config.toml).
    observers : are told of the run as its log comes in, which is later if the connection breaks.

    Raises
    ------
    ConfigError
        No connection is named.
    RunDirError
        A run of this name exists here already.
    RunError
        The SuperLink refused the run or could not be reached, or the run failed or was stopped.
    KeyboardInterrupt
        Ctrl-C or SIGTERM. The run itself goes on; the text says how to follow, end and resume it.
    """
    if not superlink:
        raise ConfigError(
            "--engine superlink needs --superlink NAME: a connection in Flower's config.toml, for example "
            '[superlink.NAME] with address = "HOST:PORT" and root-certificates = "/path/to/ca.crt"'
        )
    named = config.replace(name=config.name or _made_up_name(config), log_format="json")
    folder = Path(named.runs_dir) / named.name
    if folder.exists() and not named.resume:
        raise RunDirError(
            f"{folder} exists already; continue it with 'fedloge resume {folder}', or choose another name"
        )
    submitted = _submitted(named, superlink)
    stderr().print(
        f"run {named.name} is run {submitted} of SuperLink {superlink!r}", soft_wrap=True
    )
    with told_to_the_end(observers) as everyone:
        try:
            status = _follow(submitted, superlink, everyone)
        except KeyboardInterrupt as exc:
            raise _with_text(
                exc,
                f"interrupted here; run {submitted} goes on: follow it with 'flwr log {submitted} {superlink}', end it "
                f"with 'flwr stop {submitted} {superlink}'; once it has ended, 'fedloge resume {folder} --engine "
                f"superlink --superlink {superlink}' continues it",
            ) from None
        if status.state != "finished:completed":
            raise RunError(f"run {submitted} on {superlink!r}: {status.state}: {status.details}")
    return folder


@dataclass(frozen=True)
class _Status:
    state: str
    details: str


def _made_up_name(config: Config) -> str:
    method = config.method.rpartition(":")[2].rpartition(".")[2].lower()
    return f"{method}-{config.dataset}-{datetime.now(UTC):%Y%m%d-%H%M%S}"


def _submitted(config: Config, superlink: str) -> str:
    """Submit the run; returns Flower's number of it."""
    try:
        return _submit(config, superlink)
    except KeyboardInterrupt as exc:
        raise _with_text(
            exc,
            f"interrupted while run {config.name} was being submitted; 'flwr ls {superlink}' says whether it is there",
        ) from None


def _with_text(exc: KeyboardInterrupt, text: str) -> KeyboardInterrupt:
    return Terminated(text) if isinstance(exc, Terminated) else Interrupted(text)


def _submit(config: Config, superlink: str) -> str:
    with tempfile.TemporaryDirectory(prefix="fedloge-") as name:
        app = Path(name) / "app"
        _write_app(app)
        overrides = Path(name) / "run.toml"
        overrides.write_text(tomli_w.dumps(config.for_flower()))
        answer = _ask("run", str(app), superlink, "--run-config", str(overrides))
    return str(answer["run-id"])


def _write_app(folder: Path) -> None:
    """Write the app bundle that Flower sends: the package as installed here, and the config's keys."""
    shutil.copytree(
        Path(__file__).parents[1],
        folder / "fedloge",
        ignore=shutil.ignore_patterns("__pycache__", "recipes"),
    )
    app = {
        "publisher": "fedloge",
        "components": {
            "serverapp": "fedloge.server.server_app:app",
            "clientapp": "fedloge.client.client_app:app",
        },
        "config": configs.load(None).for_flower(),
    }
    project = {
        "name": "fedloge",
        "version": version("fedloge"),
        "description": "Federated learning on long-tailed classes",
        "license": "Apache-2.0",
    }
    (folder / "pyproject.toml").write_text(
        tomli_w.dumps({"project": project, "tool": {"flwr": {"app": app}}})
    )


def _follow(run_id: str, superlink: str, observers: Observers) -> _Status:
    """Tell the observers what the run's log says until the run ends; a broken stream is opened again."""
    shown, answered = 0, time.monotonic()
    while True:
        for number, line in enumerate(_lines(run_id, superlink)):
            if number >= shown:
                shown = number + 1
                hear(line, observers)
        try:
            status = _status(run_id, superlink)
            answered = time.monotonic()
        except RunError:
            if time.monotonic() - answered > _UNREACHABLE_SECONDS:
                raise
        else:
            if status.state.startswith("finished"):
                return status
        time.sleep(1.0)


def hear(line: str, observers: Observers) -> None:
    """Tell the observers what a line of the run's log says; a damaged line is skipped."""
    event = from_json(line)
    if isinstance(event, Warned):
        log.warning("%s", event.text)
    elif isinstance(event, RunEnded) and not event.complete:
        # Flower is asked how a run ended: it also knows of ends that no line tells.
        return
    elif event is not None:
        tell(observers, event)


def _lines(run_id: str, superlink: str) -> Iterator[str]:
    stream = subprocess.Popen(
        [_flwr(), "log", run_id, superlink, "--stream"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        text=True,
        env=_environment(),
    )
    try:
        for line in stream.stdout or ():
            if line.startswith(PREFIX):
                yield line.removeprefix(PREFIX).rstrip()
    finally:
        stream.terminate()
        stream.wait()


def _status(run_id: str, superlink: str) -> _Status:
    (row,) = _ask("ls", superlink, "--run-id", run_id)["runs"]
    return _Status(row["status"], row["status-details"])


def _ask(*arguments: str) -> dict[str, Any]:
    """Call Flower's command line; returns its answer, or raises its refusal as `RunError`."""
    done = subprocess.run(
        [_flwr(), *arguments, "--format", "json"],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        text=True,
        env=_environment(),
        check=False,
    )
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        answer = {}
    if done.returncode or not answer.get("success"):
        reason = answer.get("error-message") or done.stderr or done.stdout
        raise RunError(f"flwr {arguments[0]}: {' '.join(str(reason).split())}")
    return answer


def _flwr() -> str:
    beside = Path(sys.executable).with_name("flwr")
    found = str(beside) if beside.exists() else shutil.which("flwr")
    if found is None:
        raise RunError("Flower's command 'flwr' is not installed; pip install flwr")
    return found


def _environment() -> dict[str, str]:
    quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
    # Unbuffered: otherwise lines would come in blocks of kilobytes.
    return {**quiet, **os.environ, "PYTHONUNBUFFERED": "1"}
