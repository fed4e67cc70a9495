"""Run a config on an engine, show its progress, and leave the report."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from pathlib import Path

from fedloge.config import Config
from fedloge.console import stdout
from fedloge.errors import ConfigError, unknown_name
from fedloge.launch.progress import Progress
from fedloge.launch.trackers import tracked
from fedloge.observer import Observer, RunEnded

ENGINES = {"local": "fedloge.engines.local", "ray": "fedloge.engines.ray"}


def engine(name: str) -> Callable[[Config, Iterable[Observer]], None]:
    """The `run` function of an engine."""
    if name not in ENGINES:
        raise ConfigError(f"--engine: {unknown_name('engine', name, [*ENGINES, 'superlink'])}")
    return import_module(ENGINES[name]).run


def start(
    config: Config,
    engine_name: str,
    *,
    as_json: bool,
    superlink: str = "",
    track: Sequence[str] = (),
) -> None:
    """Run or resume, then print the table and the path of the report.

    `superlink` names the SuperLink to hand the run to, for the engine of that name;
    `track` names who is sent the figures (`fedloge.launch.trackers`).
    """
    if engine_name == "superlink":
        from fedloge.engines import superlink as remote

        with tracked(track, config) as trackers:
            folder = remote.run(config, superlink, [Progress(), trackers])
        # Trackers may have made a folder of this name here.
        if not (folder / "run.json").is_file():
            _say_elsewhere(folder, as_json=as_json)
            return
    else:
        run = engine(engine_name)
        ended = _Ended()
        with tracked(track, config) as trackers:
            run(config, [Progress(), trackers, ended])
        folder = ended.folder
    _finish(folder, as_json=as_json)


class _Ended(Observer):
    folder = Path()

    def on_end(self, event: RunEnded) -> None:
        self.folder = event.folder


def _say_elsewhere(folder: Path, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps({"name": folder.name, "server-folder": str(folder)}) + "\n")
    else:
        stdout().print(f"complete; its record lies on the server: {folder}", soft_wrap=True)


def _finish(folder: Path, *, as_json: bool) -> None:
    from fedloge.results import terminal_tables as tables
    from fedloge.results.report import write_report
    from fedloge.results.run import open_run, summary

    opened = open_run(folder)
    page = opened.path / "report.html"
    write_report([opened], page)
    if as_json:
        sys.stdout.write(
            json.dumps(summary(opened) | {"folder": str(opened.path)}, indent=1) + "\n"
        )
        return
    stdout().print(tables.show(opened))
    stdout().print(f"report: {page}", soft_wrap=True)
