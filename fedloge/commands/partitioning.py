"""The command that shows who would hold what. Heavy imports are inside, so that others start quickly."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from fedloge.commands.arguments import Json, Recipe, Set
from fedloge.console import print_json, stdout
from fedloge.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fedloge.config import Config
    from fedloge.data.manifest import Manifest
    from fedloge.partition import Partition


class _Made(NamedTuple):
    config: Config
    partition: Partition
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    test_examples: int
    tail: str


def partition(
    recipe: Recipe = None,
    set_: Set = None,
    table: Annotated[
        Path | None,
        typer.Option(help="Split the lines of this table (CSV, .gz or plain), without any images."),
    ] = None,
    counts: Annotated[
        Path | None,
        typer.Option(help="Split so many images of each class: a JSON list, without any images."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Write the partition as JSON, for partitioner=explicit and other tools."),
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Draw clients by classes into a .png, .pdf or .svg file.")
    ] = None,
    json_: Json = False,
) -> None:
    """Split the data over the clients and show what each would hold."""
    from fedloge.commands.partition_table import partition_table
    from fedloge.partition.partition_measures import measure_partition

    if table and counts:
        raise InputError("partition: give --table or --counts, not both")
    overrides = _without_rounds(set_ or [], own_data=bool(table or counts))
    made = (
        _of_table(recipe, overrides, table, counts)
        if table or counts
        else _of_data(recipe, overrides)
    )
    split, names = (
        made.partition,
        [made.partition.name_of(k) for k in range(made.partition.num_clients)],
    )
    measures = measure_partition(split.train_counts, made.config.seed)
    if out is not None:
        from fedloge.partition import write_partition

        write_partition(out, split, made.labels, made.test_examples)
    if picture is not None:
        from fedloge.results.partition_picture import draw_partition

        draw_partition(split.train_counts, names, made.classes, _title(made), picture)
    if json_:
        print_json(_plain(made, names, dataclasses.asdict(measures)))
        return
    stdout().print(partition_table(made.classes, split, measures, made.tail))
    for written in (out, picture):
        if written is not None:
            stdout().print(str(written), soft_wrap=True, markup=False)


def _without_rounds(given: list[str], *, own_data: bool) -> list[str]:
    """Overrides that leave out what only rounds read, so that a split needs no clients-per-round."""
    neutral = {"clients-per-round": "1", "aggregation": "mean", "byzantine-clients": "0"}
    if own_data:
        neutral["dataset"] = "image-folder"
    said = {item.partition("=")[0].strip() for item in given}
    return [*given, *(f"{key}={value}" for key, value in neutral.items() if key not in said)]


def _of_data(recipe: str | None, overrides: list[str]) -> _Made:
    """Split the config's data set."""
    from fedloge.data.longtail import said_of_tail
    from fedloge.federation import open_federation, settled
    from fedloge.launch.runs_from_python import load_recipe

    federation = open_federation(settled(load_recipe(recipe, overrides)))
    kept, of = len(federation.kept), len(federation.images.train)
    return _Made(
        federation.config,
        federation.partition,
        federation.images.classes,
        federation.train_labels,
        len(federation.images.test),
        said_of_tail(federation.config.tail, kept, of) if kept < of else "",
    )


def _of_table(
    recipe: str | None, overrides: list[str], table: Path | None, counts: Path | None
) -> _Made:
    """Split what a table or a list of counts names; torch, which takes seconds to import, is not needed."""
    import numpy as np

    from fedloge import config as configs
    from fedloge.data.longtail import long_tail_indices, said_of_tail
    from fedloge.partition import make_partition, with_all_clients
    from fedloge.recipe_files import recipe_path

    config = configs.load(None if recipe is None else recipe_path(recipe), overrides)
    train, test, labels, classes = _listed(table, counts)
    is_test = labels[len(train or labels) :]
    labels = labels[: len(train or labels)]
    kept = long_tail_indices(labels, config.imbalance_factor, config.tail, config.long_tail_options)
    manifest = train.take(kept) if train is not None else None
    config = with_all_clients(config, labels[kept], manifest)
    made = make_partition(config, labels[kept], is_test, len(classes), manifest, test)
    tail = said_of_tail(config.tail, len(kept), len(labels)) if len(kept) < len(labels) else ""
    return _Made(config, made, classes, np.asarray(labels[kept]), len(is_test), tail)


def _listed(
    table: Path | None, counts: Path | None
) -> tuple[Manifest | None, Manifest | None, NDArray[np.int64], tuple[str, ...]]:
    """Manifests of training and test lines, the labels of both one behind the other, and the class names."""
    import numpy as np

    from fedloge.data.csv_tables import read_table
    from fedloge.data.longtail import counts_of_file

    if counts is not None:
        numbers = np.array(counts_of_file(counts))
        names = tuple(map(str, range(len(numbers))))
        return None, None, np.repeat(np.arange(len(numbers)), numbers), names
    assert table is not None
    lines = read_table(table)
    names, labels = lines.numbered("label")
    splits = lines.column("split") if "split" in lines else ()
    tests = np.array([split == "test" for split in splits] or [False] * len(lines), dtype=bool)
    first, last = np.flatnonzero(~tests), np.flatnonzero(tests)
    return lines.take(first), lines.take(last), labels[np.concatenate([first, last])], names


def _title(made: _Made) -> str:
    return (
        f"{made.config.partitioner}: {made.partition.num_clients:,} clients, "
        f"{int(made.partition.train_counts.sum()):,} training images of {len(made.classes):,} classes"
    )


def _plain(made: _Made, names: list[str], measures: dict[str, Any]) -> dict[str, Any]:
    split = made.partition
    return {
        "num_clients": split.num_clients,
        "names": names,
        "classes": list(made.classes),
        "train_counts": split.train_counts.tolist(),
        "local_test_counts": split.local_test_counts.tolist(),
        "test_split": split.test_split,
        "validation": [len(part) for part in split.validation],
        "held_out_clients": list(split.held_out),
        "left_out": split.left_out,
        "tail": made.tail,
        "digest": split.digest(),
        "measures": _finite(measures),
    }


def _finite(value: Any) -> Any:
    """JSON has no nan: what is not known is null."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
