"""Flower's SuperExec of a site, with a warm parent for the messages it starts processes for."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from flwr.supernode.cli.flwr_clientapp import flwr_clientapp

from fedloge.client.guard import Code
from fedloge.client.own_code import OwnCode, answer_with
from fedloge.client.warm_parent import WarmParent
from fedloge.errors import InputError

PROGRAM = "flower-superexec"


def superexec(arguments: Sequence[str], code: Code) -> int:
    """Run ``flower-superexec`` until it ends; its ClientApps are forked from this process.

    Parameters
    ----------
    arguments : of ``flower-superexec``.
    code : own: the installed package answers, and refuses a server whose code differs from it;
        sent: the server's code runs, as it does with Flower's own SuperExec.

    Returns
    -------
    The command's exit code.

    Raises
    ------
    InputError
        Flower's program is not there.
    """
    beside = Path(sys.executable).with_name(PROGRAM)
    program = str(beside) if beside.exists() else shutil.which(PROGRAM)
    if program is None:
        raise InputError(f"{PROGRAM} is not installed beside {sys.executable}; install flwr there")
    answer = partial(_own, OwnCode()) if code == "own" else _sent
    return WarmParent(answer).run([program, *arguments], os.environ)


def _own(own: OwnCode) -> None:
    answer_with(own)
    flwr_clientapp()


def _sent() -> None:
    # The server's package has the same name as the installed one, and is to be found in its place.
    for name in [name for name in sys.modules if name.partition(".")[0] in ("fedloge", "clients")]:
        del sys.modules[name]
    flwr_clientapp()
