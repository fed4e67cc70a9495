"""Starting a run on an engine, by the engine's name."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from pathlib import Path

from fedloge.config import Config
from fedloge.errors import ConfigError, unknown_name
from fedloge.federation import settled
from fedloge.federation.own_runs import check_code
from fedloge.observer import Observer, RunEnded
from fedloge.results.run import Run

# Modules by engine. Ray takes seconds to import, so only the engine that is asked for is imported.
_ENGINES = {
    "local": "fedloge.engines.local",
    "ray": "fedloge.engines.ray",
    "superlink": "fedloge.engines.superlink",
}


def run_on_engine(
    config: Config, engine: str, observers: Iterable[Observer] = (), *, superlink: str = ""
) -> Path:
    """Run, or resume if ``config.resume``; returns the folder of the run.

    On the superlink engine the folder is on the server, and need not exist here.

    Parameters
    ----------
    engine : local, ray or superlink.
    superlink : for the superlink engine, the name of a connection in Flower's config.

    Raises
    ------
    ConfigError
        There is no engine of this name, or it cannot run this config.
    RunError
        The run has stopped; its folder holds the rounds that were done.
    """
    if engine not in _ENGINES:
        raise ConfigError(unknown_name("engine", engine, _ENGINES))
    module = importlib.import_module(_ENGINES[engine])
    if engine == "superlink":
        return module.run(config, superlink, observers)
    ended = _Ended()
    module.run(settled(config), [*observers, ended])
    return ended.folder


def with_whole_paths(config: Config) -> Config:
    """The config with absolute paths, so that its run can be resumed from any folder."""
    changes = {"runs_dir": str(Path(config.runs_dir).expanduser().resolve())}
    if config.data_path and (data := Path(config.data_path).expanduser()).exists():
        changes["data_path"] = str(data.resolve())
    tables = [Path(part.strip()).expanduser() for part in config.table.split(",")]
    if config.table and all(table.is_file() for table in tables):
        changes["table"] = ", ".join(str(table.resolve()) for table in tables)
    return config.replace(**changes)


def resumed(
    run: Run,
    rounds: int | None = None,
    from_round: int | None = None,
    *,
    engine: str = "local",
) -> Config:
    """The config with which a run is continued.

    Parameters
    ----------
    rounds : run up to this round; None: the number that the run was started with.
    from_round : the kept round to continue from; None: the newest.
    engine : that will continue it.

    Raises
    ------
    PluginError
        It names code that is neither fedloge's nor what this user began the run with, and `run` was opened without
        allowing it.
    """
    # A SuperLink's machines execute what they are sent; here nothing is.
    if engine != "superlink":
        run_id, allowed = str(run.info.get("run-id", "")), run.allow_plugins
        check_code(run.config, run_id, allowed=allowed, on_ray=engine == "ray")
    folder = run.path.resolve()
    return run.config.replace(
        name=folder.name,
        runs_dir=str(folder.parent),
        resume=True,
        from_round=-1 if from_round is None else from_round,
        rounds=run.config.rounds if rounds is None else rounds,
    )


class _Ended(Observer):
    folder = Path()

    def on_end(self, event: RunEnded) -> None:
        self.folder = event.folder
