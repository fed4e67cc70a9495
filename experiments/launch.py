"""Run a config on an engine, show its progress, and leave the report."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from experiments.console import stderr, stdout
from experiments.progress import shown_progress
from fedloge.config import Config
from fedloge.errors import ConfigError, unknown_name

ENGINES = {"local": "experiments.engines.local", "ray": "experiments.engines.ray"}


def engine(name: str) -> Callable[[Config], None]:
    """The `run` function of an engine."""
    if name not in ENGINES:
        raise ConfigError(f"--engine: {unknown_name('engine', name, ENGINES)}")
    return import_module(ENGINES[name]).run


def start(config: Config, engine_name: str, *, as_json: bool) -> None:
    """Run or resume, then print the table and the path of the report."""
    from experiments import tables
    from experiments.report import write_report
    from experiments.runs import open_run, summary

    run = engine(engine_name)
    with shown_progress(stderr()) as progress:
        run(config)
    opened = open_run(Path(progress.folder))
    page = opened.path / "report.html"
    write_report([opened], page)
    if as_json:
        sys.stdout.write(
            json.dumps(summary(opened) | {"folder": str(opened.path)}, indent=1) + "\n"
        )
        return
    stdout().print(tables.show(opened))
    stdout().print(f"report: {page}", soft_wrap=True)
