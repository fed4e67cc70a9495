"""Every error that a person can meet, by who has to act.

An `InputError` is for the user to mend (exit code 2). A `RunError` is a run that
could not go on (exit code 1). Both say in one line what is wrong, what was
expected, what came, and what to do; the command line prints that line alone.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FedlogeError(Exception):
    """Base of all errors raised on purpose."""

    exit_code = 1


class InputError(FedlogeError):
    """Something the user gave is wrong: a key, a value, a path, a file."""

    exit_code = 2


class ConfigError(InputError):
    """A configuration key or value is wrong."""


class DataError(InputError):
    """A data source is missing, unreadable or not what it should be."""


class PartitionError(InputError):
    """A partition cannot be made, or one that was made breaks the rules."""


class GeometryError(InputError):
    """The fixed classifier asked for does not exist, was not found, or cannot be written."""


class PluginError(InputError):
    """A plug-in (a method, a model, a data set, ...) cannot be loaded or breaks the rules of its kind."""


class RunDirError(InputError):
    """A run directory is missing, incomplete or belongs to another run."""


class RunError(FedlogeError):
    """A run stopped: no quorum, diverged, or lost its disk."""


class CheckpointError(RunError):
    """A checkpoint or a personal state file is damaged or belongs to another run."""


class UpdateError(RunError):
    """A client's reply cannot be used: not finite, wrong shape, wrong run or round."""


class PolicyError(RunError):
    """A site's own policy forbids what a message asks for.

    Parameters
    ----------
    rule : the key of the policy.
    """

    def __init__(self, rule: str, text: str) -> None:
        super().__init__(f"this site's policy, {rule}: {text}")
        self.rule = rule


def in_one_line(exc: Exception) -> str:
    """An error's type and the first line of what it says.

    >>> in_one_line(ValueError("no room\\nat all"))
    'ValueError: no room'
    """
    return f"{type(exc).__name__}: {(str(exc).splitlines() or [''])[0]}"


def printable_line(text: str, most: int = 300) -> str:
    """Text of a stranger for a log, a file or a terminal: one line of printable characters.

    Whatever else there is, such as a newline, an escape or a mark that turns the direction of
    writing, becomes a blank.

    >>> printable_line("no room\\nround 9: \\x1b[31mall well")
    'no room round 9:  [31mall well'
    >>> printable_line("a" * 9, most=4)
    'aaa…'
    """
    text = "".join(c if c.isprintable() else " " for c in text[: most + 1])
    return text if len(text) <= most else text[: most - 1] + "…"


def unknown_name(what: str, name: str, known: Iterable[str]) -> str:
    """Say that `name` is no known `what`, with the nearest one that is.

    >>> unknown_name("method", "fedlog", ["fedavg", "fedloge"])
    "unknown method 'fedlog' (did you mean 'fedloge'?); known: fedavg, fedloge"
    """
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"unknown {what} {name!r}{hint}; known: {', '.join(known)}"
