"""Before round 1: heads in closed form from all clients' sums (config ``init-head = "closed-form"``)."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch
from flwr.app import ArrayRecord
from flwr.serverapp import Grid
from torch import Tensor

from fedloge.errors import RunError
from fedloge.federation import Federation
from fedloge.geometry.closed_form import FeatureSums, ridge
from fedloge.learning.probes.closed_form_heads import from_sums
from fedloge.methods.method import Part
from fedloge.partition import held_out_clients
from fedloge.server.strategy import RoundStrategy

log = logging.getLogger(__name__)


def opened(
    strategy: RoundStrategy,
    fed: Federation,
    arrays: ArrayRecord,
    shared: Mapping[str, Tensor],
    grid: Grid,
) -> dict[str, Tensor]:
    """Ask every client that may train; returns the shared tensors with the heads in closed form.

    Parameters
    ----------
    arrays : `shared` as messages carry it.

    Raises
    ------
    RunError
        Too few clients answered, or none has an example.
    """
    assert fed.opening is not None
    prefix, config = f"{fed.opening.name}/", fed.config
    zeros = fed.opening.template(fed.load(shared, fed.initial[Part.PERSONAL]))
    own = {f"{prefix}{name}": zero for name, zero in zeros.items()}
    sums = _sums(strategy, arrays, grid, own)
    for client, reason in strategy.outcome.failures.items():
        log.warning("init-head: without client %d: %s", client, reason)
    known = from_sums({name.removeprefix(prefix): tensor for name, tensor in sums.items()})
    if not float(known.counts.sum()):
        raise RunError("init-head: no client has a training example")
    weight, bias = closed_form_start(known, config.init_head_scale)
    filled = dict(shared)
    for head in fed.method.heads:
        for name, value in ((f"{head}.weight", weight), (f"{head}.bias", bias)):
            if name in filled:
                filled[name] = value.to(filled[name])
    return filled


def _sums(
    strategy: RoundStrategy, arrays: ArrayRecord, grid: Grid, zeros: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """What all clients that may train add up to. It is a part of the strategy's own work."""
    config, usual = strategy.config, strategy.uplinks
    strategy.uplinks = {**usual, "evaluate": zeros}
    training = set(strategy.everybody) - set(held_out_clients(config))
    messages = strategy._messages("evaluate", 0, arrays, sorted(training), grid)
    replies = grid.send_and_receive(messages, timeout=config.round_timeout)
    strategy._collect("evaluate", 0, replies, lambda client, reply: None)
    strategy.uplinks = usual
    strategy._check_quorum(0)
    return strategy.outcome.sums


def closed_form_start(known: FeatureSums, scale: float) -> tuple[Tensor, Tensor]:
    """Fed3R's head with rows of one norm, the mean of those that ridge regression gives, times `scale`.

    Rows of one norm, because plain ridge regression has short rows for rare classes. A class without
    examples has row 0.
    """
    weight, bias = ridge(known)
    norms = weight.norm(dim=1)
    occurs = known.counts > 0
    factor = torch.where(occurs, norms[occurs].mean() / norms.clamp(min=1e-30), 0.0)
    return scale * factor[:, None] * weight, scale * factor * bias
