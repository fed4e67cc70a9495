"""Stands in for Flower's ``flwr-clientapp`` at a site: hands its work to the warm parent and waits.

Installed as ``fedloge-clientapp``, and found as ``flwr-clientapp`` through a link beside the warm
parent's socket. It imports the standard library alone, so that a message costs no more; what it sends
is read in `fedloge.client.warm_parent`.
"""

import json
import os
import signal
import socket
import sys

SOCKET = "socket"


def run() -> int:
    """Exit code of the process that answered the message; 1 if there is no warm parent."""
    address = os.path.join(os.path.dirname(sys.argv[0]), SOCKET)  # noqa: PTH118, PTH120 - pathlib is slow to import
    asked = {"argv": sys.argv[1:], "env": dict(os.environ), "cwd": os.getcwd()}  # noqa: PTH109
    try:
        return _answered(address, json.dumps(asked).encode())
    except OSError as exc:
        sys.stderr.write(
            f"{sys.argv[0]}: no warm parent answers at {address} ({exc.strerror}); 'fedloge superexec' runs one, "
            "and starts this program itself\n"
        )
        return 1


def _answered(address: str, asked: bytes) -> int:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as parent:
        parent.connect(address)
        socket.send_fds(parent, [len(asked).to_bytes(4, "big")], [0, 1, 2])
        parent.sendall(asked)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda caught, _: parent.send(bytes([caught])))
        answer = parent.recv(1)
    return answer[0] if answer else 1
