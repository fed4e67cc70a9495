"""The Ray engine's cluster: reaching it, and how many workers fit."""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path
from typing import Any

import ray

from fedloge.config import Config
from fedloge.errors import ConfigError, RunError, in_one_line
from fedloge.interrupts import signals_kept


def connect(config: Config) -> None:
    """Join the cluster that the config names, or start one on this machine.

    Raises
    ------
    RunError
        It cannot be reached.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    options: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "include_dashboard": False,
    }
    if config.ray_address:
        del options["include_dashboard"]
        modules = [str(Path(__file__).parents[1])]
        options |= {"address": config.ray_address, "runtime_env": {"py_modules": modules}}
    else:
        # Without this, Ray would join a cluster that happens to run on this machine.
        options |= {"address": "local", "num_cpus": len(os.sched_getaffinity(0))}
    try:
        # Ray ends the process by SIGABRT at a SIGTERM, with nothing closed.
        with warnings.catch_warnings(), signals_kept():
            # Ray warns that workers without a GPU will one day see all GPUs; ours are told their device.
            warnings.filterwarnings("ignore", "Tip: In future versions of Ray", FutureWarning)
            ray.init(**options)
    except Exception as exc:  # of many types: that a node takes too long to start is a plain one
        where = config.ray_address or "this machine"
        raise RunError(f"Ray cannot be reached at {where}: {in_one_line(exc)}") from None


def worker_options(config: Config, resources: dict[str, float]) -> dict[str, Any]:
    """The number of workers and what Ray reserves for each, from the config and the cluster's resources.

    Raises
    ------
    ConfigError
        The workers' threads would share cores, which is several times slower, or a worker
        needs more than the cluster has.
    """
    cores, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    cpus_each = config.cpus_per_worker or float(config.threads)
    gpus_each = config.gpus_per_worker
    if not gpus_each and gpus and config.device != "cpu":
        gpus_each = 1.0
    fits = int(cores // cpus_each)
    if gpus_each:
        fits = min(fits, int(gpus / gpus_each))
    if fits < 1:
        raise ConfigError(
            f"a Ray worker needs {cpus_each:g} cores and {gpus_each:g} GPUs, Ray has {cores:g} and {gpus:g}; "
            "lower threads, cpus-per-worker or gpus-per-worker"
        )
    workers = config.ray_workers or min(fits, config.clients_per_round)
    if workers * config.threads > cores or workers > fits:
        raise ConfigError(
            f"ray-workers: {workers} workers of {config.threads} threads on {cores:g} cores; threads that share "
            f"cores are several times slower: use at most {max(1, int(cores // config.threads))} workers, "
            f"or threads={max(1, int(cores // workers))}"
        )
    return {"workers": workers, "num_cpus": cpus_each, "num_gpus": gpus_each, "max_restarts": 0}
