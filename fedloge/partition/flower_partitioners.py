"""The partitioners of flwr-datasets, Flower's own package (``pip install 'fedloge[flwr-datasets]'``)."""

from __future__ import annotations

import importlib
import inspect
import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedloge.data.manifest import Manifest
from fedloge.errors import PartitionError, in_one_line, unknown_name
from fedloge.options import Table
from fedloge.partition.partition import Indices

log = logging.getLogger(__name__)

_INDEX = "fedloge-index"
_SUFFIX = "Partitioner"

# Why some of them cannot be used here.
_UNUSABLE = {
    "VerticalEven": "it deals out columns of a table, not images",
    "VerticalSize": "it deals out columns of a table, not images",
    "IdToSizeFnc": "it needs a function, which a config cannot hold; Linear, Square and Exponential are such",
}
# What usually breaks them where classes are long-tailed, and what helps.
_ON_TAILS = {
    "Dirichlet": "with a long tail clients stay below min_partition_size (10 unless set), and it gives up "
    "after ten draws: lower partitioner-options.options.min_partition_size, raise alpha, or take "
    "partitioner=dirichlet with min-size, which first proves that it can be done",
    "InnerDirichlet": "its partition_sizes may sum to no more than the training images, and with a small "
    "alpha a class of the tail runs out: take partitioner=label-and-quantity",
    "Pathological": "it deals every class to as many clients, also classes with fewer images than that: take "
    "partitioner=pathological, which counts them first",
    "Shard": "its shards must divide the training images: set keep_incomplete_shard = true, or take "
    "partitioner=shards",
    "Distribution": "it takes as many images of each class as its table says, more than the tail has: scale "
    "the table down",
    "Continuous": "it needs a column of numbers without gaps",
}


def flwr_datasets(
    labels: NDArray[np.int64],
    num_clients: int,
    rng: np.random.Generator,
    *,
    name: str,
    options: Table | None = None,
    manifest: Manifest | None = None,
) -> list[Indices]:
    """Any partitioner of flwr-datasets that deals out examples, by its name.

    ``partitioner-options.name = "Linear"`` is its ``LinearPartitioner``. The table
    ``partitioner-options.options`` holds its parameters under their own names, such as
    ``options.alpha = 0.5``; ``num_partitions`` is num-clients, ``seed`` is drawn from the run's, and
    ``partition_by`` is the label unless it is given, as ``label`` or a column of the manifest.

    Most of them were made for balanced data. Where one fails on a long tail, the error says why and
    what to take. What it leaves out is counted in the log and in the partition.

    Raises
    ------
    PartitionError
        The package is not installed, has no such partitioner, or it fails on these data.
    """
    chosen = _class(name)
    who = f"partitioner 'flwr-datasets', {chosen.__name__}"
    given = dict(options or {})
    parameters = inspect.signature(chosen).parameters
    for option in given:
        if option not in parameters or option in ("num_partitions", "seed"):
            known = set(parameters) - {"num_partitions", "seed"}
            raise PartitionError(f"{who}: {unknown_name('option', option, known)}")
    if "num_partitions" in parameters:
        given["num_partitions"] = num_clients
    if "seed" in parameters:
        given["seed"] = int(rng.integers(2**31))
    if "partition_by" in parameters:
        given.setdefault("partition_by", "label")
    arrays = {key: np.array(given[key]) for key in ("distribution_array",) if key in given}
    try:
        parts = _parts(chosen(**{**given, **arrays}), labels, manifest)
    except Exception as exc:  # it raises whatever it meets
        advice = _ON_TAILS.get(_short(chosen.__name__), "take one of fedloge's own partitioners")
        raise PartitionError(f"{who} fails on these data ({in_one_line(exc)}); {advice}") from None
    if len(parts) != num_clients:
        raise PartitionError(
            f"{who} makes {len(parts)} clients, num-clients is {num_clients}; set num-clients={len(parts)}"
        )
    missing = len(labels) - sum(map(len, parts))
    if missing:
        log.warning("%s leaves out %d of %d training images", who, missing, len(labels))
    return parts


flwr_datasets.lossy = True  # type: ignore[attr-defined]


def _class(name: str) -> Any:
    try:
        # An extra, which takes seconds to import and need not be installed.
        module = importlib.import_module("flwr_datasets.partitioner")
    except ImportError:
        raise PartitionError(
            "partitioner 'flwr-datasets' needs the package flwr-datasets; pip install 'fedloge[flwr-datasets]'"
        ) from None
    known = {_short(found) for found in module.__all__} - {""}
    short = _short(name)
    if short in _UNUSABLE:
        raise PartitionError(f"partitioner 'flwr-datasets', {name}: {_UNUSABLE[short]}")
    if short not in known:
        usable = known - _UNUSABLE.keys()
        raise PartitionError(f"flwr-datasets: {unknown_name('partitioner', name, usable)}")
    return getattr(module, f"{short}{_SUFFIX}")


def _short(name: str) -> str:
    return name.removesuffix(_SUFFIX)


def _parts(made: Any, labels: NDArray[np.int64], manifest: Manifest | None) -> list[Indices]:
    # Imported here for the same reason; flwr-datasets brings it along.
    from datasets import Dataset

    columns: dict[str, Any] = {"label": labels, _INDEX: np.arange(len(labels))}
    for name in manifest.names if manifest else ():
        if name != "label" and manifest is not None:
            columns[name] = _numbers(manifest.column(name))
    made.dataset = Dataset.from_dict(columns)
    parts = (made.load_partition(k)[_INDEX] for k in range(made.num_partitions))
    return [np.sort(np.array(part, dtype=np.int64)) for part in parts]


def _numbers(values: Any) -> Any:
    """A column as numbers if all its values are, as its `ContinuousPartitioner` needs them."""
    try:
        return [float(value) for value in values]
    except ValueError:
        return list(values)
