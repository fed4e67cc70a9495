"""The rounds of a run, from the first or from a checkpoint: one plain loop over `Rounds.one_round`."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from flwr.app import ConfigRecord, Message
from flwr.serverapp import Grid
from torch import Tensor

from fedloge.config import Config
from fedloge.errors import CheckpointError, RunDirError, RunError, UpdateError
from fedloge.federation import Federation
from fedloge.learning.probes import Probe, of_probe
from fedloge.messages import SECOND_PASS, Stamp, check_update, decode, encode
from fedloge.methods.method import Aggregate, Part
from fedloge.observer import Observers, RoundDone, RunEnded
from fedloge.partition import held_out_clients
from fedloge.server.arrival_record import ArrivalRecord
from fedloge.server.central_privacy import Epsilon, privacy_figures, with_privacy
from fedloge.server.checkpoint import Checkpoint, CheckpointStore
from fedloge.server.early_end import keep_if_chosen, nothing_to_do, started, why_it_ends
from fedloge.server.figures import client_rows, measured, personal_figures, reliability_lines
from fedloge.server.first_heads import opened
from fedloge.server.made_heads import head_tensors
from fedloge.server.masked_mean import SumLost
from fedloge.server.open_roster import OpenRoster
from fedloge.server.pacing import Pacing
from fedloge.server.pooled_training import PooledTraining
from fedloge.server.roster import Roster
from fedloge.server.round_outcome import RoundOutcome
from fedloge.server.round_texts import failure_rows, remark, round_line
from fedloge.server.run_record import RunRecord
from fedloge.server.server_optimiser import PREFIX, ServerOptimiser
from fedloge.server.set_aside import set_aside_later
from fedloge.server.strategy import RoundStrategy

log = logging.getLogger(__name__)
_MOST_LOST = 3
"""So many rounds in a row may be lost under secure aggregation before the run stops."""


def run_rounds(
    grid: Grid,
    config: Config,
    federation: Federation,
    record: RunRecord,
    observers: Observers,
    roster: Roster,
    sites: OpenRoster | None = None,
) -> None:
    """Run the rounds that are still to be done, as the record and the checkpoints say.

    Parameters
    ----------
    roster : of the clients, who may have been asked already who they are.
    sites : where clients come and go.

    Raises
    ------
    RunError
        Clients are missing, a round had no quorum, or the disk refused.
    CheckpointError
        The checkpoint to resume from is damaged, or of another run.
    RunDirError
        The run has done more rounds than are asked for.
    """
    checkpoints = CheckpointStore(record.checkpoints, record.run_id, record.fingerprint)
    start = _starting_point(config, federation, checkpoints, record)
    if config.resume:
        record.rewrite_config(config)
    rows = record.rounds_so_far(start.round)
    if text := nothing_to_do(federation, record, rows, start):
        observers.on_end(RunEnded(record.folder, text, complete=True))
        return
    arrivals = ArrivalRecord(record.files.arrivals)
    stamp = _begin_attempt(federation, checkpoints, record, start)
    roster.wait(config.startup_timeout)
    rounds = Rounds(grid, federation, roster, stamp, start, arrivals, sites)
    observers.on_start(started(config, record, start))
    if start.round == 0:
        rounds.open()
    said = set[str]()
    for round in range(start.round + 1, config.rounds + 1):
        roster.refresh()
        done = rounds.one_round(round, keep_round=min(checkpoints.kept_rounds()))
        record.append({**done.rows, "metrics": [done.row], "timing": [done.timing]})
        rows.append(done.row)
        now = Checkpoint(round, stamp.attempt, rounds.shared, rounds.state, done.made)
        keep_if_chosen(federation, record, rows, now)
        ended = why_it_ends(federation, rows)
        if round % config.checkpoint_every == 0 or round == config.rounds or ended:
            record.flush()
            checkpoints.save(now)
        remark(federation, rows, said)
        observers.on_round(RoundDone(done.row, done.timing, round_line(done.row, federation)))
        if ended:
            break
    text = f"run {record.name} is complete{f', {ended}' if ended else ''}: {record.folder}"
    observers.on_end(RunEnded(record.folder, text, complete=True))


@dataclass
class RoundRecord:
    """What a round adds to the run's record: its line of metrics, its timing, and lines of other files.

    `made` are the heads that probes made, for its checkpoint; {} unless the round was evaluated.
    """

    row: dict[str, Any]
    timing: dict[str, Any]
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    made: dict[str, Tensor] = field(default_factory=dict)

    def add(self, rows: dict[str, list[dict[str, Any]]]) -> None:
        """Add lines, file by file."""
        for name, lines in rows.items():
            self.rows[name] = self.rows.get(name, []) + lines


class Rounds:
    """The state of a run between two rounds, and the step to the next.

    Attributes
    ----------
    shared : the shared tensors after the last round.
    state : tensors that only the server keeps, for methods that have them.
    """

    def __init__(
        self,
        grid: Grid,
        federation: Federation,
        roster: Roster,
        stamp: Stamp,
        start: Checkpoint,
        arrivals: ArrivalRecord,
        sites: OpenRoster | None = None,
    ) -> None:
        self.federation, self.config = federation, federation.config
        self.shared, self.state = start.shared, start.server
        self._grid = grid
        self._lost = 0
        net = federation.load(start.shared, federation.initial[Part.PERSONAL])
        uplinks = {
            "train": federation.method.uplink(net),
            "evaluate": _named(
                federation.probes, lambda p: p.template(net) | p.personal_template()
            ),
            SECOND_PASS: _named(federation.two_pass_probes, lambda p: p.second_template(net)),
        }
        self._strategy = RoundStrategy(
            self.config,
            roster,
            {} if federation.method.solves else start.shared,
            stamp,
            uplinks,
            partial_sums=getattr(grid, "partial_sums", False),
            open_roster=sites,
        )
        self._pacing = Pacing(grid, self._strategy, arrivals, start.server)
        self._averaging = with_privacy(self._strategy, federation)
        sample = self._strategy.sample
        self._pooled = PooledTraining(federation, sample) if federation.method.pooled else None
        self._optimiser: ServerOptimiser | None = None
        if self.config.server_optimiser != "none":
            trained = {id(parameter) for parameter in federation.method.trainable(net)}
            names = [n for n, p in net.named_parameters() if id(p) in trained and n in start.shared]
            self._optimiser = ServerOptimiser(self.config, names, start.server)
        spends = self.config.dp_clip and self.config.dp_noise
        self._epsilon = Epsilon(self.config) if spends else None
        # Encoded once: the messages of an evaluation and of the next round carry the same record.
        self._arrays = encode(self.shared, self.config.wire_dtype)

    def open(self) -> None:
        """Before round 1: start the shared heads in closed form, if the config says so."""
        if self.federation.opening is not None:
            self._strategy.begin(1)
            shared = opened(self._strategy, self.federation, self._arrays, self.shared, self._grid)
            self._take(Aggregate(0, shared, {}, self.state))

    def one_round(self, round: int, *, keep_round: int) -> RoundRecord:
        """Train, average, let the method do its server step, and evaluate if the round is due for it.

        Parameters
        ----------
        keep_round : the oldest round from which the run may still be resumed (see `Stamp`).
        """
        strategy, buffer = self._strategy, self._pacing.buffer
        keep_round = buffer.keep_round(keep_round) if buffer else keep_round
        strategy.stamp = dataclasses.replace(strategy.stamp, keep_round=keep_round)
        strategy.begin(round)
        began = time.perf_counter()
        averaged, figures, images = self._train(round)
        done = self._trained(round, figures, images, seconds=time.perf_counter() - began)
        if averaged is not None:
            self._take(self._checked(round, self._after_server_step(round, averaged)))
        self.state = self._pacing.without_its_own(self.state) | self._pacing.state()
        if round % self.config.evaluate_every == 0 or round == self.config.rounds:
            self._evaluate(round, done)
            seconds = time.perf_counter() - began - done.timing["train-seconds"]
            done.timing["evaluate-seconds"] = seconds
        done.timing["seconds"] = time.perf_counter() - began
        return done

    def _train(self, round: int) -> tuple[dict[str, Tensor] | None, dict[str, float], int]:
        """The averaged tensors, the clients' mean figures, and how many images they passed through.

        There are no tensors where their masks cannot be taken off.
        """
        if self._pooled is not None:
            self._strategy.outcome = RoundOutcome()  # nobody was asked
            return self._pooled.train(round, self.shared)
        if self._pacing.buffer is not None:
            return self._pacing.buffer.train(round, self.shared, self._arrays)
        messages = self._averaging.configure_train(round, self._arrays, ConfigRecord(), self._grid)
        averaged, figures = self._averaged(round, self._pacing.replies(round, messages))
        asked = self._strategy.outcome.replies
        return averaged, figures, sum(int(reply.get("images", 0)) for reply in asked.values())

    def _averaged(
        self, round: int, replies: Iterable[Message]
    ) -> tuple[dict[str, Tensor] | None, dict[str, float]]:
        """The mean; None where its masks cannot be taken off: the round is passed over.

        To repeat it would ask the clients for another sum of the same updates, which they refuse.
        """
        try:
            averaged, figures = self._averaging.average(round, replies)
        except SumLost as exc:
            self._lost += 1
            if self._lost == _MOST_LOST:
                raise RunError(
                    f"round {round}: {_MOST_LOST} rounds in a row were lost ({exc}); see to the clients, "
                    "then resume"
                ) from None
            log.warning("round %d is passed over, the model stays as it is: %s", round, exc)
            return None, {}
        self._lost = 0
        # What clients do not send back stays as it is.
        return self.shared | averaged, figures

    def _trained(
        self, round: int, figures: dict[str, float], images: int, *, seconds: float
    ) -> RoundRecord:
        outcome = self._strategy.outcome
        row: dict[str, Any] = {
            "round": round,
            "clients": len(outcome.replies),
            "failed": len(outcome.failures),
            **{key: value for key, value in figures.items() if key.startswith("train/")},
            "images": images,
            **self._pacing.figures(len(self._strategy.sample(round))),
        }
        row |= privacy_figures(self._epsilon, self._strategy, round)
        timing = {
            "round": round,
            "train-seconds": seconds,
            "images-per-second": images / seconds,
            "bytes-down": outcome.bytes_down,
            "bytes-up": outcome.bytes_up,
        }
        return RoundRecord(row, timing, {"failures": failure_rows(round, outcome.failures)})

    def _after_server_step(self, round: int, averaged: dict[str, Tensor]) -> Aggregate:
        fed = self.federation
        if self._optimiser is not None:
            averaged = self._optimiser.step(round, self.shared, averaged)
        state = self._pacing.without_its_own(self.state)
        own = {name: t for name, t in state.items() if not name.startswith(PREFIX)}
        aggregate = Aggregate(round, averaged, self._strategy.outcome.sums, own)
        net = fed.load(averaged, fed.initial[Part.PERSONAL])
        return fed.method.server_update(net, aggregate)

    def _checked(self, round: int, aggregate: Aggregate) -> Aggregate:
        """The aggregate, if it may be sent and kept."""
        try:
            check_update(aggregate.shared, self.shared)
            for name, tensor in aggregate.state.items():
                if not bool(tensor.isfinite().all()):
                    raise UpdateError(f"the server's tensor {name!r} is not finite")
        except UpdateError as exc:
            keep = self._strategy.stamp.keep_round
            raise RunError(
                f"round {round}: no model came of its answers: {exc}; nothing of the round is kept. Resume with "
                f"--from-round {keep}, or a lower learning rate in a new run; aggregation=median withstands bad answers"
            ) from None
        return aggregate

    def _take(self, aggregate: Aggregate) -> None:
        kept = self._optimiser.state if self._optimiser is not None else {}
        self.shared, self.state = aggregate.shared, aggregate.state | kept
        self._arrays = encode(self.shared, self.config.wire_dtype)
        if self.config.wire_dtype != "float32":
            # Rounded as it is sent, so that the clients' model is also the one measured and kept.
            self.shared = decode(self._arrays)

    def _evaluate(self, round: int, done: RoundRecord) -> None:
        strategy, fed = self._strategy, self.federation
        messages = strategy.configure_evaluate(round, self._arrays, ConfigRecord(), self._grid)
        replies = self._grid.send_and_receive(messages, timeout=self.config.round_timeout)
        outcome = strategy.outcome
        sums: dict[str, Tensor] | None = None
        try:
            strategy.aggregate_evaluate(round, replies)
            sums = outcome.sums
        except SumLost as exc:
            log.warning("round %d: what the probes measured was lost: %s", round, exc)
        second = self._second_pass(round, sums) if sums is not None else {}
        again = strategy.outcome if second else RoundOutcome()
        done.timing |= {
            "evaluate-bytes-down": outcome.bytes_down + again.bytes_down,
            "evaluate-bytes-up": outcome.bytes_up + again.bytes_up,
        }
        sums = None if sums is None or second is None else sums | second
        found = measured(fed, strategy.stamp_of(round), self.shared, sums)
        done.made = head_tensors(found.made)
        held_out = held_out_clients(self.config)
        done.row |= found.figures | personal_figures(outcome.replies, self.config.seed, held_out)
        done.row["evaluated-clients"] = len(outcome.replies)
        done.add(
            {
                "clients": client_rows(round, outcome.replies),
                "classes": [{"round": round, **found.by_class}] if found.by_class else [],
                "calibration": reliability_lines(round, found.reliability),
                "failures": failure_rows(round, again.failures | outcome.failures),
            }
        )

    def _second_pass(self, round: int, sums: dict[str, Tensor]) -> dict[str, Tensor] | None:
        """The second sums of the probes that ask twice; {} without such probes, None if they were lost."""
        fed, strategy = self.federation, self._strategy
        if not fed.two_pass_probes:
            return {}
        net = fed.load(self.shared, fed.initial[Part.PERSONAL]).eval()
        given = _named(fed.two_pass_probes, lambda p: p.given(net, of_probe(p, sums)))
        messages = strategy.configure_second_pass(round, self._arrays, self._grid, given)
        replies = self._grid.send_and_receive(messages, timeout=self.config.round_timeout)
        try:
            return strategy.second_sums(round, replies)
        except SumLost as exc:
            log.warning("round %d: what probes asked again was lost: %s", round, exc)
            return None


P = TypeVar("P", bound=Probe)


def _named(probes: Sequence[P], tensors: Callable[[P], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Each probe's tensors as ``PROBE/NAME``."""
    return {f"{p.name}/{name}": tensor for p in probes for name, tensor in tensors(p).items()}


def _starting_point(
    config: Config, fed: Federation, checkpoints: CheckpointStore, record: RunRecord
) -> Checkpoint:
    # Round 0 is kept before the first round begins, so only a run killed before that has no checkpoint.
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


def _begin_attempt(
    fed: Federation, checkpoints: CheckpointStore, record: RunRecord, start: Checkpoint
) -> Stamp:
    """Take the record back to the starting round, count this attempt, and keep round 0 of a new run."""
    fresh = not checkpoints.exists()
    set_aside_later(record, checkpoints, start.round)
    if missing := record.missing_rounds(start.round):
        log.warning(
            "%s has no line of rounds %s; they are lost, and the run goes on after round %d",
            record.files.metrics,
            ", ".join(map(str, missing[:20])) + (", ..." if len(missing) > 20 else ""),
            start.round,
        )
    bases = record.begin_attempt(start.round, at_least=0 if fresh else start.attempt)
    if fresh:
        checkpoints.save(start)
    return Stamp(record.run_id, record.name, record.fingerprint, bases, start.round, start.round)
