"""The rounds of a run, from the first or from a checkpoint: one plain loop."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Iterable
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedloge.config import Config
from fedloge.errors import CheckpointError, RunDirError, RunError
from fedloge.federation.federation import Federation
from fedloge.messages import wire
from fedloge.messages.wire import Stamp
from fedloge.methods.method import Aggregate, Part
from fedloge.server.central_privacy import Epsilon, with_privacy
from fedloge.server.checkpoint import Checkpoint, CheckpointStore
from fedloge.server.figures import client_rows, global_figures, personal_figures
from fedloge.server.roster import Roster
from fedloge.server.run_record import RunRecord
from fedloge.server.strategy import RoundStrategy

log = logging.getLogger("fedloge.run")


def run_rounds(
    grid: Grid,
    config: Config,
    federation: Federation,
    record: RunRecord,
    roster: Roster | None = None,
) -> None:
    """Run the rounds that are still to be done; the record and the checkpoints say how far it came.

    `roster` is one whose members have been asked already; without it they are asked here.

    Raises
    ------
    RunError
        Clients are missing, a round had no quorum, or the disk refused.
    """
    fed = federation
    checkpoints = CheckpointStore(record.checkpoints, record.run_id, fed.fingerprint)
    start = _starting_point(config, fed, checkpoints, record)
    if config.resume:
        record.rewrite_config(config, fed)
    if start.round == config.rounds:
        _say(
            "complete",
            f"run {record.name} is complete, all {config.rounds} rounds are done; "
            f"'fedloge resume {record.folder} --rounds N' runs on to round N",
            folder=str(record.folder),
        )
        return
    fresh = not checkpoints.exists()
    if not fresh:
        checkpoints.rewind(start.round)
    record.rewind(start.round)
    bases = record.begin_attempt(start.round, at_least=0 if fresh else start.attempt)
    stamp = Stamp(record.run_id, record.name, fed.fingerprint, bases, start.round, start.round)
    if fresh:
        checkpoints.save(start)

    roster = roster or Roster(grid, config.num_clients, fed.fingerprint)
    roster.wait(config.startup_timeout)
    method, net = fed.method, fed.load(start.shared, fed.initial[Part.PERSONAL])
    uplinks = {"train": method.uplink(net), "evaluate": method.evaluation_uplink(net)}
    partial_sums = getattr(grid, "partial_sums", False)
    strategy = RoundStrategy(
        config, roster, start.shared, stamp, uplinks, partial_sums=partial_sums
    )
    private = with_privacy(strategy, fed)
    epsilon = Epsilon(config) if config.dp_clip and config.dp_noise else None
    state = start.server
    arrays = wire.encode(start.shared, config.wire_dtype)
    _say(
        "start",
        f"run {record.name}: rounds {start.round + 1} to {config.rounds}",
        folder=str(record.folder),
        first=start.round + 1,
        rounds=config.rounds,
        clients=config.clients_per_round,
    )
    for round in range(start.round + 1, config.rounds + 1):
        strategy.stamp = dataclasses.replace(
            strategy.stamp, keep_round=min(checkpoints.kept_rounds())
        )
        roster.refresh(config.round_timeout)
        began = time.perf_counter()
        replies = grid.send_and_receive(
            private.configure_train(round, arrays, ConfigRecord(), grid),
            timeout=config.round_timeout,
        )
        arrays, metrics = _aggregated(private, strategy, round, replies)
        trained = time.perf_counter() - began
        outcome = strategy.outcome
        row: dict[str, Any] = {
            "round": round,
            "clients": len(outcome.replies),
            "failed": len(outcome.failures),
            **{key: value for key, value in metrics.items() if key.startswith("train/")},
        }
        row["images"] = sum(int(r.get("images", 0)) for r in outcome.replies.values())
        if epsilon is not None:
            row["privacy/epsilon"] = epsilon.after(strategy, round)
        timing = {
            "round": round,
            "train-seconds": trained,
            "images-per-second": row["images"] / trained,
            "bytes-down": outcome.bytes_down,
            "bytes-up": outcome.bytes_up,
        }
        rows = {"failures": _failures(round, outcome.failures)}
        averaged = Aggregate(round, wire.decode(arrays), outcome.sums, state)
        updated = method.server_update(
            fed.load(averaged.shared, fed.initial[Part.PERSONAL]), averaged
        )
        shared, state = updated.shared, updated.state
        if shared is not averaged.shared or config.wire_dtype != "float32":
            # The model after a round is the one that is sent: measured and resumed from as such.
            arrays = wire.encode(shared, config.wire_dtype)
            shared = wire.decode(arrays)
        if round % config.evaluate_every == 0 or round == config.rounds:
            figures, more = _evaluate(grid, strategy, fed, round, arrays)
            row |= figures
            for name, lines in more.items():
                rows[name] = rows.get(name, []) + lines
            timing["evaluate-seconds"] = time.perf_counter() - began - trained
            timing["evaluate-bytes-down"] = strategy.outcome.bytes_down
            timing["evaluate-bytes-up"] = strategy.outcome.bytes_up
        timing["seconds"] = time.perf_counter() - began
        record.append({**rows, "metrics": [row], "timing": [timing]})
        if round % config.checkpoint_every == 0 or round == config.rounds:
            checkpoints.save(Checkpoint(round, stamp.attempt, shared, state))
        _say("round", _line(row, fed), row=row, timing=timing)
    _say("end", f"run {record.name} is complete: {record.folder}", folder=str(record.folder))


def _aggregated(
    private: Strategy, strategy: RoundStrategy, round: int, replies: Iterable[Message]
) -> tuple[ArrayRecord, MetricRecord]:
    arrays, metrics = private.aggregate_train(round, replies)
    if arrays is None or metrics is None:
        raise RunError(
            f"round {round}: a client raised an error, and under privacy all who are asked must answer; "
            "see the run's log, then resume"
        )
    # What wraps the strategy may have changed the numbers' width.
    tensors = {name: t.to(strategy.template[name].dtype) for name, t in wire.decode(arrays).items()}
    return (arrays if private is strategy else wire.encode(tensors)), metrics


def _evaluate(
    grid: Grid, strategy: RoundStrategy, fed: Federation, round: int, arrays: ArrayRecord
) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    config = fed.config
    stamp = strategy.stamp_of(round)
    replies = grid.send_and_receive(
        strategy.configure_evaluate(round, arrays, ConfigRecord(), grid),
        timeout=config.round_timeout,
    )
    strategy.aggregate_evaluate(round, replies)
    answers = strategy.outcome.replies
    figures, by_class = global_figures(fed, stamp, wire.decode(arrays), strategy.outcome.sums)
    figures |= personal_figures(answers) | {"evaluated-clients": len(answers)}
    return figures, {
        "clients": client_rows(round, answers),
        "classes": [{"round": round, **by_class}] if by_class else [],
        "failures": _failures(round, strategy.outcome.failures),
    }


def _starting_point(
    config: Config, fed: Federation, checkpoints: CheckpointStore, record: RunRecord
) -> Checkpoint:
    # Round 0 is kept before the first round begins: only a run killed before that has none.
    if config.resume and (checkpoints.exists() or record.has_rounds() or config.from_round > 0):
        start = checkpoints.load(None if config.from_round < 0 else config.from_round)
        expected = {name: tuple(t.shape) for name, t in fed.initial[Part.SHARED].items()}
        if {name: tuple(t.shape) for name, t in start.shared.items()} != expected:
            raise CheckpointError(
                f"{checkpoints.folder} holds another model's tensors; restore a backup"
            )
        if start.round > config.rounds:
            raise RunDirError(
                f"{record.folder} has done {start.round} rounds already; expected rounds of at least that, "
                f"got {config.rounds}; to repeat the last ones give --from-round as well"
            )
        return start
    return Checkpoint(0, 1, dict(fed.initial[Part.SHARED]), fed.method.server_state(fed.net))


def _failures(round: int, failures: dict[int, str]) -> list[dict[str, Any]]:
    return [
        {"round": round, "client": client, "reason": reason} for client, reason in failures.items()
    ]


def _line(row: dict[str, Any], fed: Federation) -> str:
    shown = [f"round {row['round']}"]
    if "train/loss" in row:
        shown.append(f"loss {row['train/loss']:.3f}")
    for kind, name, figure in (
        ("global", fed.method.primary_global, "all"),
        ("personal", fed.method.primary_personal, "mean"),
    ):
        key = f"{kind}/{name}/{figure}"
        if key in row:
            shown.append(f"{kind} {row[key]:.1%}")
    return "  ".join(shown)


def _say(event: str, text: str, **details: Any) -> None:
    # Whoever shows progress listens on this logger; elsewhere it is a plain line.
    log.info(text, extra={"event": event, "details": details})
