"""A run's directory: what was run and what came of it, in files that people and scripts can read.

`metrics.jsonl`, `clients.jsonl` and `classes.jsonl` hold only what the same config and seed
give again; times are in `timing.jsonl`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import re
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tomli_w
import torch
from safetensors.torch import save

from fedloge.atomic_files import (
    append_lines,
    disk_error,
    flush_file,
    flush_folder,
    write_atomically,
    write_new,
)
from fedloge.config import Config
from fedloge.data.longtail import said_of_tail
from fedloge.errors import RunDirError
from fedloge.federation.federation import Federation
from fedloge.federation.own_runs import remember
from fedloge.methods.method import Part
from fedloge.run_files import FINGERPRINT, FORMAT, ROUND_FILES, RunFiles

_FLUSHED_ONE_BY_ONE = 8
"""Of more files the whole system's are flushed at once, which is faster."""


@dataclass(frozen=True)
class RunRecord:
    """The files of one run.

    Attributes
    ----------
    fingerprint : hash of what the run computes, as it was when the run was started.
    """

    folder: Path
    run_id: str
    fingerprint: str
    _flushed: set[str] = field(default_factory=set, repr=False, compare=False)

    @property
    def name(self) -> str:
        """The directory's name."""
        return self.folder.name

    @property
    def files(self) -> RunFiles:
        """The paths of its files."""
        return RunFiles(self.folder)

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.files.checkpoints

    def bases(self, at_least: int = 0) -> tuple[int, ...]:
        """For each attempt so far, the round that it began from.

        Raises
        ------
        RunDirError
            Fewer than `at_least` are on record: the file is damaged.
        """
        path = self.files.attempts
        try:
            lines = path.read_text("utf-8").splitlines() if path.exists() else []
            bases = tuple(int(json.loads(line)["base-round"]) for line in lines)
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            bases = ()
        if len(bases) < at_least:
            raise RunDirError(
                f"{path} is missing or damaged: expected {at_least} attempts or more, got {len(bases)}; "
                "restore it from a backup"
            )
        return bases

    def begin_attempt(self, base_round: int, at_least: int) -> tuple[int, ...]:
        """Record that an attempt begins from round `base_round`; returns all bases, this one last.

        `RunDirError`: fewer than `at_least` earlier attempts are on record.
        """
        bases = (*self.bases(at_least), base_round)
        path = self.files.attempts
        before = path.read_text("utf-8") if path.exists() else ""
        row = {
            "attempt": len(bases),
            "base-round": base_round,
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        # The whole file is written anew: half a line, left by a kill, would hide an attempt.
        write_atomically(path, (before + json.dumps(row) + "\n").encode())
        return bases

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Lock the directory while the block runs; `RunDirError` if another process holds the lock."""
        if os.name != "posix":
            yield
            return
        # Not there on Windows.
        import fcntl

        # The system releases the lock when the process ends, however it ends.
        # A link in its place is not followed.
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        try:
            descriptor = os.open(self.files.lock, flags, 0o600)
        except OSError as exc:
            raise disk_error(self.files.lock, exc) from None
        with os.fdopen(descriptor, "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunDirError(
                    f"{self.folder} is being run by another process; wait for it to end, or end it"
                ) from None
            except OSError:  # a file system without locks
                pass
            yield

    def has_rounds(self) -> bool:
        """Whether anything of any round is recorded."""
        path = self.files.metrics
        return path.exists() and path.stat().st_size > 0

    def rounds_so_far(self, round: int) -> list[dict[str, Any]]:
        """The lines of ``metrics.jsonl`` of rounds up to `round`, without half a line left by a kill."""
        path = self.files.metrics
        lines = path.read_text("utf-8", errors="replace").splitlines() if path.exists() else []
        return [json.loads(line) for line in lines if round_of(line) <= round]

    def rewrite_config(self, config: Config) -> None:
        """Write the config again, since a resumed run may change some keys, such as rounds."""
        content = _config_file(config.replace(resume=False, from_round=-1), self)
        write_atomically(self.files.config, content)

    def append(self, rows: dict[str, list[dict[str, Any]]]) -> None:
        """Add a round's lines, file by file (see `ROUND_FILES`)."""
        for name in ROUND_FILES:
            if rows.get(name):
                append_lines(self.files.of_rounds(name), rows[name])

    def flush(self) -> None:
        """Flush to the disk what a checkpoint relies on: the rounds' lines, and the heads of a simulation.

        `RunError` if the disk refuses.
        """
        try:
            for name in ROUND_FILES:
                flush_file(self.files.of_rounds(name))
            flush_folder(self.folder)
            new = self._heads_since_the_last_flush()
            if len(new) > _FLUSHED_ONE_BY_ONE:
                os.sync()
                return
            for path in new:
                flush_file(path)
                flush_folder(path.parent)
            if self.files.heads.is_dir():
                flush_folder(self.files.heads)
        except OSError as exc:
            raise disk_error(self.folder, exc) from None

    def _heads_since_the_last_flush(self) -> list[Path]:
        known, found = self._flushed, set[str]()
        new = []
        if self.files.heads.is_dir():
            for client in os.scandir(self.files.heads):
                for entry in os.scandir(client.path) if client.is_dir() else ():
                    key = f"{client.name}/{entry.name}/{entry.stat().st_mtime_ns}"
                    found.add(key)
                    if key not in known:
                        new.append(Path(entry.path))
        known.clear()
        known.update(found)
        return new

    def missing_rounds(self, round: int) -> list[int]:
        """Rounds up to `round` of which ``metrics.jsonl`` has no line."""
        path = self.files.metrics
        lines = path.read_text("utf-8", errors="replace").splitlines() if path.exists() else []
        return sorted(
            set(range(1, round + 1)) - {int(r) for r in map(round_of, lines) if r < float("inf")}
        )


def create(config: Config, federation: Federation) -> RunRecord:
    """Create a run's directory, with all its opening files or not at all.

    Raises
    ------
    RunDirError
        A run of this name exists.
    RunError
        The disk refused.
    """
    # Absolute, so that the log says where the run lies to those who read it elsewhere.
    root = Path(config.runs_dir).expanduser().resolve()
    while True:
        name = config.name or _free_name(root, config)
        try:
            return _created(root, name, config, federation)
        except FileExistsError:
            # Of runs without a name that start at the same moment, one takes it and the others the next.
            if config.name:
                folder = root / name
                raise RunDirError(
                    f"{folder} exists already; continue it with 'fedloge resume {folder}', or choose another name"
                ) from None


def _created(root: Path, name: str, config: Config, federation: Federation) -> RunRecord:
    """Create the directory of this name; `FileExistsError` if there is one."""
    folder, temporary = root / name, root / f".{name}.{uuid.uuid4().hex[:8]}.tmp"
    if folder.exists():
        raise FileExistsError(folder)
    run_id = f"{name[:60]}-{uuid.uuid4().hex[:8]}"
    record = RunRecord(folder, run_id, federation.fingerprint)
    # Anything wrong with the config is found here, before anything is written.
    files = _opening_files(config.replace(name=name, resume=False), federation, record)
    try:
        temporary.mkdir(parents=True)
        for path, content in files.items():
            write_new(temporary / path.name, content)
        flush_folder(temporary)
        temporary.rename(folder)
        flush_folder(root)
    except OSError as exc:
        shutil.rmtree(temporary, ignore_errors=True)
        if exc.errno in (errno.EEXIST, errno.ENOTEMPTY):
            raise FileExistsError(folder) from None
        raise disk_error(folder, exc) from None
    remember(run_id, config)
    return record


def _opening_files(config: Config, fed: Federation, record: RunRecord) -> dict[Path, bytes]:
    fixed = fed.fixed
    info = {
        "format": FORMAT,
        "run-id": record.run_id,
        "name": record.name,
        "fingerprint": fed.fingerprint,
        "fingerprint-version": FINGERPRINT,
        "config-fingerprint": fed.config.fingerprint(),
        "partition": fed.partition.digest(),
        "prototypes": fed.prototypes_digest,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "method": fed.method.name,
        "parts": {name: str(part) for name, part in fed.method.parts.items()},
        "classes": list(fed.data.classes),
        "content": fed.content.described(),
        **_of_the_split(fed),
        "primary": {"global": fed.method.primary_global, "personal": fed.method.primary_personal},
        "versions": {
            "fedloge": version("fedloge"),
            "torch": torch.__version__,
            "flwr": version("flwr"),
            "python": platform.python_version(),
        },
        "weights": fed.pretrained and fed.pretrained.described(),
        "parameters": sum(t.numel() for t in fed.tensors(Part.SHARED).values()),
        "prototype-info": fixed
        and {
            "kind": fixed.kind,
            "sparsity": fixed.sparsity,
            "gamma": fixed.gamma,
            "reason": fixed.reason,
            **fixed.quality(),
        },
    }
    # Half the size of int64, which for thousands of clients and classes is a hundred megabytes.
    split = {
        "train_counts": torch.from_numpy(fed.partition.train_counts).int(),
        "local_test_counts": torch.from_numpy(fed.partition.local_test_counts).int(),
    }
    files = {
        record.files.config: _config_file(config, record),
        record.files.info: json.dumps(info, indent=1).encode(),
        record.files.split: save(split),
    }
    if fixed:
        files[record.files.prototypes] = save({"prototypes": fixed.matrix.contiguous()})
    return files


def _of_the_split(fed: Federation) -> dict[str, Any]:
    """Who holds how much, and what it is tested on."""
    tested = fed.test.classes.cpu()[fed.global_test.cpu()]
    kept, of = len(fed.kept), len(fed.images.train)
    return {
        "train-counts": fed.train_counts.tolist(),
        "test-counts": torch.bincount(tested, minlength=fed.data.num_classes).tolist(),
        "groups": fed.groups.group_of.tolist(),
        "num-train": fed.num_train,
        "test-split": fed.partition.test_split,
        "client-names": list(fed.partition.names),
        "held-out-clients": list(fed.partition.held_out),
        "left-out": fed.partition.left_out,
        "tail": said_of_tail(fed.config.tail, kept, of) if kept < of else "",
    }


def _config_file(config: Config, record: RunRecord) -> bytes:
    heading = f"# run {record.run_id}\n# fingerprint of config, data, partition and classifier: {record.fingerprint}\n"
    return (heading + tomli_w.dumps(config.nested())).encode()


def _free_name(root: Path, config: Config) -> str:
    method = (
        re.sub(r"[^A-Za-z0-9]+", "-", config.method.rpartition(":")[2].rpartition(".")[2])
        .strip("-")
        .lower()
    )
    stem = f"{method or 'run'}-{config.dataset}"
    number = 1
    while (root / f"{stem}-{number}").exists():
        number += 1
    return f"{stem}-{number}"


def round_of(line: str) -> float:
    """The round of a line of a run's files; infinity for what is none."""
    try:
        return int(json.loads(line)["round"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return float("inf")
