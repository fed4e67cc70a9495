"""What is done to a partitioner's clients, whichever it is: small ones dropped or merged, large ones cut,
some kept from training.

**Clients that never train** (``held-out-clients``) are drawn from the seed, `held_out_clients`. They are
clients like the others: they hold images, register and are evaluated with the others, and `Partition.held_out`
names them. The server never draws them for training, and the federation's class counts (and so many, medium
and few) leave their images out. In a run's record, ``run.json`` lists them as ``held-out-clients``, their
lines in ``clients.jsonl`` stand with those of the others (``trained-rounds`` is 0), and in
``metrics.jsonl`` means over them stand under ``held-out/MODEL/...``, those over all other clients under
``personal/MODEL/...``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np

from fedloge.config import Config
from fedloge.errors import PartitionError
from fedloge.partition.partition import Indices, NamedParts
from fedloge.rng import rng

log = logging.getLogger(__name__)


def held_out_clients(config: Config) -> tuple[int, ...]:
    """The clients that never train, ascending; they depend on the seed and the number of clients only."""
    if not config.held_out_clients or not config.num_clients:
        return ()
    drawn = rng(config.seed, "held-out-clients").choice(
        config.num_clients, size=config.held_out_clients, replace=False
    )
    return tuple(sorted(drawn.tolist()))


def wrapped(parts: list[Indices], config: Config) -> list[Indices]:
    """A partitioner's parts after small clients are dropped or merged and large ones cut, as the config says.

    Raises
    ------
    PartitionError
        A client is smaller than ``min-client-images`` and ``small-clients`` is ``refuse``, or none is
        large enough.
    """
    least, most = config.min_client_images, config.max_client_images
    if most and most < least:
        raise PartitionError(
            f"max-client-images ({most}) is below min-client-images ({least}); raise the one or lower the other"
        )
    small = [k for k, part in enumerate(parts) if len(part) < least]
    if small and config.small_clients == "refuse":
        raise PartitionError(
            f"{len(small)} of {len(parts)} clients have fewer than {least} images (client {small[0]} has "
            f"{len(parts[small[0]])}); set small-clients=drop or merge, or lower min-client-images"
        )
    if small:
        parts = (_dropped if config.small_clients == "drop" else _merged)(parts, least)
    if most:
        parts = _like(parts, [_cut(part, most, config.seed, k) for k, part in enumerate(parts)])
    return parts


def _dropped(parts: list[Indices], least: int) -> list[Indices]:
    kept = [k for k, part in enumerate(parts) if len(part) >= least]
    gone = len(parts) - len(kept)
    if not kept:
        raise PartitionError(
            f"all {gone} clients have fewer than {least} images and would be dropped; lower min-client-images"
        )
    images = sum(map(len, parts)) - sum(len(parts[k]) for k in kept)
    log.warning(
        "%d clients with fewer than %d images are dropped, and %d images with them",
        gone,
        least,
        images,
    )
    return _chosen(parts, [[k] for k in kept])


def _merged(parts: list[Indices], least: int) -> list[Indices]:
    """Small clients put together, smallest first, until each lot is large enough; a rest joins the smallest client."""
    order = sorted(range(len(parts)), key=lambda k: (len(parts[k]), k))
    lots: list[list[int]] = [[]]
    for k in (k for k in order if len(parts[k]) < least):
        lots[-1].append(k)
        if sum(len(parts[i]) for i in lots[-1]) >= least:
            lots.append([])
    rest = lots.pop()
    whole = [[k] for k in range(len(parts)) if len(parts[k]) >= least]
    groups = [*whole, *lots]
    if not groups:
        raise PartitionError(
            f"all {len(parts)} clients together have fewer than {least} images; lower min-client-images"
        )
    if rest:
        min(groups, key=lambda lot: (sum(len(parts[k]) for k in lot), lot[0])).extend(rest)
    log.warning(
        "%d clients with fewer than %d images are merged; %d clients are left of %d",
        len(parts) - len(whole),
        least,
        len(groups),
        len(parts),
    )
    return _chosen(parts, sorted(groups, key=min))


def _chosen(parts: list[Indices], groups: list[list[int]]) -> list[Indices]:
    joined = [np.sort(np.concatenate([parts[k] for k in group])) for group in groups]
    if not isinstance(parts, NamedParts):
        return joined
    members = [tuple(name for k in sorted(group) for name in parts.members[k]) for group in groups]
    return NamedParts(joined, members, parts.column)


def _cut(part: Indices, most: int, seed: int, client: int) -> Indices:
    if len(part) <= most:
        return part
    draw: Callable[..., Indices] = rng(seed, "max-client-images", client=client).choice
    return np.sort(draw(part, size=most, replace=False, shuffle=False))


def _like(parts: list[Indices], cut: list[Indices]) -> list[Indices]:
    if isinstance(parts, NamedParts):
        return NamedParts(cut, parts.members, parts.column)
    return cut
