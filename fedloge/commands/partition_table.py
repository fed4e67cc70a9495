"""A partition for the terminal: its figures, and a table of its clients in 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fedloge.partition.partition import Partition
from fedloge.partition.partition_measures import PartitionMeasures, Spread
from fedloge.results.number_words import plural

WIDTH = 80
_MOST_CLIENTS, _PART = 60, 10
_LONGEST_NAME = 18


def partition_table(
    classes: Sequence[str], split: Partition, measures: PartitionMeasures, tail: str = ""
) -> RenderableType:
    """What clients hold, in 80 columns; no number is cut.

    As many classes have a column as there is room for. Of many clients the largest, some in the middle
    and the smallest have a line.

    Parameters
    ----------
    classes : names of the classes.
    measures : of the training images.
    tail : what a long tail left out, as half a sentence.
    """
    said = [Text(line) for line in _figures(split, measures, tail)]
    return Group(*said, _clients(classes, split), *_left_out(classes, split))


def _figures(split: Partition, measures: PartitionMeasures, tail: str) -> list[str]:
    lines = [f"{tail}."] if tail else []
    if split.left_out:
        lines.append(
            f"{plural(split.left_out, 'image')} of small or large clients belong to nobody."
        )
    lines += [
        f"{plural(measures.clients, 'client')}, {plural(measures.images, 'training image')}, "
        f"{plural(measures.classes, 'class', 'classes')}",
        f"tests ({split.test_split}): {_tests(split)}",
        f"images a client: {_spread(measures.sizes)}",
        f"classes a client: {_spread(measures.classes_held)}",
        f"  effective number {_spread(measures.effective_classes)}; of all together "
        f"{measures.effective_classes_overall:.1f}",
        f"largest over smallest class: {measures.imbalance:.4g}; of one client "
        f"{_spread(measures.local_imbalance)}",
    ]
    if measures.pairs:
        drawn = (
            f"{measures.pairs:,} of {measures.all_pairs:,} pairs, drawn"
            if measures.pairs < measures.all_pairs
            else plural(measures.pairs, "pair")
        )
        lines.append(f"mean Jensen-Shannon divergence: {measures.divergence:.3f} bits ({drawn})")
    if measures.tail_classes:
        lines.append(
            f"{plural(measures.tail_classes, 'few-shot class', 'few-shot classes')}: a client holds "
            f"{measures.tail_coverage:.1%} of them on average"
        )
        lines.append(f"  clients that hold one of them: {_spread(measures.tail_holders)}")
    if split.held_out:
        shown = ", ".join(split.name_of(k) for k in split.held_out[:5])
        more = ", ..." if len(split.held_out) > 5 else ""
        verb = "trains" if len(split.held_out) == 1 else "train"
        lines.append(f"{plural(len(split.held_out), 'client')} never {verb}: {shown}{more}")
    return lines


def _tests(split: Partition) -> str:
    sizes = np.array([len(test) for test in split.test])
    without = int((sizes == 0).sum())
    none = f"; {plural(without, 'client')} without any" if without else ""
    return f"{plural(int(sizes.sum()), 'image')}{none}"


def _spread(spread: Spread) -> str:
    return f"{_number(spread.least)} to {_number(spread.most)}, median {_number(spread.median)}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.1f}"


def _clients(classes: Sequence[str], split: Partition) -> Table:
    counts = split.train_counts
    sizes = counts.sum(axis=1)
    held = [len(part) for part in split.validation] or [0] * split.num_clients
    heads = ["client", "train", *(["valid"] if any(held) else []), "test", "classes"]
    shown = _shown(sizes)
    rows = []
    for k in shown:
        own = [_name(split.name_of(k)), str(sizes[k])]
        own += [str(held[k])] if any(held) else []
        rows.append([*own, str(len(split.test[k])), str(int((counts[k] > 0).sum()))])
    total = ["all", str(sizes.sum()), *([str(sum(held))] if any(held) else [])]
    total += [str(sum(map(len, split.test))), str(int((counts.sum(axis=0) > 0).sum()))]
    columns = _class_columns(heads, [*rows, total], classes, split)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, width=None)
    table.add_column(heads[0], justify="left", no_wrap=True)
    for head in heads[1:]:
        table.add_column(head, justify="right", no_wrap=True)
    for c, width in columns:
        table.add_column(Text(classes[c][:width]), justify="right", no_wrap=True, width=width)
    for k, row in zip(shown, rows, strict=True):
        table.add_row(*map(Text, row), *(_cell(int(counts[k, c])) for c, _ in columns))
    table.add_section()
    table.add_row(*map(Text, total), *(_cell(int(counts[:, c].sum())) for c, _ in columns))
    return table


def _class_columns(
    heads: list[str], rows: list[list[str]], classes: Sequence[str], split: Partition
) -> list[tuple[int, int]]:
    """The classes that there is room for, each with its width: its numbers fit, and as much of its name as can be."""
    room = WIDTH - 2
    for i, head in enumerate(heads):
        room -= 2 + max(len(head), *(len(row[i]) for row in rows))
    digits = [len(str(n)) for n in split.train_counts.sum(axis=0)]
    for longest in range(_LONGEST_NAME, 3, -1):
        widths = [
            max(n, min(len(name), longest), 4) for n, name in zip(digits, classes, strict=True)
        ]
        if sum(widths) + 2 * len(widths) <= room:
            return list(enumerate(widths))
    columns = []
    for c, width in enumerate(widths):
        room -= width + 2
        if room < 0:
            break
        columns.append((c, width))
    return columns


def _shown(sizes: np.ndarray) -> list[int]:
    """All clients in their order; of many the largest, those in the middle and the smallest, by size."""
    if len(sizes) <= _MOST_CLIENTS:
        return list(range(len(sizes)))
    by_size = [int(k) for k in np.argsort(-sizes, kind="stable")]
    middle = len(by_size) // 2 - _PART // 2
    return [*by_size[:_PART], *by_size[middle : middle + _PART], *by_size[-_PART:]]


def _left_out(classes: Sequence[str], split: Partition) -> list[Text]:
    said = []
    if split.num_clients > _MOST_CLIENTS:
        said.append(
            f"{3 * _PART} of {split.num_clients:,} clients are shown: the largest, some in the middle, "
            "the smallest."
        )
    said.append("--json has every number, --picture draws all clients by all classes.")
    return [Text(line, style="dim") for line in said]


def _name(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def _cell(count: int) -> Text:
    return Text(str(count) if count else "·")
