"""Where text goes: results to standard output, progress and errors to standard error."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, NoReturn

# rich is imported where a console is made, for start-up time: `fedloge --help` needs none of it.
if TYPE_CHECKING:
    from rich.console import Console


def stdout() -> Console:
    """The console for results."""
    from rich.console import Console

    return Console(highlight=False)


@cache
def stderr() -> Console:
    """The console for progress and notices; the same one always, so that they do not overwrite each other."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def print_json(value: Any) -> None:
    """A result for a script, on standard output."""
    sys.stdout.write(json.dumps(value, indent=1) + "\n")


class _Warnings(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        stderr().print(record.getMessage(), soft_wrap=True, markup=False)


@contextlib.contextmanager
def warnings_shown() -> Iterator[None]:
    """Print what the package warns of while the block runs, a line each, on standard error."""
    logger, handler = logging.getLogger("fedloge"), _Warnings(logging.WARNING)
    before = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = before


def fail(text: str, exit_code: int) -> NoReturn:
    """One line for the user, and the exit code for a script."""
    sys.stderr.write(f"fedloge: {' '.join(text.split())}\n")
    sys.exit(exit_code)
