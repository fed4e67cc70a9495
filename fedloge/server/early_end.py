"""The round that validation examples choose: its model is kept, and a run that gets no better ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedloge.config import Config
from fedloge.federation import Federation
from fedloge.learning.round_choice import RoundChoice, chosen_round
from fedloge.observer import RunStarted
from fedloge.server.checkpoint import Checkpoint
from fedloge.server.chosen_model import write_chosen
from fedloge.server.run_record import RunRecord

Rows = Sequence[Mapping[str, Any]]


def choice_of(fed: Federation, rows: Rows) -> RoundChoice | None:
    """The round that validation examples choose so far; None without any."""
    primary = {"global": fed.method.primary_global, "personal": fed.method.primary_personal}
    return chosen_round(rows, primary, fed.config.choose_by)


def keep_if_chosen(fed: Federation, record: RunRecord, rows: Rows, now: Checkpoint) -> None:
    """Write the shared tensors of the last round if validation examples choose it."""
    choice = choice_of(fed, rows)
    if choice is not None and choice.round == now.round:
        write_chosen(record.files.chosen, choice, now, record.run_id, record.fingerprint)


def why_it_ends(fed: Federation, rows: Rows) -> str:
    """Why the run ends before its last round; empty if it goes on."""
    choice, patience = choice_of(fed, rows), fed.config.patience
    if choice is None or not patience or choice.waited < patience:
        return ""
    return (
        f"stopped after round {rows[-1]['round']} of {fed.config.rounds}, since {choice.figure} has not risen "
        f"above {choice.value:.1%}, which it had after round {choice.round}, for {choice.waited} evaluations"
    )


def nothing_to_do(fed: Federation, record: RunRecord, rows: Rows, start: Checkpoint) -> str:
    """Why no round is left to be run, for a person; empty if some are."""
    if start.round == fed.config.rounds:
        return (
            f"run {record.name} is complete, all {fed.config.rounds} rounds are done; "
            f"'fedloge resume {record.folder} --rounds N' runs on to round N"
        )
    if ended := why_it_ends(fed, rows):
        return (
            f"run {record.name} is complete: {ended}; to run on, set patience = 0 in "
            f"{record.folder}/config.toml and resume it"
        )
    return ""


def started(config: Config, record: RunRecord, start: Checkpoint) -> RunStarted:
    """What observers are told as the rounds begin."""
    return RunStarted(
        folder=record.folder,
        name=record.name,
        first_round=start.round + 1,
        rounds=config.rounds,
        clients_per_round=config.clients_per_round,
        text=f"run {record.name}: rounds {start.round + 1} to {config.rounds}",
    )
