"""`fedloge.run`, `fedloge.resume` and `fedloge.open_run`: start, continue or open a run from Python."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedloge import config as configs
from fedloge.config import Config
from fedloge.errors import RunDirError
from fedloge.launch.run_on_engine import resumed, run_on_engine, with_whole_paths
from fedloge.observer import Observer
from fedloge.recipe_files import recipe_path
from fedloge.results import run as results


class Run(results.Run):
    """A run and all that it recorded; it can be continued."""

    def resume(
        self,
        *,
        rounds: int | None = None,
        from_round: int | None = None,
        engine: str = "local",
        observers: Iterable[Observer] = (),
    ) -> Run:
        """Continue this run; returns it with the new rounds. See `fedloge.resume` and `fedloge.open_run`."""
        return resume(
            self, rounds=rounds, from_round=from_round, engine=engine, observers=observers
        )


def run(
    recipe: str | Path | Config | None = None,
    *,
    engine: str = "local",
    observers: Iterable[Observer] = (),
    superlink: str = "",
    **changes: Any,
) -> Run:
    """Train a federation; returns its run, which stays on disk under ``runs_dir``.

    Parameters
    ----------
    recipe : the name of a recipe that comes with fedloge (``"cifar10-lt"``), the path of a
        TOML file, or a config; None: the defaults, the embedded digits.
    engine : ``local`` (this process), ``ray`` (several processes or a cluster) or ``superlink``
        (a deployment).
    observers : are told of the run while it runs, for example ``fedloge.Progress()``.
    superlink : for the superlink engine, the name of a connection in Flower's config.
    changes : config keys, in snake_case, that replace the recipe's: ``rounds=5``,
        ``method="fedprox"``, ``method_options={"mu": 0.1}``. A table replaces the whole table.

    Raises
    ------
    ConfigError
        There is no such recipe or engine, or a key or value is wrong.
    RunError
        The run has stopped: no quorum, a diverged model, or a full disk. `resume` continues it.
    """
    config = recipe if isinstance(recipe, Config) else load_recipe(recipe)
    if changes:
        config = config.replace(**changes)
    folder = run_on_engine(with_whole_paths(config), engine, observers, superlink=superlink)
    return _opened(folder, engine)


def resume(
    run: results.Run | str | Path,
    *,
    rounds: int | None = None,
    from_round: int | None = None,
    engine: str = "local",
    observers: Iterable[Observer] = (),
    superlink: str = "",
    allow_plugins: bool = False,
) -> Run:
    """Continue a run where it stopped, or beyond its last round; returns the run.

    A run that was interrupted and resumed has the same bits as one that was never interrupted.

    Parameters
    ----------
    run : a run, its folder, or its name in ``runs/``.
    rounds : run up to this round; None: the number that the run was started with.
    from_round : the kept round to continue from; None: the newest.
    engine, observers, superlink : as in `run`; the engine may be another than before.
    allow_plugins : whether code may be executed that the run names, that is not fedloge's own, and that you did
        not begin the run with; a run that is given opened has been opened with or without.

    Raises
    ------
    PluginError
        It names such code, and that is not allowed.
    RunDirError
        There is no such run, or it was started with another config, data or library.
    CheckpointError
        A checkpoint or a personal state is damaged.
    RunError
        As in `run`.
    """
    found = run if isinstance(run, results.Run) else results.open_run(run)
    if allow_plugins:
        found = replace(found, allow_plugins=True)
    config = resumed(found, rounds, from_round, engine=engine)
    return _opened(run_on_engine(config, engine, observers, superlink=superlink), engine)


def open_run(path: str | Path, *, allow_plugins: bool = False) -> Run:
    """Open a run on disk by its folder, or its name in ``runs/``; it may still be running.

    Parameters
    ----------
    allow_plugins : whether its models, and `Run.resume`, may execute code that the run names, that is not fedloge's
        own, and that you did not begin the run with. Opening it executes nothing.

    Raises
    ------
    RunDirError
        There is no such run, or a file of it is missing or damaged.
    """
    return Run.open(path, allow_plugins=allow_plugins)


def load_recipe(recipe: str | Path | None, overrides: Iterable[str] = ()) -> Config:
    """The config of a recipe, by name or path, with ``key=value`` overrides; None: the defaults."""
    return configs.load(None if recipe is None else recipe_path(recipe), overrides)


def _opened(folder: Path, engine: str) -> Run:
    if engine == "superlink" and not (folder / "run.json").is_file():
        raise RunDirError(f"the run is complete; its record is on the server, in {folder}")
    return open_run(folder)
