"""A site's process that holds the imports, and forks a child for each message.

Flower starts a fresh ``flwr-clientapp`` for every message, which spends seconds on importing torch
and Flower. Here one of that name stands first in the path (`clientapp_shim`), and hands its arguments,
environment and standard streams over a socket that only this user can open. The child forked for it
runs Flower's own client process to its end; nothing of one message is left for the next.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from fedloge.client import clientapp_shim
from fedloge.errors import InputError

PROGRAM = "flwr-clientapp"
INSTALLED = "fedloge-clientapp"
_PATIENCE = 10.0  # seconds for a shim to send its few bytes
_POLL = {"FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2"}
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass(frozen=True)
class Asked:
    """What a shim hands over: the command line, environment and folder of a process, and its streams."""

    argv: list[str]
    env: dict[str, str]
    cwd: str
    streams: list[int]


class WarmParent:
    """Runs a command whose ``flwr-clientapp`` processes are children forked from this one.

    Parameters
    ----------
    answer : what a child does; its `sys.argv` is that of the process it stands for.
    """

    def __init__(self, answer: Callable[[], None]) -> None:
        self._answer = answer
        self._children: dict[int, socket.socket] = {}
        self._command: subprocess.Popen[bytes] | None = None
        self._early: list[int] = []  # signals that came before the command was there to get them
        self._events = selectors.DefaultSelector()

    def run(self, command: Sequence[str], environment: Mapping[str, str]) -> int:
        """Run a command to its end, and answer for the processes it starts.

        Signals that end a process go on to the command, whose end is then waited for.

        Returns
        -------
        The command's exit code; 128 + N if signal N ended it.
        """
        woken, waker = socket.socketpair()
        with tempfile.TemporaryDirectory(prefix="fedloge-") as folder, woken, waker:
            waker.setblocking(False)
            before = signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
            handlers = {n: signal.signal(n, self._pass_on) for n in _ENDING}
            handlers[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
            try:
                with listening(Path(folder)) as door:
                    self._events.register(woken, selectors.EVENT_READ, self._reap)
                    self._events.register(door, selectors.EVENT_READ, self._fork)
                    given = {**_POLL, **environment}
                    given["PATH"] = f"{folder}:{environment.get('PATH', os.defpath)}"
                    self._command = subprocess.Popen(command, env=given)
                    for number in self._early:
                        self._command.send_signal(number)
                    while self._command.poll() is None:
                        for key, _ in self._events.select():
                            key.data(key.fileobj)
                    self._end_children()
            finally:
                self._events.close()
                signal.set_wakeup_fd(before)
                for number, handler in handlers.items():
                    signal.signal(number, handler)
        code = self._command.returncode
        return code if code >= 0 else 128 - code

    def _pass_on(self, number: int, _: Any) -> None:
        if self._command is None:
            self._early.append(number)
        else:
            self._command.send_signal(number)

    def _fork(self, door: socket.socket) -> None:
        connection, _ = door.accept()
        connection.settimeout(_PATIENCE)
        try:
            asked = _received(connection)
        except (OSError, ValueError, KeyError, TypeError) as exc:
            sys.stderr.write(f"{PROGRAM}: a request that cannot be read was refused ({exc})\n")
            connection.close()
            return
        child = os.fork()
        if child == 0:
            self._be_child(asked, door)
        for stream in asked.streams:
            os.close(stream)
        self._children[child] = connection
        self._events.register(connection, selectors.EVENT_READ, lambda _: self._heard(child))

    def _heard(self, child: int) -> None:
        """A signal for the child; or the shim has been killed, and its child is to end as well."""
        try:
            told = self._children[child].recv(1)
        except OSError:
            told = b""
        number = told[0] if told else signal.SIGTERM
        if not told:
            self._events.unregister(self._children[child])
        with suppress(ProcessLookupError):
            os.kill(child, number if number in _ENDING else signal.SIGTERM)

    def _reap(self, woken: socket.socket) -> None:
        woken.recv(4096)
        for child in list(self._children):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                self._tell(child, os.waitstatus_to_exitcode(status))

    def _tell(self, child: int, code: int) -> None:
        connection = self._children.pop(child)
        with suppress(KeyError, ValueError):
            self._events.unregister(connection)
        with connection, suppress(OSError):
            connection.sendall(bytes([code if code >= 0 else 128 - code]))

    def _end_children(self) -> None:
        """The children watch the command by its process id and end by themselves; these are the last."""
        for child in list(self._children):
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGTERM)
        for child in list(self._children):
            _, status = os.waitpid(child, 0)
            self._tell(child, os.waitstatus_to_exitcode(status))

    def _be_child(self, asked: Asked, door: socket.socket) -> NoReturn:
        """Never returns: whatever of the parent is on the stack must not run twice."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for caught in (*_ENDING, signal.SIGCHLD):
                signal.signal(caught, signal.SIG_DFL)
            self._events.close()
            for inherited in (door, *self._children.values()):
                inherited.close()
            for standard, given in enumerate(asked.streams):
                os.dup2(given, standard)
                os.close(given)
            os.environ.clear()
            os.environ.update(asked.env)
            os.chdir(asked.cwd)
            sys.argv = [PROGRAM, *asked.argv]
            self._answer()
            code = 0
        except SystemExit as exc:
            code = exc.code if isinstance(exc.code, int) else int(exc.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError, ValueError):
                    stream.flush()
            os._exit(code)


def listening(folder: Path) -> socket.socket:
    """A socket in `folder`, which nobody else may enter, and a link to the program that connects to it.

    A link, because a container's temporary folder may let no program run that lies in it.

    Raises
    ------
    InputError
        The program is not installed beside this Python.
    """
    installed = Path(sys.executable).with_name(INSTALLED)
    if not installed.exists():
        raise InputError(f"{installed} is not there; install fedloge with pip or uv")
    folder.chmod(0o700)
    address = folder / clientapp_shim.SOCKET
    door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    door.bind(str(address))
    address.chmod(0o600)
    door.listen()
    (folder / PROGRAM).symlink_to(installed)
    return door


def _received(connection: socket.socket) -> Asked:
    """What the shim at the other end asks for.

    Raises
    ------
    ValueError
        Another user is at the other end, or it sends something else.
    """
    if hasattr(socket, "SO_PEERCRED"):
        peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        user = struct.unpack("3i", peer)[1]
        if user != os.getuid():
            raise ValueError(f"from user {user}, expected {os.getuid()}")
    size, streams, *_ = socket.recv_fds(connection, 4, 3)
    try:
        if len(streams) != 3 or len(size) != 4:
            raise ValueError(f"{len(streams)} streams, expected 3")
        with connection.makefile("rb") as sent:
            asked = json.loads(sent.read(int.from_bytes(size, "big")))
        return Asked(list(map(str, asked["argv"])), dict(asked["env"]), str(asked["cwd"]), streams)
    except BaseException:
        for stream in streams:
            os.close(stream)
        raise
