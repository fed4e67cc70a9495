"""Ctrl-C and SIGTERM: a run ends at the next step with what is done on disk, and says how to go on."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, where the one who is interrupted has something to say: its text is a line for the user."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, taken as Ctrl-C is: so all that is open is closed, and workers and child processes are ended."""


def exit_code(exc: KeyboardInterrupt) -> int:
    """The exit code of a command that was interrupted, as shells count it: 130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + (signal.SIGTERM if isinstance(exc, Terminated) else signal.SIGINT)


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Raise `Terminated` at a SIGTERM while the block runs; in other threads than the main one nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def signals_kept() -> Iterator[None]:
    """Give SIGTERM back, after the block, to whoever had it before: libraries take it for themselves."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        # A handler that was not set from Python (None) cannot be set again.
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise Terminated
