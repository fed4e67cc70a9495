"""The first function that sees a message at a site, and the last that sees the answer.

It checks both against the site's policy and writes both down in the site's audit log. In a
simulation it does nothing.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from typing import Any, Literal

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedloge.atomic_files import disk_error, write_atomically
from fedloge.client.own_site import OwnSite, config_of, own_site
from fedloge.config import Config
from fedloge.digest import digest
from fedloge.errors import (
    FedlogeError,
    PolicyError,
    UpdateError,
    in_one_line,
    printable_line,
)
from fedloge.messages import (
    SECOND_PASS,
    STAMP,
    Stamp,
    failure_content,
    failure_reason,
    num_bytes,
    record_digest,
)
from fedloge.messages.cohort import UNMASK_MESSAGE

KINDS = ("query.whoami", "train", "evaluate", SECOND_PASS, UNMASK_MESSAGE)
_ROUNDS_REMEMBERED = 100
Code = Literal["own", "sent"]
Answering = Callable[[Message, Context], Message]


class GuardedApp(ClientApp):
    """Flower's ClientApp behind the guard, which also sees messages that no function is registered for.

    Attributes
    ----------
    code : whose code this is, for the audit log: the server's as it was sent, or the site's own.
    """

    code: Code = "sent"

    def __call__(self, message: Message, context: Context) -> Message:
        """Answer a message."""
        return guard(message, context, super().__call__, self.code)


def guard(message: Message, context: Context, call_next: Answering, code: Code = "sent") -> Message:
    """Answer a message as far as the site's policy allows.

    Parameters
    ----------
    call_next : answers it.
    code : whose code that is, for the audit log.
    """
    try:
        site = own_site(context.node_config)
        if site is None:
            return call_next(message, context)
        about = _about(message, context) | {"code": code}
        site.audit.write(about | {"event": "received", "records": _described(message.content)})
    except FedlogeError as exc:
        return Message(failure_content(str(exc)), reply_to=message)
    began = time.perf_counter()
    event: dict[str, Any] = {"event": "sent"}
    try:
        config = config_of(context.run_config, site)
        event |= {"read": {"dataset": config.dataset, "folder": config.data_path}}
        _check(message, site, config)
        reply = call_next(message, context)
        _count_bytes(reply, message, site)
        if (reason := failure_reason(reply.content)) is not None:
            event |= {"event": "refused", "rule": "", "reason": printable_line(reason)}
    except FedlogeError as exc:
        rule = exc.rule if isinstance(exc, PolicyError) else ""
        event |= {"event": "refused", "rule": rule, "reason": printable_line(str(exc))}
        reply = Message(failure_content(str(exc)), reply_to=message)
    except BaseException as exc:
        reason = in_one_line(exc) if isinstance(exc, Exception) else type(exc).__name__
        event |= {"event": "failed", "reason": printable_line(reason)}
        site.audit.write(about | event)
        raise
    event |= {"seconds": round(time.perf_counter() - began, 3)}
    event |= {"records": _described(reply.content)}
    try:
        site.audit.write(about | event)
    except FedlogeError as exc:  # what is not written down is not sent
        return Message(failure_content(str(exc)), reply_to=message)
    return reply


def _check(message: Message, site: OwnSite, config: Config) -> None:
    kind, policy = message.metadata.message_type, site.policy
    if kind not in KINDS:
        raise UpdateError(f"a message of kind {kind[:40]!r}, expected one of {', '.join(KINDS)}")
    policy.check(config)
    if kind == "query.whoami":
        return
    stamp = Stamp.from_content(message.content)
    if stamp.round > policy.max_rounds:
        raise PolicyError("max-rounds", f"round {stamp.round}, {policy.max_rounds} are allowed")
    kept = {path.name for path in site.state.glob("[!.]*") if path.is_dir()}
    if stamp.run_id not in kept and len(kept) >= policy.keep_runs:
        raise PolicyError(
            "keep-runs",
            f"{site.state} keeps the personal models of {len(kept)} runs; remove the folders of some, "
            "or raise it",
        )
    _count_bytes(message, message, site)


def _count_bytes(counted: Message, message: Message, site: OwnSite) -> None:
    """Add a message's bytes to those of its round; `PolicyError` once they are too many."""
    if STAMP not in message.content:
        return
    stamp, most = Stamp.from_content(message.content), site.policy.max_megabytes_per_round
    file = site.state / ".policy" / "bytes-of-rounds.json"
    try:
        known = json.loads(file.read_bytes())
        before = {key: int(value) for key, value in known.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        before = {}
    key = f"{stamp.run_id}/{stamp.attempt}/{stamp.round}"
    total = before.pop(key, 0) + bytes_in(counted.content)
    if total > most * 1e6:
        raise PolicyError(
            "max-megabytes-per-round",
            f"round {stamp.round} comes to {total / 1e6:.1f}, {most:g} are allowed",
        )
    newest = dict([*before.items(), (key, total)][-_ROUNDS_REMEMBERED:])
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise disk_error(file.parent, exc) from None
    write_atomically(file, json.dumps(newest).encode())


def bytes_in(content: RecordDict) -> int:
    """The bytes of the tensors in a message."""
    return sum(num_bytes(record) for record in content.array_records.values())


def _about(message: Message, context: Context) -> dict[str, Any]:
    """What both lines of a message begin with. Nothing here has been checked; it is a stranger's word."""
    asked = context.run_config
    about: dict[str, Any] = {
        "event": "",
        "kind": printable_line(message.metadata.message_type, 40),
        "flower-run": str(context.run_id),
        "message": printable_line(message.metadata.message_id, 80),
        **{key: printable_line(str(asked.get(key, "")), 100) for key in ("method", "model")},
        "config": digest(json.dumps(dict(asked), sort_keys=True, default=str).encode()),
    }
    try:
        stamp = Stamp.from_content(message.content)
    except FedlogeError:
        return about
    names = {"run": stamp.run_id, "name": stamp.run_name, "fingerprint": stamp.fingerprint}
    about |= {key: printable_line(value, 120) for key, value in names.items()}
    return about | {"attempt": stamp.attempt, "round": stamp.round}


def _described(content: RecordDict) -> dict[str, Any]:
    """What a message holds: of tensors names, shapes, bytes and a digest, of other records their values."""
    described: dict[str, Any] = {}
    for name, record in content.items():
        if isinstance(record, ArrayRecord):
            described[printable_line(name, 80)] = {
                "tensors": {printable_line(k, 120): list(a.shape) for k, a in record.items()},
                "bytes": num_bytes(record),
                "digest": record_digest(record),
            }
        elif isinstance(record, MetricRecord | ConfigRecord):
            described[printable_line(name, 80)] = {
                printable_line(k, 80): _shown(v) for k, v in list(record.items())[:64]
            }
    return described


def _shown(value: Any) -> Any:
    if isinstance(value, bool | int) and abs(value) < 2**63:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    return printable_line(str(value), 120)
