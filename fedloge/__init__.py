"""Federated learning on long-tailed classes: a fair global model, and a personal one for every client.

::

    import fedloge

    run = fedloge.run("digits", rounds=10)              # a recipe's name, a path, or nothing
    run.metrics                                         # a line per round: loss, accuracies
    run.report()                                        # one page with tables and curves
    run.model("global"), run.model(client=3)            # networks that take images

    run = run.resume(rounds=20)                         # the same bits as 20 rounds at once
    fedprox = fedloge.run("digits", method="fedprox", method_options={"mu": 0.1})
    runs = fedloge.sweep("digits", set={"rounds": 10})  # methods x settings x seeds

What you can put in, each by a class of your own:

- a `Method`: what clients share, their loss, how a client predicts
  (``fedloge/methods/fedavg.py`` is the shortest); `check_method` tries it out;
- a `Partitioner`: who holds which examples; `check_partitioner` tries it out;
- a `Probe`: what is measured over the clients without their data leaving;
- an `Observer`: hears of a run while it runs; `Progress` is one.

`Config` holds every key that a recipe may say; ``fedloge recipes`` and ``fedloge --help`` say
what there is on the command line.
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
