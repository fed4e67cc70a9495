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
import os
import tempfile
import time
import uuid
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
import torch
from flwr.app import ArrayRecord, Message, Metadata, RecordDict

from fedloge import messages as wire
from fedloge.client.personal_state import PersonalStore
from fedloge.config import Config
from fedloge.data.examples import DataSet
from fedloge.engines.own_grid import (
    OwnGrid,
    answers,
    at_once,
    failed_reply,
    partition_of,
    rebuilt,
    training_images,
)
from fedloge.errors import ConfigError, FedlogeError, RunError
from fedloge.federation import open_federation
from fedloge.messages.averaging import WeightedSum
from fedloge.observer import Observer
from fedloge.run_files import RunFiles
from fedloge.server.server_app import app as server_app

log = logging.getLogger(__name__)
TRIES = 3
"""How often a client is tried in all, if its workers die."""


@dataclass(frozen=True)
class Item:
    """One client's message without the shared tensors, and its personal files if they are carried."""

    metadata: Metadata
    content: RecordDict
    files: dict[str, bytes] | None = None


@dataclass
class Job:
    """Messages for one worker, and the replies so far."""

    messages: list[Message]
    tries: int = 1
    replies: list[Message] = field(default_factory=list)


class Worker:
    """A process (a Ray actor) that answers the messages of many clients in turn.

    Parameters
    ----------
    token : an empty file in the runs' folder; a worker that sees it can use the folder.
    """

    def __init__(self, config: Config, data: DataSet, token: Path) -> None:
        self._sees_runs_dir = token.exists()
        if config.ray_state == "carried" or not self._sees_runs_dir:
            self._scratch = tempfile.TemporaryDirectory(prefix="fedloge-")
            config = config.replace(runs_dir=self._scratch.name)
        self.config = config
        open_federation(config, data)

    def describe(self) -> dict[str, Any]:
        """Whether the worker sees the runs' folder, its process id, and its torch threads."""
        return {
            "sees-runs-dir": self._sees_runs_dir,
            "pid": os.getpid(),
            "threads": torch.get_num_threads(),
        }

    def work(self, items: list[Item], arrays: ArrayRecord | None, sum_up: bool) -> Iterator[Any]:
        """Answer the messages one by one.

        Yields, for each, the reply and the client's personal files (None unless carried). At the end
        it yields a `RecordDict` with the partial sum if `sum_up`, else None.
        """
        total: WeightedSum | None = None
        template = wire.decode(arrays) if arrays is not None and sum_up else {}
        messages = {item.metadata.message_id: self._whole(item, arrays) for item in items}
        carried = {item.metadata.message_id: item.files for item in items if item.files is not None}
        for batch in at_once(self.config, list(messages.values())):
            for message in batch:
                if message.metadata.message_id in carried:
                    self._store(message).write_files(carried[message.metadata.message_id])
            for reply in answers(self.config, batch):
                message = messages[reply.metadata.reply_to_message_id]
                if sum_up and reply.has_content() and wire.failure_reason(reply.content) is None:
                    plan = wire.Plan.from_content(message.content)
                    total = total or WeightedSum(template, plan.total_weight)
                    try:
                        wire.sum_on_worker(reply.content, total, template, plan.weight)
                    except FedlogeError as exc:
                        reply = Message(wire.failure_content(str(exc)), reply_to=message)
                keeps = message.metadata.message_id in carried
                yield reply, self._store(message).read_files() if keeps else None
        partial = None
        if total is not None:
            partial = RecordDict()
            wire.attach_partial(partial, total)
        yield partial

    def _whole(self, item: Item, arrays: ArrayRecord | None) -> Message:
        content = RecordDict({**item.content})
        if arrays is not None:
            content[wire.ARRAYS] = arrays
        return rebuilt(item.metadata, content)

    def _store(self, message: Message) -> PersonalStore:
        stamp = wire.Stamp.from_content(message.content)
        return PersonalStore(
            RunFiles(Path(self.config.runs_dir) / stamp.run_name).heads, partition_of(message)
        )


class RayGrid(OwnGrid):
    """Carries messages to Ray workers.

    Raises
    ------
    ConfigError
        More threads than cores are asked for, or the cluster has too little.
    """

    def __init__(self, config: Config, observers: Iterable[Observer] = ()) -> None:
        super().__init__(config, observers)
        # Robust rules and clipping need each client's update separately.
        self.partial_sums = config.aggregation == "mean" and not config.dp_clip
        _connect(config)
        self._options = worker_options(config, ray.cluster_resources())
        self._token = Path(config.runs_dir) / f".seen-{uuid.uuid4().hex}"
        self._token.parent.mkdir(parents=True, exist_ok=True)
        self._token.touch()
        self._data = ray.put(open_federation(config).data)
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
        if not messages:
            return
        deadline = None if timeout is None else time.monotonic() + timeout
        train = self.partial_sums and messages[0].metadata.message_type == "train"
        record = wire.record_of(messages[0].content, wire.ARRAYS, ArrayRecord)
        arrays = None if record is None else ray.put(record)
        queue = deque(Job(batch) for batch in largest_first(messages, len(self._workers)))
        idle, done = deque(range(len(self._workers))), 0
        running: dict[Any, tuple[int, Job]] = {}
        while queue or running:
            while queue and idle:
                index, job = idle.popleft(), queue.popleft()
                items = [self._item(message) for message in job.messages]
                running[self._workers[index].work.remote(items, arrays, train)] = (index, job)
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready, _ = ray.wait(list(running), num_returns=1, timeout=left)
            if not ready:
                # Time is up. The strategy counts the missing clients as failed; their workers are
                # stuck, so they are replaced.
                for index, _ in running.values():
                    self._replace_worker(index)
                return
            stream: Any = ready[0]
            index, job = running[stream]
            try:
                result: Any = ray.get(next(stream))
            except StopIteration:
                del running[stream]
                idle.append(index)
                continue
            except ray.exceptions.RayActorError:
                del running[stream]
                self._replace_worker(index)
                idle.append(index)
                done -= len(job.replies)
                for again in self._tried_again(job, train):
                    if isinstance(again, Job):
                        queue.append(again)
                    else:
                        yield again
                continue
            if isinstance(result, tuple):
                done += 1
                reply, files = result
                self.note(reply, done, len(messages))
                if files is not None:
                    self._keep(reply, job, files)
                job.replies.append(reply)
                if not train:
                    yield reply
            else:
                yield from _with_partial(job.replies if train else [], result)

    def _item(self, message: Message) -> Item:
        content = RecordDict({k: v for k, v in message.content.items() if k != wire.ARRAYS})
        files = None
        if self._carried and wire.STAMP in content:
            files = self._store(message).read_files()
        return Item(message.metadata, content, files)

    def _store(self, message: Message) -> PersonalStore:
        stamp = wire.Stamp.from_content(message.content)
        return PersonalStore(
            RunFiles(Path(self.config.runs_dir) / stamp.run_name).heads, partition_of(message)
        )

    def _keep(self, reply: Message, job: Job, files: dict[str, bytes]) -> None:
        answered = reply.metadata.reply_to_message_id
        message = next(m for m in job.messages if m.metadata.message_id == answered)
        self._store(message).write_files(files)

    def _tried_again(self, job: Job, train: bool) -> Iterator[Job | Message]:
        # The worker's partial sum is lost too, so in training even clients that have answered are
        # tried again. Each gets a job of its own, so that one that kills its worker harms no other.
        answered = set() if train else {r.metadata.reply_to_message_id for r in job.replies}
        left = [m for m in job.messages if m.metadata.message_id not in answered]
        log.warning("a worker died; %d of its clients are tried again", len(left))
        for message in left:
            if job.tries < TRIES:
                yield Job([message], job.tries + 1)
            else:
                yield failed_reply(
                    message, f"its worker died {TRIES} times; see Ray's logs (out of memory?)"
                )

    def _start_worker(self) -> Any:
        options = {key: value for key, value in self._options.items() if key != "workers"}
        actor = ray.remote(Worker).options(**options)
        return actor.remote(self.config, self._data, self._token)

    def _replace_worker(self, index: int) -> None:
        ray.kill(self._workers[index])
        self._workers[index] = self._start_worker()


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


def worker_options(config: Config, resources: dict[str, float]) -> dict[str, Any]:
    """The number of workers and what Ray reserves for each, from the config and the cluster's resources.

    Raises
    ------
    ConfigError
        The workers' threads would share cores, which is several times slower, or a worker
        needs more than the cluster has.
    """
    cores, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    cpus_each = config.cpus_per_worker or float(config.threads)
    gpus_each = config.gpus_per_worker
    if not gpus_each and gpus and config.device != "cpu":
        gpus_each = 1.0
    fits = int(cores // cpus_each)
    if gpus_each:
        fits = min(fits, int(gpus / gpus_each))
    if fits < 1:
        raise ConfigError(
            f"a Ray worker needs {cpus_each:g} cores and {gpus_each:g} GPUs, Ray has {cores:g} and {gpus:g}; "
            "lower threads, cpus-per-worker or gpus-per-worker"
        )
    workers = config.ray_workers or min(fits, config.clients_per_round)
    if workers * config.threads > cores or workers > fits:
        raise ConfigError(
            f"ray-workers: {workers} workers of {config.threads} threads on {cores:g} cores; threads that share "
            f"cores are several times slower: use at most {max(1, int(cores // config.threads))} workers, "
            f"or threads={max(1, int(cores // workers))}"
        )
    return {"workers": workers, "num_cpus": cpus_each, "num_gpus": gpus_each, "max_restarts": 0}


def _with_partial(replies: list[Message], partial: RecordDict | None) -> Iterator[Message]:
    if partial is not None:
        carrier = next(r for r in replies if r.has_content() and wire.PARTIAL in r.content)
        for name, record in partial.items():
            carrier.content[name] = record
    yield from replies


def _connect(config: Config) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    options: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "include_dashboard": False,
    }
    if config.ray_address:
        del options["include_dashboard"]
        modules = [str(Path(__file__).parents[1])]
        options |= {"address": config.ray_address, "runtime_env": {"py_modules": modules}}
    else:
        # Without this, Ray would join a cluster that happens to run on this machine.
        options |= {"address": "local", "num_cpus": len(os.sched_getaffinity(0))}
    try:
        with warnings.catch_warnings():
            # Ray warns that workers without a GPU will one day see all GPUs; ours are told their device.
            warnings.filterwarnings("ignore", "Tip: In future versions of Ray", FutureWarning)
            ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError) as exc:
        where = config.ray_address or "this machine"
        raise RunError(f"Ray cannot be reached at {where}: {str(exc).splitlines()[0]}") from None
