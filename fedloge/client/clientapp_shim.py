"""Stands in for Flower's ``flwr-clientapp`` at a site: hands its work to the warm parent and waits.

Run by path with ``python -I -S``, so that a message costs no import of the environment. It knows the
standard library alone; what it sends is read in `fedloge.client.warm_parent`.
"""

import json
import os
import signal
import socket
import sys


def main() -> int:
    """Exit code of the process that answered the message; 1 if the warm parent has gone."""
    address, *arguments = sys.argv[1:]
    folder = os.getcwd()  # noqa: PTH109 - pathlib takes longer to import than all the rest
    asked = json.dumps({"argv": arguments, "env": dict(os.environ), "cwd": folder}).encode()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as parent:
        parent.connect(address)
        socket.send_fds(parent, [len(asked).to_bytes(4, "big")], [0, 1, 2])
        parent.sendall(asked)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda caught, _: parent.send(bytes([caught])))
        answer = parent.recv(1)
    return answer[0] if answer else 1


if __name__ == "__main__":
    try:
        code = main()
    except OSError as exc:
        sys.stderr.write(f"flwr-clientapp: the warm parent does not answer ({exc.strerror})\n")
        code = 1
    sys.exit(code)
