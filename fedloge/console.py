"""Where text goes: results to standard output, progress and errors to standard error."""

from __future__ import annotations

import json
import logging
import sys
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


def show_warnings() -> None:
    """Print what the package warns of from here on, a line each, for the command line."""
    logger = logging.getLogger("fedloge")
    logger.addHandler(_Warnings(logging.WARNING))
    logger.propagate = False


def fail(text: str, exit_code: int) -> NoReturn:
    """One line for the user, and the exit code for a script."""
    sys.stderr.write(f"fedloge: {' '.join(text.split())}\n")
    sys.exit(exit_code)
