"""A helper process that decodes image files: ``python -m fedloge.data.images.decoding_worker``.

It reads one line of JSON that says how to decode and where the pixels go, and says that it is ready.
Then it reads requests: a line of JSON with the files, followed by the bytes of those that lie in a
stream. It answers each with a line. It ends with its input.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import zlib
from typing import Any

from fedloge.data.images.decoding import BadImageError, Decoding, decode
from fedloge.data.images.read_place import read_place

READY = b"ready\n"


def main() -> None:
    """Answer requests until the input ends."""
    source, answers = sys.stdin.buffer, sys.stdout.buffer
    task = json.loads(source.readline())
    how, shape = Decoding(**task["how"]), tuple(task["shape"])
    with open(task["pixels"], "r+b", buffering=0) as pixels:  # noqa: PTH123 - a path as text
        answers.write(READY)
        answers.flush()
        while line := source.readline():
            answer: dict[str, list[Any]] = {"done": [], "bad": [], "shape": []}
            for slot, name, place, size in json.loads(line):
                data = source.read(size) if size >= 0 else None
                if "disk" in answer:
                    continue
                try:
                    image = decode(read_place(place) if data is None else data, name, how)
                except BadImageError as exc:
                    answer["bad"].append([slot, str(exc)])
                    continue
                if image.shape != shape:
                    answer["shape"].append([slot, *image.shape[1:]])
                    continue
                try:
                    answer["done"].append([slot, _written(pixels.fileno(), slot, image.tobytes())])
                except OSError as exc:
                    answer["disk"] = [exc.errno, exc.strerror]
            answers.write(json.dumps(answer).encode() + b"\n")
            answers.flush()


def _written(file: int, slot: int, content: bytes) -> int:
    """Put an image into its place; its CRC-32."""
    if os.pwrite(file, content, slot * len(content)) < len(content):
        raise OSError(errno.ENOSPC, "No space left on device")
    return zlib.crc32(content)


if __name__ == "__main__":
    # Ctrl-C reaches the whole process group; the parent says what there is to say.
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        main()
