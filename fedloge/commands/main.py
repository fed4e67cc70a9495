"""The command line; each command is in the file of its kind."""

from __future__ import annotations

import errno
from typing import Annotated, Any

import click
import typer
from typer.core import TyperGroup

from fedloge.commands import (
    partitioning,
    prototype_command,
    reading_runs,
    running,
    tools,
    using_models,
)
from fedloge.commands.audit import audit
from fedloge.commands.cache import cache
from fedloge.commands.closed_form_command import closed_form
from fedloge.commands.lab import lab
from fedloge.console import fail, warnings_shown
from fedloge.errors import FedlogeError
from fedloge.interrupts import exit_code

_COMMANDS = {
    "Run": (running.run, running.resume, running.sweep),
    "Read what was run": (
        reading_runs.show,
        reading_runs.compare,
        reading_runs.report,
        reading_runs.table,
        reading_runs.plot,
    ),
    "Use what was trained": (
        using_models.export,
        using_models.predict,
        using_models.mistakes,
        using_models.personalize,
        closed_form,
    ),
    "Look around and prepare": (
        tools.recipes,
        partitioning.partition,
        cache,
        prototype_command.prototypes,
        lab,
        tools.certs,
        tools.site_key,
        tools.superexec,
        tools.doctor,
        audit,
    ),
}


class _Interruptible(TyperGroup):
    """Ends with exit code 130 at Ctrl-C; typer would print "Aborted!" and exit with 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as exc:
            fail("interrupted", exit_code(exc))


cli = typer.Typer(
    name="fedloge",
    cls=_Interruptible,
    help="Federated learning on long-tailed classes: a fair global model and a personal one for every client.",
    no_args_is_help=True,
    add_completion=False,
    suggest_commands=False,  # click does so already
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# What this one does not know is for the program that it runs.
_PASSING_ON = {"allow_extra_args": True, "ignore_unknown_options": True}
for _kind, _commands in _COMMANDS.items():
    for _command in _commands:
        _settings = _PASSING_ON if _command is tools.superexec else None
        cli.command(rich_help_panel=_kind, context_settings=_settings)(_command)


def main() -> None:
    """Entry point. Exit code 2 and one line for a user's mistake, 1 for a failed run, 130 for Ctrl-C."""
    try:
        with warnings_shown():
            cli(standalone_mode=True)
    except FedlogeError as exc:
        fail(str(exc), exc.exit_code)
    except OSError as exc:
        # A full or failing disk is not a bug of this program; any other error keeps its traceback.
        if exc.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO):
            raise
        fail(f"{exc.filename or 'a file'} cannot be read or written ({exc.strerror})", 1)


def _say_version(asked: bool) -> None:
    if asked:
        # For start-up time.
        from importlib.metadata import version

        typer.echo(f"fedloge {version('fedloge')}")
        raise typer.Exit


@cli.callback()
def common(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_say_version, is_eager=True),
    ] = False,
) -> None:
    """Federated learning on long-tailed classes: a fair global model and a personal one for every client."""
