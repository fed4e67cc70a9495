"""Federated learning on long-tailed classes: a fair global model, and a personal model for every client.

Train, look, go on::

    import fedloge

    run = fedloge.run("digits", rounds=10)              # a recipe by name or path; none: the defaults
    run.metrics                                         # one row per round: losses, accuracies
    run.report()                                        # one page with tables and curves
    run.model("global"), run.model(client=3)            # trained networks: inputs to logits

    run = run.resume(rounds=20)                         # the same bits as 20 rounds at once
    fedprox = fedloge.run("digits", method="fedprox", method_options={"mu": 0.1})
    runs = fedloge.sweep("digits", set={"rounds": 10})  # methods x settings x seeds

You extend it with code of your own, which no file of fedloge needs to know:

- a `Method`: what clients share, what they minimise, how their models predict.
  ``fedloge/methods/fedavg.py`` is written to learn from; `check_method` tests yours;
- a `Partitioner`: which client holds which examples; `check_partitioner` tests yours;
- a `Probe`: what is measured over the clients, of whom only sums are sent;
- an `Observer`: is told of every round while a run is going on; `Progress` is one.

Where to read on in ``fedloge/``, from the bottom up:

- ``config/keys.py``: `Config`, every key that a recipe may set;
- ``data/`` and ``partition/``: the examples, and how they are split over the clients;
- ``models/``: backbones turn inputs into features, heads turn features into logits;
- ``learning/loop.py``: how one client trains in one round;
- ``methods/fedavg.py``: one method; ``methods/method.py``: all that a method can say;
- ``server/rounds.py``: the loop over the rounds;
- ``run_files.py``: the files that a run leaves on disk.

On the command line ``fedloge --help`` lists the commands and ``fedloge recipes`` the recipes.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedloge.config import Config
    from fedloge.launch.progress import Progress
    from fedloge.launch.runs_from_python import Run, open_run, resume, run
    from fedloge.learning.probes import Probe
    from fedloge.methods.method import Method
    from fedloge.observer import Observer
    from fedloge.partition.partition import Partitioner
    from fedloge.results.trained_model import Model, load
    from fedloge.sweeps.sweep_from_python import sweep
    from fedloge.testing import check_method, check_partitioner

    __version__: str

__all__ = [
    "Config",
    "Method",
    "Model",
    "Observer",
    "Partitioner",
    "Probe",
    "Progress",
    "Run",
    "__version__",
    "check_method",
    "check_partitioner",
    "load",
    "open_run",
    "resume",
    "run",
    "sweep",
]

# Imported when first asked for: torch and Flower take seconds, and `fedloge --help` needs neither.
_PLACES = {
    "Config": "fedloge.config:Config",
    "Method": "fedloge.methods.method:Method",
    "Model": "fedloge.results.trained_model:Model",
    "Observer": "fedloge.observer:Observer",
    "Partitioner": "fedloge.partition.partition:Partitioner",
    "Probe": "fedloge.learning.probes:Probe",
    "Progress": "fedloge.launch.progress:Progress",
    "Run": "fedloge.launch.runs_from_python:Run",
    "check_method": "fedloge.testing:check_method",
    "check_partitioner": "fedloge.testing:check_partitioner",
    "load": "fedloge.results.trained_model:load",
    "open_run": "fedloge.launch.runs_from_python:open_run",
    "resume": "fedloge.launch.runs_from_python:resume",
    "run": "fedloge.launch.runs_from_python:run",
    "sweep": "fedloge.sweeps.sweep_from_python:sweep",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # for start-up time

        value: Any = version("fedloge")
    elif name in _PLACES:
        module, _, attribute = _PLACES[name].partition(":")
        value = getattr(importlib.import_module(module), attribute)
    else:
        raise AttributeError(f"module 'fedloge' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
