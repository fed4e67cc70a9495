"""The benchmarks by the name that `--only` takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from component_groups import aggregation, partition, serialisation, sparse, start
from interleaved_timing import Group
from kept_features_groups import heads
from ray_groups import engines, ray
from training_groups import at_once, collapse, evaluation, rounds, steps, training

GROUPS: dict[str, Callable[[bool], Iterator[Group]]] = {
    "training": training,
    "steps": steps,
    "round": rounds,
    "evaluation": evaluation,
    "heads": heads,
    "collapse": collapse,
    "ray": ray,
    "engines": engines,
    "at-once": at_once,
    "aggregation": aggregation,
    "serialisation": serialisation,
    "partition": partition,
    "sse-c": sparse,
    "start": start,
}
