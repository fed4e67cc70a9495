"""What is known of each example besides its pixels: named columns, in the order of the examples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int64
from numpy.typing import NDArray

from fedloge.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor  # tables are read and split without torch, whose import takes seconds

ROLES = ("path", "label", "site", "split", "group", "id")
"""Columns with a meaning of their own; any other column keeps the name that its source gave it."""


def column_name(header: str) -> str:
    """A column's name as it is compared: lower case, blanks as underscores.

    >>> column_name(" Image Index ")
    'image_index'
    """
    return "_".join(header.strip().lower().split())


@dataclass(frozen=True)
class Manifest:
    """Named columns of text over the examples of one set.

    ``path`` says where an example came from (a file's path within the data set, a row of a table),
    ``label`` its class name, ``site`` who holds it (a hospital, a person), ``split`` which set it is
    in (``train`` or ``test``), ``group`` what must not be torn between training and test (a patient, a
    lesion), ``id`` its number at its source. Each of them may be missing. An empty text means that the
    source does not say.

    Parameters
    ----------
    columns : names as `column_name` makes them, and as many values each as there are examples.

    Raises
    ------
    DataError
        The columns have different lengths.
    """

    columns: Mapping[str, Sequence[str]]

    def __post_init__(self) -> None:
        lengths = {name: len(values) for name, values in self.columns.items()}
        if len(set(lengths.values())) > 1:
            raise DataError(f"manifest: columns of one length expected, got {lengths}")

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def __contains__(self, name: str) -> bool:
        return column_name(name) in self.columns

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(self.columns)

    def column(self, name: str) -> Sequence[str]:
        """The values of a column, in the order of the examples.

        Raises
        ------
        DataError
            There is no such column; the message names those that there are.
        """
        try:
            return self.columns[column_name(name)]
        except KeyError:
            there = ", ".join(self.names) or "none"
            raise DataError(
                f"the data set says no {name!r} of its examples, only {there}; name one of these, or say "
                f'which column it is with columns = "{name} = COLUMN"'
            ) from None

    def numbered(self, name: str) -> tuple[tuple[str, ...], Int64[np.ndarray, " examples"]]:
        """A column as its distinct values, ascending, and the position of each example's among them."""
        values = self.column(name)
        distinct = in_order(set(values))
        number = {value: i for i, value in enumerate(distinct)}
        found: NDArray[np.int64] = np.fromiter(
            (number[value] for value in values), np.int64, len(values)
        )
        return distinct, found

    def take(self, indices: NDArray[np.integer] | Int64[Tensor, " chosen"]) -> Manifest:
        """The rows of the chosen examples, in the order of `indices`, as `Examples.take` does."""
        chosen = indices.tolist()
        return Manifest({name: [v[i] for i in chosen] for name, v in self.columns.items()})

    def with_column(self, name: str, values: Sequence[str]) -> Manifest:
        """A copy with one column more, or another in its place."""
        return Manifest({**self.columns, column_name(name): values})


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Names in ascending order: as numbers if all are whole numbers, else as text.

    >>> in_order(["10", "9", "b"]), in_order(["10", "9"])
    (('10', '9', 'b'), ('9', '10'))
    """
    found = list(names)
    if all(name.isdecimal() for name in found):
        return tuple(sorted(found, key=lambda name: (int(name), name)))
    return tuple(sorted(found))
