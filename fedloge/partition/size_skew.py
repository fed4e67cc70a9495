"""Size skew: clients with unlike numbers of examples."""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float, Int64
from numpy.typing import NDArray

from fedloge.errors import PartitionError
from fedloge.options import NotNegativeWhole, Positive
from fedloge.partition.label_skew import client_mixes, drawn_by_client
from fedloge.partition.partition import Indices, group_by_owner
from fedloge.partition.whole_numbers import apportioned, refuse_too_many

Law = Literal["dirichlet", "log-normal", "power"]
_READ_BY: dict[str, Law] = {"alpha": "dirichlet", "sigma": "log-normal", "exponent": "power"}
_DEFAULTS = {"alpha": 0.5, "sigma": 1.0, "exponent": 1.0}


def quantity(
    labels: NDArray[np.int64],
    num_clients: int,
    rng: np.random.Generator,
    *,
    law: Law = "dirichlet",
    alpha: Positive = 0.5,
    sigma: Positive = 1.0,
    exponent: Positive = 1.0,
    min_size: NotNegativeWhole = 0,
) -> list[Indices]:
    """Size skew: the clients' sizes follow a law; labels are iid.

    Parameters
    ----------
    law : ``dirichlet``: sizes are one Dirichlet(alpha) draw; ``log-normal``: each client's size is
        exp(sigma z), z normal (as LEAF's synthetic sets, Caldas et al. 2018); ``power``: the k-th
        largest client has k^-exponent (Zipf's law), in random order.
    alpha, sigma, exponent : of the law of that line, > 0. A smaller alpha, a larger sigma or exponent is
        more skewed. One that the law does not read is refused.
    min_size : examples that every client has at least.

    Raises
    ------
    PartitionError
        `min_size` is more than there is for each client, or an option is given that the law does not read.
    """
    _check("quantity", law, {"alpha": alpha, "sigma": sigma, "exponent": exponent})
    _check_size("quantity", num_clients, min_size, len(labels))
    if law == "dirichlet" and not min_size:
        shares = rng.dirichlet(np.full(num_clients, alpha))
        ends = np.floor(np.cumsum(shares) * len(labels)).astype(np.int64)
        position = rng.permutation(len(labels))
        return group_by_owner(np.searchsorted(ends[:-1], position, side="right"), num_clients)
    shares = _shares(law, num_clients, rng, alpha=alpha, sigma=sigma, exponent=exponent)
    sizes = apportioned(shares, len(labels), min_size)
    owners = np.repeat(np.arange(num_clients), sizes)[rng.permutation(len(labels))]
    return group_by_owner(owners, num_clients)


def label_and_quantity(
    labels: NDArray[np.int64],
    num_clients: int,
    rng: np.random.Generator,
    *,
    alpha: Positive = 0.5,
    law: Literal["log-normal", "power"] = "log-normal",
    sigma: Positive = 1.0,
    exponent: Positive = 1.0,
    min_size: NotNegativeWhole = 1,
) -> list[Indices]:
    """Both skews at once: sizes by a law as in `quantity`, classes by client as in `dirichlet`.

    Parameters
    ----------
    alpha : concentration of each client's mix of classes, > 0; smaller is more skewed.
    law, sigma, exponent : of the sizes, as in `quantity`.
    min_size : examples that every client has at least.

    Raises
    ------
    PartitionError
        As in `quantity` and `dirichlet`.
    """
    _check("label-and-quantity", law, {"sigma": sigma, "exponent": exponent})
    _check_size("label-and-quantity", num_clients, min_size, len(labels))
    shares = _shares(law, num_clients, rng, alpha=alpha, sigma=sigma, exponent=exponent)
    sizes = apportioned(shares, len(labels), min_size)
    mixes = client_mixes(labels, num_clients, alpha, rng, "label-and-quantity")
    return drawn_by_client(labels, sizes, mixes, rng)


def _shares(
    law: Law,
    num_clients: int,
    rng: np.random.Generator,
    *,
    alpha: float,
    sigma: float,
    exponent: float,
) -> Float[np.ndarray, " clients"]:
    if law == "dirichlet":
        return rng.dirichlet(np.full(num_clients, alpha))
    if law == "log-normal":
        spread: Float[np.ndarray, " clients"] = sigma * rng.standard_normal(num_clients)
        return np.exp(spread - spread.max())
    ranks: Int64[np.ndarray, " clients"] = rng.permutation(num_clients) + 1
    return ranks.astype(np.float64) ** -exponent


def _check(partitioner: str, law: Law, options: dict[str, float]) -> None:
    for name, value in options.items():
        if _READ_BY[name] != law and value != _DEFAULTS[name]:
            raise PartitionError(
                f"partitioner {partitioner!r}: {name} ({value:g}) is not read with law = {law!r}; leave it "
                f"out, or set law = {_READ_BY[name]!r}"
            )


def _check_size(partitioner: str, num_clients: int, min_size: int, total: int) -> None:
    who, option = f"partitioner {partitioner!r}", "partitioner-options.min-size"
    refuse_too_many(who, num_clients, min_size, total, option)
