"""`fedloge audit`: the audit log of a site or a server, checked and shown."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from fedloge.audit_log import read_audit
from fedloge.commands.arguments import Json
from fedloge.console import stdout
from fedloge.errors import printable_line


def audit(
    folder: Annotated[
        Path, typer.Argument(help="A site's state folder, or a server's folder of runs.")
    ],
    run: Annotated[
        str, typer.Option(help="Only lines of the run of this name or id.", show_default=False)
    ] = "",
    refused: Annotated[
        bool, typer.Option("--refused", help="Only what was refused or failed.")
    ] = False,
    json_: Json = False,
) -> None:
    """Show an audit log, and check that no line was changed, removed or put in."""
    lines, wrong = 0, []
    for line in read_audit(folder):
        lines += 1
        if line.wrong:
            wrong.append(f"{line.file}, line {line.number}: {line.wrong}")
        event = line.event
        if run and run not in (event.get("run"), event.get("name")):
            continue
        if refused and event.get("event") not in ("refused", "failed"):
            continue
        if json_:
            sys.stdout.write(json.dumps(event) + "\n")
        elif event:
            stdout().print(in_words(event), soft_wrap=True, markup=False)
    for text in wrong:
        sys.stderr.write(f"fedloge: {text}\n")
    if not json_:
        whole = "each follows the one before" if not wrong else f"{len(wrong)} cannot be trusted"
        sys.stderr.write(f"{lines} lines, {whole}\n")
    if wrong:
        raise typer.Exit(1)


def in_words(event: dict[str, Any]) -> str:
    """A line of the log for people.

    >>> in_words({"time": "2026-01-02T03:04:05.678+00:00", "event": "refused", "round": 3, "kind": "train",
    ...           "rule": "methods", "reason": "no"})
    '2026-01-02 03:04:05  refused     train  round 3  (methods) no'
    """
    time = str(event.get("time", ""))[:19].replace("T", " ")
    parts = [time, f"{event.get('event', '?')!s:10}"]
    parts += [str(event["kind"])] if event.get("kind") else []
    parts += [f"{key} {event[key]}" for key in ("name", "round", "client", "node") if key in event]
    if event.get("event") != "refused":
        parts += [f"{key} {event[key]}" for key in ("method", "images") if event.get(key)]
    for name, record in dict(event.get("records") or {}).items():
        if isinstance(record, dict) and "digest" in record:
            count = len(record.get("tensors", ()))
            size = f"{record.get('bytes', 0)} bytes"
            parts.append(f"{name}: {count} tensors, {size}, {record['digest']}")
    parts += [str(event["digest"])] if event.get("digest") else []
    if event.get("reason"):
        rule = f"({event['rule']}) " if event.get("rule") else ""
        parts.append(f"{rule}{event['reason']}")
    return printable_line("  ".join(parts), 400)
