"""A partition as a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

_MOST_CLASSES = 12


def partition_table(
    classes: Sequence[str], train_counts: NDArray[np.int64], local_test_counts: NDArray[np.int64]
) -> RenderableType:
    """A table of what each client holds: training images of each class, and test images.

    Parameters
    ----------
    classes : names of the classes; the first 12 get a column.
    train_counts, local_test_counts : (clients, classes).
    """
    shown = min(len(classes), _MOST_CLASSES)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for heading in ("client", *classes[:shown], "train", "test", "classes"):
        table.add_column(heading[:8], justify="right")
    for client, (train, test) in enumerate(zip(train_counts, local_test_counts, strict=True)):
        counts = [str(n) if n else "·" for n in train[:shown]]
        table.add_row(
            str(client), *counts, str(train.sum()), str(test.sum()), str((train > 0).sum())
        )
    table.add_section()
    totals = [str(n) for n in train_counts.sum(axis=0)[:shown]]
    table.add_row(
        "all", *totals, str(train_counts.sum()), str(local_test_counts.sum()), str(len(classes))
    )
    parts: list[RenderableType] = [table]
    if shown < len(classes):
        parts.append(Text(f"{shown} of {len(classes)} classes are shown; --json shows all"))
    return Group(*parts)
