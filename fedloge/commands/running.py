"""Commands that train. Heavy imports are inside them, so that others start quickly."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedloge.commands.arguments import (
    AllowPlugins,
    Engine,
    Json,
    Recipe,
    RunFolder,
    Set,
    SuperLink,
    Track,
)
from fedloge.console import fail, print_json, stdout
from fedloge.interrupts import exit_code, terminable
from fedloge.observer import Observer, RunStarted

if TYPE_CHECKING:
    from fedloge.config import Config


def run(
    recipe: Recipe = None,
    set_: Set = None,
    engine: Engine = "local",
    name: Annotated[
        str,
        typer.Option(
            help="Name of the run; default: the recipe's, or one made of method and data set."
        ),
    ] = "",
    runs_dir: Annotated[
        str, typer.Option(help="Folder of the runs; default: as the recipe says.")
    ] = "",
    superlink: SuperLink = "",
    track: Track = None,
    json_: Json = False,
) -> None:
    """Train a federation, and record it."""
    from fedloge.launch.run_on_engine import with_whole_paths
    from fedloge.launch.runs_from_python import load_recipe

    config = load_recipe(recipe, set_ or [])
    config = config.replace(name=name or config.name, runs_dir=runs_dir or config.runs_dir)
    _run_and_tell(with_whole_paths(config), engine, superlink, track or [], as_json=json_)


def resume(
    run: RunFolder,
    rounds: Annotated[
        int | None, typer.Option(help="Run up to this round instead.", min=1, show_default=False)
    ] = None,
    from_round: Annotated[
        int | None, typer.Option(help="Continue from this kept round; default: the newest.", min=0)
    ] = None,
    engine: Engine = "local",
    superlink: SuperLink = "",
    track: Track = None,
    allow_plugins: AllowPlugins = False,
    json_: Json = False,
) -> None:
    """Continue an interrupted run from its newest checkpoint."""
    from fedloge.launch.run_on_engine import resumed
    from fedloge.results.run import open_run

    opened = open_run(run, allow_plugins=allow_plugins)
    config = resumed(opened, rounds, from_round, engine=engine)
    _run_and_tell(config, engine, superlink, track or [], as_json=json_)


def sweep(
    file: Annotated[
        str, typer.Argument(help="A sweep: its name (see 'fedloge recipes') or a TOML file.")
    ],
    set_: Set = None,
    jobs: Annotated[
        int | None,
        typer.Option(help="Runs at once; default: as many as cores or GPUs allow.", min=1),
    ] = None,
    engine: Annotated[str, typer.Option(help="local or ray")] = "local",
    runs_dir: Annotated[
        str,
        typer.Option(help="Folder in which the sweep gets a folder; default: as the file says."),
    ] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be run.")
    ] = False,
    track: Track = None,
    json_: Json = False,
) -> None:
    """Run methods x settings x seeds; runs that are done already are skipped."""
    from fedloge.commands import sweep_output

    done = sweep_output.sweep(
        file,
        set_ or [],
        runs_dir,
        jobs=jobs,
        engine=engine,
        track=track or [],
        dry_run=dry_run,
        as_json=json_,
    )
    if not done:
        raise typer.Exit(1)


class _Began(Observer):
    """Knows the folder of a run that has begun."""

    folder: Path | None = None

    def on_start(self, event: RunStarted) -> None:
        self.folder = event.folder


def _run_and_tell(
    config: Config, engine: str, superlink: str, track: Sequence[str], *, as_json: bool
) -> None:
    """Run or resume with progress shown, then print the table and the path of the report."""
    from fedloge.launch.progress import Progress
    from fedloge.launch.run_on_engine import run_on_engine
    from fedloge.launch.trackers import tracked

    began = _Began()
    try:
        with terminable(), tracked(track, config) as trackers:
            observers = [began, Progress(), trackers]
            folder = run_on_engine(config, engine, observers, superlink=superlink)
    except KeyboardInterrupt as exc:
        fail(str(exc) or _how_to_go_on(began.folder, config, engine), exit_code(exc))
    # A run on a SuperLink is recorded there; trackers may have made a folder of its name here.
    if engine == "superlink" and not (folder / "run.json").is_file():
        _tell_where(folder, as_json=as_json)
    else:
        _tell_results(folder, as_json=as_json)


def _how_to_go_on(begun: Path | None, config: Config, engine: str) -> str:
    # A run that is named has its folder before its first round begins, as one that is resumed.
    named = Path(config.runs_dir) / config.name
    folder = begun or (named if config.name and (named / "run.json").is_file() else None)
    if folder is None:
        return "interrupted before there was anything to keep; the same command begins the run anew"
    again = f"fedloge resume {shlex.quote(str(folder))}"
    on = f" --engine {engine}" if engine != "local" else ""
    return f"interrupted; '{again}{on}' continues the run"


def _tell_where(folder: Path, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps({"name": folder.name, "server-folder": str(folder)}) + "\n")
    else:
        stdout().print(f"complete; its record is on the server: {folder}", soft_wrap=True)


def _tell_results(folder: Path, *, as_json: bool) -> None:
    from fedloge.results import terminal_tables as tables
    from fedloge.results.run import open_run
    from fedloge.results.run_figures import summary

    opened = open_run(folder)
    page = opened.report()
    if as_json:
        shown: dict[str, Any] = summary(opened) | {"folder": str(opened.path)}
        print_json(shown)
        return
    stdout().print(tables.show(opened))
    stdout().print(f"report: {page}", soft_wrap=True)
