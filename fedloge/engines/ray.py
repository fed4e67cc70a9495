"""The Ray engine: workers that keep model and data in memory, on one machine or a cluster.

In each round every worker gets one task: some of the clients, the largest first. It answers
client by client. It adds up their tensors itself, exactly, and sends one sum. The shared tensors
go into Ray's object store once per round.

Personal state lies in the run's directory. Workers that see this directory use it. On a cluster
without a shared path the driver carries each client's files to the worker and back, so that a run
does not depend on which node a client is trained on.
"""

from __future__ import annotations

import heapq
import logging
import time
import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from flwr.app import ArrayRecord, Message, RecordDict

from fedloge import messages as wire
from fedloge.config import Config
from fedloge.engines.own_grid import OwnGrid, failed_reply, partition_of, training_images
from fedloge.engines.ray_cluster import connect, worker_options
from fedloge.engines.ray_worker import Parcel, Worker, store_of
from fedloge.errors import ConfigError
from fedloge.federation import open_federation
from fedloge.observer import Observer
from fedloge.server.server_app import app as server_app

log = logging.getLogger(__name__)
TRIES = 3
"""How often a client is tried in all, if its workers die."""


@dataclass
class Job:
    """Messages for one worker, and the replies so far."""

    messages: list[Message]
    tries: int = 1
    replies: list[Message] = field(default_factory=list)


class RayGrid(OwnGrid):
    """Carries messages to Ray workers.

    Raises
    ------
    ConfigError
        More threads than cores are asked for, or the cluster has too little.
    """

    def __init__(self, config: Config, observers: Iterable[Observer] = ()) -> None:
        super().__init__(config, observers)
        # Robust rules and clipping need each client's update separately, and so does who does not wait for all;
        # masked ones only the server adds up.
        alone = config.dp_clip or config.secure_aggregation or config.waits_selectively
        alone = alone or config.average_bits == 32
        self.partial_sums = config.aggregation == "mean" and not alone
        connect(config)
        self._options = worker_options(config, ray.cluster_resources())
        self._token = Path(config.runs_dir) / f".seen-{uuid.uuid4().hex}"
        self._token.parent.mkdir(parents=True, exist_ok=True)
        self._token.touch()
        self._data = ray.put(open_federation(config).images)
        self._workers = [self._start_worker() for _ in range(self._options.pop("workers"))]
        described = ray.get([worker.describe.remote() for worker in self._workers])
        self._carried = config.ray_state == "carried" or not all(
            d["sees-runs-dir"] for d in described
        )
        if self._carried and config.ray_state == "shared":
            raise ConfigError(
                f"ray-state: 'shared', but not every worker sees {config.runs_dir}; "
                "put runs-dir on a path all nodes share, or use ray-state=carried"
            )

    def close(self) -> None:
        """Leave the cluster; stop the one that was started for this run."""
        self._token.unlink(missing_ok=True)
        ray.shutdown()

    def carry(self, messages: list[Message], timeout: float | None) -> Iterator[Message]:
        """Yield replies as workers finish; a worker that dies is replaced, and its clients are tried again."""
        if messages:
            yield from _Delivery(self, messages, timeout).replies()

    @property
    def workers(self) -> int:
        """How many workers there are."""
        return len(self._workers)

    def give(self, worker: int, job: Job, arrays: Any, sum_up: bool) -> Any:
        """Hand a job to a worker; returns the stream of its answers (see `Worker.work`)."""
        parcels = [self._parcel(message) for message in job.messages]
        return self._workers[worker].work.remote(parcels, arrays, sum_up)

    def keep(self, message: Message, files: dict[str, bytes]) -> None:
        """Write the personal files of the client that a message went to."""
        store_of(message, self.config).write_files(files)

    def replace_worker(self, worker: int) -> None:
        """Kill a worker, whatever it is doing, and start another in its place."""
        ray.kill(self._workers[worker])
        self._workers[worker] = self._start_worker()

    def _parcel(self, message: Message) -> Parcel:
        content = RecordDict({k: v for k, v in message.content.items() if k != wire.ARRAYS})
        files = None
        if self._carried and wire.STAMP in content:
            files = store_of(message, self.config).read_files()
        return Parcel(message.metadata, content, files)

    def _start_worker(self) -> Any:
        options = {key: value for key, value in self._options.items() if key != "workers"}
        actor = ray.remote(Worker).options(**options)
        return actor.remote(self.config, self._data, self._token)


class _Delivery:
    """Carries messages to the workers and back: which wait, which run, how many are answered."""

    def __init__(self, grid: RayGrid, messages: list[Message], timeout: float | None) -> None:
        self._grid = grid
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._sum_up = grid.partial_sums and messages[0].metadata.message_type == "train"
        shared = wire.record_of(messages[0].content, wire.ARRAYS, ArrayRecord)
        self._arrays = None if shared is None else ray.put(shared)
        self._waiting = deque(Job(batch) for batch in largest_first(messages, grid.workers))
        self._idle = deque(range(grid.workers))
        self._running: dict[Any, tuple[int, Job]] = {}
        self._of, self._done = len(messages), 0

    def replies(self) -> Iterator[Message]:
        """Yield replies as they come; those that miss the deadline are left out."""
        while self._waiting or self._running:
            while self._waiting and self._idle:
                worker, job = self._idle.popleft(), self._waiting.popleft()
                stream = self._grid.give(worker, job, self._arrays, self._sum_up)
                self._running[stream] = worker, job
            ready, _ = ray.wait(list(self._running), num_returns=1, timeout=self._seconds_left())
            if not ready:
                # Time is up. The strategy counts the missing clients as failed; their workers are
                # stuck, so they are replaced.
                for worker, _ in self._running.values():
                    self._grid.replace_worker(worker)
                return
            yield from self._taken(ready[0])

    def _seconds_left(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def _taken(self, stream: Any) -> Iterator[Message]:
        """Take the next answer of a worker; yields the replies that can be passed on."""
        worker, job = self._running[stream]
        try:
            result = ray.get(next(stream))
        except StopIteration:
            del self._running[stream]
            self._idle.append(worker)
        except ray.exceptions.RayActorError:
            del self._running[stream]
            self._grid.replace_worker(worker)
            self._idle.append(worker)
            yield from self._try_again(job)
        else:
            yield from self._answered(job, result)

    def _answered(
        self, job: Job, result: tuple[Message, dict[str, bytes] | None] | RecordDict | None
    ) -> Iterator[Message]:
        if not isinstance(result, tuple):
            yield from _with_partial(job.replies if self._sum_up else [], result)
            return
        self._done += 1
        reply, files = result
        self._grid.note(reply, self._done, self._of)
        if files is not None:
            answered = reply.metadata.reply_to_message_id
            message = next(m for m in job.messages if m.metadata.message_id == answered)
            self._grid.keep(message, files)
        job.replies.append(reply)
        if not self._sum_up:
            yield reply

    def _try_again(self, job: Job) -> Iterator[Message]:
        # The worker's partial sum is lost too, so in training even clients that have answered are
        # tried again. Each gets a job of its own, so that one that kills its worker harms no other.
        self._done -= len(job.replies)
        answered = {r.metadata.reply_to_message_id for r in job.replies}
        again = [m for m in job.messages if self._sum_up or m.metadata.message_id not in answered]
        log.warning("a worker died; %d of its clients are tried again", len(again))
        for message in again:
            if job.tries < TRIES:
                self._waiting.append(Job([message], job.tries + 1))
            else:
                yield failed_reply(
                    message, f"its worker died {TRIES} times; see Ray's logs (out of memory?)"
                )


def run(config: Config, observers: Iterable[Observer] = ()) -> None:
    """Run a federation on Ray workers."""
    grid = RayGrid(config, observers)
    try:
        server_app(grid, grid.server_context())
    finally:
        grid.close()


def largest_first(messages: Sequence[Message], workers: int) -> list[list[Message]]:
    """Share messages out over the workers: the longest first, by training images.

    The largest load is at most 4/3 of the best possible one (Graham 1969). Messages without a
    plan count alike. Ties go by partition id, so that the split is reproducible.
    """
    batches: list[list[Message]] = [[] for _ in range(min(workers, len(messages)))]
    loads = [(0, index) for index in range(len(batches))]
    for message in sorted(messages, key=lambda m: (-training_images(m), partition_of(m))):
        load, index = heapq.heappop(loads)
        batches[index].append(message)
        heapq.heappush(loads, (load + training_images(message), index))
    return batches


def _with_partial(replies: list[Message], partial: RecordDict | None) -> Iterator[Message]:
    if partial is not None:
        carrier = next(r for r in replies if r.has_content() and wire.PARTIAL in r.content)
        for name, record in partial.items():
            carrier.content[name] = record
    yield from replies
