"""The server's audit log: who registered, what was refused, what each client answered.

It is kept beside the runs (`fedloge.audit_log`), where nodes are other people's. A simulation has
none: all its nodes are this machine's own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid

from fedloge.audit_log import FOLDER, AuditLog
from fedloge.config import Config
from fedloge.errors import in_one_line, printable_line
from fedloge.server.simulated_nodes import simulated


class ServerAudit:
    """Writes a run's events to the log.

    Parameters
    ----------
    log : None: nothing is written.
    about : what each line begins with.
    """

    def __init__(self, log: AuditLog | None = None, about: Mapping[str, Any] | None = None) -> None:
        self._log = log
        self._about = about or {}

    def __bool__(self) -> bool:
        return self._log is not None

    def write(self, *events: Mapping[str, Any]) -> None:
        """Append events; `RunError` if the disk refuses."""
        if self._log is not None:
            self._log.write(*({**event, **self._about} for event in events))

    @contextlib.contextmanager
    def of_run(self) -> Iterator[None]:
        """Write that the run begins, and how it ended."""
        self.write({"event": "started"})
        try:
            yield
        except BaseException as exc:
            reason = in_one_line(exc) if isinstance(exc, Exception) else type(exc).__name__
            self.write({"event": "failed", "reason": printable_line(reason)})
            raise
        self.write({"event": "completed"})


def server_audit(grid: Grid, config: Config, context: Context) -> ServerAudit:
    """The audit log of a run; without effect where all nodes are this machine's own."""
    if simulated(grid):
        return ServerAudit()
    about = {
        "name": config.name,
        "flower-run": str(context.run_id),
        "method": config.method,
        "config": config.fingerprint(),
    }
    folder = Path(config.runs_dir).expanduser().resolve() / FOLDER
    return ServerAudit(AuditLog(folder), about)
