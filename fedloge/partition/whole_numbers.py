"""From shares to whole numbers of examples that add up to what there is."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int64

from fedloge.errors import PartitionError


def apportioned(
    shares: Float[np.ndarray, " clients"], total: int, least: int = 0
) -> Int64[np.ndarray, " clients"]:
    """Whole numbers in proportion to `shares` that sum to `total`, none below `least`.

    By largest remainders; equal remainders go to the first. Where a share comes to less than
    `least`, that one gets `least`, and the others share what is left in their proportions.

    Parameters
    ----------
    shares : none negative, at least one positive; their sum does not matter.
    least : at most ``total / len(shares)``; see `refuse_too_many`.

    >>> apportioned(np.array([5.0, 3.0, 2.0]), 4).tolist()
    [2, 1, 1]
    >>> apportioned(np.array([8.0, 1.0, 1.0]), 10, least=2).tolist()
    [6, 2, 2]
    """
    lifted = np.zeros(len(shares), dtype=bool)
    while True:
        free = np.where(lifted, 0.0, shares)
        if not free.sum():  # all shares that are left are zero
            free = (~lifted).astype(np.float64)
        wanted = free / free.sum() * (total - least * int(lifted.sum()))
        low = ~lifted & (wanted < least)
        if not low.any():
            break
        lifted |= low
    wanted[lifted] = least
    given = np.floor(wanted).astype(np.int64)
    missing = total - int(given.sum())
    given[np.argsort(given - wanted, kind="stable")[:missing]] += 1
    return given


def refuse_too_many(who: str, num_clients: int, least: int, total: int, option: str) -> None:
    """`PartitionError` if `num_clients` clients of at least `least` examples need more than `total`."""
    if num_clients * least > total:
        raise PartitionError(
            f"{who}: {num_clients} clients of at least {least} examples need {num_clients * least}, "
            f"there are {total}; lower {option} to at most {total // num_clients}, or num-clients"
        )


def fitted(
    table: Float[np.ndarray, "clients classes"],
    rows: Float[np.ndarray, " clients"],
    columns: Int64[np.ndarray, " classes"],
    sweeps: int = 50,
) -> Int64[np.ndarray, "clients classes"]:
    """A table of whole numbers like `table`, whose columns sum to `columns` exactly, its rows nearly to `rows`.

    Iterative proportional fitting (Deming and Stephan, 1940), which keeps the odds ratios, and then
    largest remainders in each column.

    Parameters
    ----------
    table : positive entries.
    rows : wanted sums of the rows; they add up to the sum of `columns`.
    """
    cells = table.astype(np.float64)
    for _ in range(sweeps):
        cells *= (rows / cells.sum(axis=1))[:, None]
        cells *= columns / cells.sum(axis=0)
    whole = [apportioned(cells[:, c], int(n)) for c, n in enumerate(columns)]
    return np.stack(whole, axis=1)
