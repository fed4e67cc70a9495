"""Many image files decoded on all cores, by helper processes that know nothing but decoding."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedloge.data.images.archives import tar_stream
from fedloge.data.images.decoding import BadImageError, Decoding, decode
from fedloge.data.images.decoding_worker import READY
from fedloge.data.images.file_tree import StoredFile
from fedloge.data.images.pixel_sink import PixelSink, Shape
from fedloge.data.images.read_place import read_place
from fedloge.errors import DataError

log = logging.getLogger(__name__)

# Helpers take a fraction of a second to start: what is left after a first look must be worth it.
_LOOK_SECONDS, _WORTH_SECONDS = 0.1, 1.0
_BATCH_FILES, _BATCH_BYTES = 32, 8 << 20

Item = tuple[int, StoredFile, bytes | None]
"""A place among the pixels, the file that belongs there, and its bytes where they come from a stream."""

Answer = dict[str, list[Any]]
"""What a helper says: places done with their CRC-32, bad ones with the reason, and what ends it all."""

Told = Callable[[int, int], None]
"""Is told how many images are done, of how many."""


def usable_cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def decode_files(
    files: Sequence[StoredFile],
    archive: Path,
    how: Decoding,
    sink: PixelSink,
    tell: Told,
    workers: int | None = None,
) -> dict[int, str]:
    """Decode what `sink` does not have yet; what could not be decoded, by its position, and why.

    Parameters
    ----------
    files : the file of each place.
    archive : where files without a place of their own are read from, in its order.
    tell : told of the progress.
    workers : helper processes; None: as many as there are cores.

    Raises
    ------
    DataError
        Without an image size: images of different sizes.
    OSError
        The disk refuses a write.
    """
    crew = _Crew(files, how, sink, tell)
    items = _items(files, archive, sink.done)
    began = time.monotonic()
    many = usable_cores() if workers is None else workers
    left = len(files) - len(sink.done)
    for here, item in enumerate(items, start=1):
        crew.decode_here(item)
        shared = many > 1 and sink.path is not None and sink.shape is not None
        spent = time.monotonic() - began
        if shared and spent > _LOOK_SECONDS and spent / here * (left - here) > _WORTH_SECONDS:
            # Where helpers cannot be started, the loop goes on alone.
            many = many if crew.decode_together(items, many) else 1
    return crew.bad


def _items(files: Sequence[StoredFile], archive: Path, done: Mapping[int, int]) -> Iterator[Item]:
    streamed: dict[str, list[int]] = {}
    for slot, file in enumerate(files):
        if slot in done:
            continue
        if file.place:
            yield slot, file, None
        else:
            streamed.setdefault(file.member, []).append(slot)
    if streamed:
        for member, data in tar_stream(archive, streamed):
            for slot in streamed.pop(member, ()):
                yield slot, files[slot], data
    if streamed:
        raise DataError(f"{archive}: {min(streamed)} is no longer in it; get the archive again")


class _Crew:
    """What is common to the decoding in this process and in the helpers."""

    def __init__(
        self, files: Sequence[StoredFile], how: Decoding, sink: PixelSink, tell: Told
    ) -> None:
        self.files, self.how, self.sink, self.tell = files, how, sink, tell
        self.bad: dict[int, str] = {}
        self.failure: BaseException | None = None
        self._lock = threading.Lock()
        self._shaped_by = ""

    def decode_here(self, item: Item) -> None:
        slot, file, data = item
        try:
            image = decode(read_place(file.place) if data is None else data, file.name, self.how)
        except BadImageError as exc:
            self.bad[slot] = str(exc)
            return
        shape: Shape = image.shape
        if self.sink.shape is None:
            self.sink.start(shape)
            self._shaped_by = file.name
        elif shape != self.sink.shape:
            raise self._other_shape(slot, shape[1], shape[2])
        self.sink.put(slot, image)
        self._tell()

    def decode_together(self, items: Iterator[Item], workers: int) -> bool:
        """Whether helpers could be started, and have decoded all that was left."""
        batches: queue.Queue[list[Item] | None] = queue.Queue(maxsize=2 * workers)
        helpers = [_Helper(self) for _ in range(workers)]
        if not all(helper.start() for helper in helpers):
            for helper in helpers:
                helper.stop()
            log.warning("no helper processes can be started; images are decoded on one core")
            return False
        threads = [threading.Thread(target=h.serve, args=(batches,)) for h in helpers]
        for thread in threads:
            thread.start()
        try:
            for batch in itertools.chain(_batches(items), [None] * workers):
                self._hand_over(batches, batch)
            for thread in threads:
                thread.join()
        except BaseException:
            self.failure = self.failure or InterruptedError()
            raise
        finally:
            for helper in helpers:
                helper.stop()
            for thread in threads:
                thread.join()
        if self.failure is not None:
            raise self.failure
        return True

    def _hand_over(self, batches: queue.Queue[list[Item] | None], batch: list[Item] | None) -> None:
        while self.failure is None:
            with contextlib.suppress(queue.Full):
                batches.put(batch, timeout=0.2)
                return
        raise self.failure

    def take(self, answer: Answer) -> None:
        """Note what a helper has answered; raises what ends the decoding."""
        with self._lock:
            self.sink.note([(slot, crc) for slot, crc in answer["done"]])
            self.bad.update({int(slot): str(reason) for slot, reason in answer["bad"]})
            self._tell()
        if "disk" in answer:
            raise OSError(*answer["disk"])
        for slot, height, width in answer["shape"]:
            raise self._other_shape(slot, height, width)

    def _tell(self) -> None:
        self.tell(len(self.sink.done) + len(self.bad), len(self.files))

    def _other_shape(self, slot: int, height: int, width: int) -> DataError:
        assert self.sink.shape is not None
        _, first_height, first_width = self.sink.shape
        first = self._shaped_by or self.files[min(self.sink.done)].name
        return DataError(
            f"{first} is {first_width}x{first_height} but {self.files[slot].name} is {width}x{height}; "
            "set image-size to resize them to one size"
        )


def _batches(items: Iterator[Item]) -> Iterator[list[Item]]:
    batch: list[Item] = []
    size = 0
    for item in items:
        batch.append(item)
        size += item[1].size
        if len(batch) == _BATCH_FILES or size > _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class _Helper:
    """One helper process, and the thread that feeds it."""

    def __init__(self, crew: _Crew) -> None:
        self._crew = crew
        self._process: subprocess.Popen[bytes] | None = None

    def serve(self, batches: queue.Queue[list[Item] | None]) -> None:
        """Have batches decoded until there is none left, or anyone has failed."""
        try:
            while self._crew.failure is None:
                try:
                    batch = batches.get(timeout=0.2)
                except queue.Empty:
                    continue
                if batch is None:
                    return
                self._decode(batch)
        except BaseException as exc:  # raised again by whoever waits for this thread
            self._crew.failure = self._crew.failure or exc

    def _decode(self, batch: list[Item]) -> None:
        try:
            answer = self._ask(batch)
        except (OSError, ValueError):
            self.stop()
            if self._crew.failure is not None:
                return
            if len(batch) > 1:
                # Something in this batch has ended the helper: one by one, to find what.
                for item in batch:
                    self._decode([item])
                return
            answer = {"done": [], "shape": [], "bad": [[batch[0][0], "ends the decoder"]]}
        self._crew.take(answer)

    def _ask(self, batch: list[Item]) -> Answer:
        if self._process is None and not self.start():
            raise OSError("no helper process can be started any more")
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        request = [
            [slot, file.name, file.place, -1 if data is None else len(data)]
            for slot, file, data in batch
        ]
        process.stdin.write(json.dumps(request).encode() + b"\n")
        for _, _, data in batch:
            if data is not None:
                process.stdin.write(data)
        process.stdin.flush()
        answer: Answer = json.loads(process.stdout.readline())
        return answer

    def start(self) -> bool:
        """Whether a process could be started and is ready."""
        # -P: a folder of the user's that holds a numpy.py must not be imported from. The path is this
        # process's own, as fedloge may have been imported from an application bundle.
        home = str(Path(__file__).parents[3])
        paths = [home, *filter(None, sys.path)]
        task = {
            "how": self._crew.how.described(),
            "shape": self._crew.sink.shape,
            "pixels": str(self._crew.sink.path),
        }
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "fedloge.data.images.decoding_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            )
            assert self._process.stdin is not None and self._process.stdout is not None
            self._process.stdin.write(json.dumps(task).encode() + b"\n")
            self._process.stdin.flush()
            return self._process.stdout.readline() == READY
        except OSError:
            return False

    def stop(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()
        process.wait()
