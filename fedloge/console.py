"""Where text goes: results to standard output, progress and errors to standard error."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, NoReturn

# For start-up time rich is imported where a console is made: `fedloge --help` needs none.
if TYPE_CHECKING:
    from rich.console import Console


def stdout() -> Console:
    """The console for results."""
    from rich.console import Console

    return Console(highlight=False)


@cache
def stderr() -> Console:
    """The console for progress and notices; always the same one, so that they do not overwrite each other."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def print_json(value: Any) -> None:
    """Write a result for a script to standard output, as JSON."""
    sys.stdout.write(json.dumps(value, indent=1) + "\n")


class _Warnings(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        stderr().print(record.getMessage(), soft_wrap=True, markup=False)


def warnings_shown() -> contextlib.AbstractContextManager[None]:
    """Print the package's warnings to standard error while the block runs, one line each."""
    return warnings_to(_Warnings(logging.WARNING))


@contextlib.contextmanager
def warnings_to(handler: logging.Handler) -> Iterator[None]:
    """Hand the package's warnings to `handler`, and to nobody above it, while the block runs."""
    logger = logging.getLogger("fedloge")
    before = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = before


def fail(text: str, exit_code: int) -> NoReturn:
    """Exit with one line for the user and an exit code for scripts."""
    sys.stderr.write(f"fedloge: {' '.join(text.split())}\n")
    sys.exit(exit_code)
