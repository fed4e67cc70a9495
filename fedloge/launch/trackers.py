"""Sending a run's figures on while it runs: TensorBoard, or a tracker of the user's own.

A tracker is a class with two methods, constructed with the run's folder and configuration.
One for Weights & Biases, in full::

    import wandb

    class WandB:
        def __init__(self, folder, config):
            self.run = wandb.init(project="fedloge", name=folder.name, dir=folder, config=config)

        def log(self, round, figures):
            self.run.log(figures, step=round)

        def close(self):
            self.run.finish()

and ``fedloge run --track path/to/file.py:WandB``. A tracker may also be named by a dotted
name or by an entry point of the group ``fedloge.trackers``. A tracker that fails is dropped
with a warning, since a run must not depend on where its figures are shown.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from fedloge.config import Config, Scalar
from fedloge.errors import PluginError
from fedloge.observer import Observer, RoundDone, RunStarted
from fedloge.plugins import load_plugin

log = logging.getLogger(__name__)


class Tracker(Protocol):
    """Takes the figures of one run."""

    def log(self, round: int, figures: Mapping[str, float]) -> None:
        """Take the figures of a round: those of ``metrics.jsonl``, and its timing as ``time/...``.

        All are finite. Rounds come in rising order. After a resume they go on from the checkpoint, so
        the last rounds of an interrupted run may come again.
        """
        ...

    def close(self) -> None:
        """The run is over, or has stopped."""
        ...


Factory = Callable[[Path, Mapping[str, Scalar]], Tracker]


class TensorBoard:
    """Event files in ``tensorboard/`` of the run's folder; ``tensorboard --logdir runs``."""

    def __init__(self, folder: Path, config: Mapping[str, Scalar]) -> None:
        try:
            # An extra, which need not be installed.
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise PluginError(
                "tracker 'tensorboard' needs the package tensorboard; "
                "pip install 'fedloge[tensorboard]'"
            ) from None
        self._make = SummaryWriter
        self._folder = folder / "tensorboard"
        self._config = config
        self._writer: Any = None

    def log(self, round: int, figures: Mapping[str, float]) -> None:
        """Write one scalar for each figure."""
        if self._writer is None:
            # purge_step hides what an interrupted run logged after its last checkpoint.
            self._writer = self._make(str(self._folder), purge_step=round)
            lines = "\n".join(f"| {key} | {value} |" for key, value in self._config.items())
            self._writer.add_text("config", f"| key | value |\n| --- | --- |\n{lines}", round)
        for name, value in figures.items():
            self._writer.add_scalar(name, value, round)
        self._writer.flush()

    def close(self) -> None:
        """Complete the event file."""
        if self._writer is not None:
            self._writer.close()


BUILTIN: Mapping[str, Factory] = {"tensorboard": TensorBoard}


def find_trackers(names: Sequence[str]) -> dict[str, Factory]:
    """The trackers of these names, not yet constructed.

    Raises
    ------
    PluginError
        There is no tracker of a name, or it cannot be imported.
    """
    found = {}
    for name in names:
        factory = load_plugin(name, "fedloge.trackers", BUILTIN, "tracker")
        if not callable(factory):
            raise PluginError(f"tracker {name!r}: expected a class, got {factory!r}")
        found[name] = factory
    return found


@contextlib.contextmanager
def tracked(names: Sequence[str], config: Config) -> Iterator[Observer]:
    """The trackers of these names, as one observer of a run inside the block; then they are closed.

    Raises
    ------
    PluginError
        A tracker cannot be found, imported or constructed.
    """
    trackers = _Trackers(find_trackers(names), config)
    try:
        yield trackers
    finally:
        trackers.close_all()


class _Trackers(Observer):
    """Constructs trackers when the run starts, gives them its rounds, and drops those that fail."""

    def __init__(self, factories: Mapping[str, Factory], config: Config) -> None:
        self._factories = factories
        self._config = config
        self._trackers: dict[str, Tracker] = {}

    def on_start(self, event: RunStarted) -> None:
        """Construct the trackers."""
        config = self._config.flat() | {"name": event.name}
        for name, factory in self._factories.items():
            self._trackers[name] = _made(name, factory, event.folder, config)

    def on_round(self, event: RoundDone) -> None:
        """Give the trackers the round's figures."""
        self._log(event.row, event.timing)

    def close_all(self) -> None:
        """Close every tracker that has not been dropped."""
        for name, tracker in self._trackers.items():
            try:
                tracker.close()
            except Exception as exc:
                _warn(name, exc)
        self._trackers = {}

    def _log(self, row: Mapping[str, Any], timing: Mapping[str, Any]) -> None:
        timed = {f"time/{key}": value for key, value in timing.items()}
        # An interval is two figures.
        ends = {
            f"{key}/{end}": value
            for key, interval in row.items()
            if isinstance(interval, list)
            for end, value in zip(("low", "high"), interval, strict=True)
        }
        figures = {
            key: float(value)
            for key, value in {**row, **ends, **timed}.items()
            if key not in ("round", "time/round")
            and isinstance(value, (int, float))
            and math.isfinite(value)
        }
        for name, tracker in list(self._trackers.items()):
            try:
                tracker.log(int(row["round"]), figures)
            except Exception as exc:
                del self._trackers[name]
                _warn(name, exc)


def _made(name: str, factory: Factory, folder: Path, config: Mapping[str, Scalar]) -> Tracker:
    try:
        return factory(folder, config)
    except PluginError:
        raise
    except Exception as exc:
        raise PluginError(
            f"tracker {name!r} could not be started: {type(exc).__name__}: {exc}; the run is kept "
            f"in {folder}; resume it without --track, or after mending this"
        ) from exc


def _warn(name: str, exc: Exception) -> None:
    log.warning("tracker %r failed and is dropped: %s: %s", name, type(exc).__name__, exc)
