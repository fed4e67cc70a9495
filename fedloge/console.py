"""Where text goes: results to standard output, progress and errors to standard error."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from rich.console import Console


def stdout() -> Console:
    """The console for results."""
    from rich.console import Console

    return Console(highlight=False)


def stderr() -> Console:
    """The console for progress and notices."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def fail(text: str, exit_code: int) -> NoReturn:
    """One line for the user, and the exit code for a script."""
    sys.stderr.write(f"fedloge: {' '.join(text.split())}\n")
    sys.exit(exit_code)
