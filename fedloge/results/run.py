"""Read a run directory: what was run, and every figure it recorded.

The one place that knows how a run lies on disk from the reader's side; tables and
reports work on a `Run`. A run may be read while it is still being written: a torn
last line, as a kill leaves it, is skipped and named in `Run.torn`.
"""

from __future__ import annotations

import difflib
import json
import math
import statistics
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from fedloge.config import Config, load
from fedloge.errors import ConfigError, RunDirError
from fedloge.run_files import FORMAT

Line = dict[str, Any]

_FIGURES = ("global/", "personal/")
_NUMBER: tuple[type, ...] = (int, float, type(None))
_REQUIRED: dict[str, type] = {
    "name": str,
    "fingerprint": str,
    "method": str,
    "classes": list,
    "train-counts": list,
    "groups": list,
}


class Split(NamedTuple):
    """Images of each class on each client, (clients, classes) each."""

    train: NDArray[np.int64]
    local_test: NDArray[np.int64]


@dataclass(frozen=True)
class Run:
    """One run directory, as far as it has been written.

    Attributes
    ----------
    path : the directory.
    config : the resolved configuration.
    info : ``run.json``.
    metrics : a line a round, in order; figures that are not finite are left out.
    timing : a line a round; after a resume, the later line of a round counts.
    failures : a line a failed client.
    torn : files whose last line was torn off and is not counted.
    """

    path: Path
    config: Config
    info: dict[str, Any]
    metrics: list[Line]
    timing: list[Line]
    failures: list[Line]
    torn: tuple[str, ...]

    @property
    def name(self) -> str:
        """The run's name."""
        return str(self.info["name"])

    @property
    def method(self) -> str:
        """The method's name."""
        return str(self.info["method"])

    @property
    def fingerprint(self) -> str:
        """Hash of config, partition and fixed classifier; equal for comparable runs only."""
        return str(self.info["fingerprint"])

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, in label order."""
        return [str(name) for name in self.info["classes"]]

    @property
    def rounds_done(self) -> int:
        """The last round recorded; 0 before the first."""
        return int(self.metrics[-1]["round"]) if self.metrics else 0

    @property
    def complete(self) -> bool:
        """Whether every round asked for was run."""
        return self.rounds_done >= self.config.rounds

    @property
    def config_changed(self) -> bool:
        """Whether ``config.toml`` is no longer the one the run was started with."""
        recorded = self.info.get("config-fingerprint")
        return recorded is not None and recorded != self.config.fingerprint()

    @cached_property
    def evaluated(self) -> list[Line]:
        """The lines of `metrics` that hold global or personal figures."""
        return [line for line in self.metrics if any(_is_figure(key) for key in line)]

    @property
    def evaluated_rounds(self) -> list[int]:
        """The rounds after which the models were evaluated."""
        return [int(line["round"]) for line in self.evaluated]

    @property
    def primary(self) -> dict[str, str]:
        """The figures the method is judged by: ``{"global": "global/realigned/all", ...}``."""
        chosen = self.info.get("primary") or {}
        ends = {"global": "all", "personal": "mean"}
        return {
            side: f"{side}/{chosen[side]}/{end}" for side, end in ends.items() if chosen.get(side)
        }

    @cached_property
    def clients(self) -> list[Line]:
        """A line a client, of the last evaluated round; empty when there is none."""
        return self._of_last_evaluation("clients.jsonl", _NUMBER)

    @cached_property
    def classes(self) -> Line:
        """Figures of each class after the last evaluated round; empty when there is none."""
        lines = self._of_last_evaluation("classes.jsonl", (*_NUMBER, list))
        return lines[-1] if lines else {}

    @cached_property
    def split(self) -> Split | None:
        """How the images lie on the clients; None when not written yet."""
        tensors = self._tensors("split.safetensors", "train_counts", "local_test_counts")
        if tensors is None:
            return None
        shape = (self.config.num_clients, len(self.info["classes"]))
        for name, tensor in tensors.items():
            if tensor.shape != shape:
                raise RunDirError(
                    f"{self.path / 'split.safetensors'}: expected {name} of {shape[0]} clients x "
                    f"{shape[1]} classes, got {' x '.join(map(str, tensor.shape))}; "
                    "the file belongs to another run"
                )
        return Split(tensors["train_counts"], tensors["local_test_counts"])

    @cached_property
    def prototypes(self) -> NDArray[np.float32] | None:
        """Rows of the fixed classifier, (classes, features); None for methods without one."""
        tensors = self._tensors("prototypes.safetensors", "prototypes")
        if tensors is None:
            return None
        rows = tensors["prototypes"]
        if rows.ndim != 2 or len(rows) != len(self.info["classes"]):
            raise RunDirError(
                f"{self.path / 'prototypes.safetensors'}: expected a row for each of "
                f"{len(self.info['classes'])} classes, got {' x '.join(map(str, rows.shape))}; "
                "the file belongs to another run"
            )
        return rows

    def client_lines(self, rounds: Collection[int]) -> list[Line]:
        """A line a client and round, of the evaluated rounds among `rounds`."""
        lines = _read_lines(self.path / "clients.jsonl", [], _NUMBER)
        return [line for line in lines if line["round"] in rounds]

    def _of_last_evaluation(self, name: str, kinds: tuple[type, ...]) -> list[Line]:
        if not self.evaluated:
            return []
        last = self.evaluated_rounds[-1]
        # Torn here means an evaluation still being written: a later one than `last`.
        return [line for line in _read_lines(self.path / name, [], kinds) if line["round"] == last]

    def _tensors(self, name: str, *wanted: str) -> dict[str, NDArray[Any]] | None:
        path = self.path / name
        if not path.exists():
            return None
        try:
            tensors = safetensors.numpy.load_file(path)
        except (OSError, safetensors.SafetensorError) as exc:
            raise RunDirError(
                f"{path}: damaged, expected a safetensors file, got {_one_line(exc)}; "
                "copy the run again"
            ) from None
        missing = [key for key in wanted if key not in tensors]
        if missing:
            raise RunDirError(
                f"{path}: expected a tensor {missing[0]!r}, got {', '.join(tensors) or 'none'}; "
                "copy the run again"
            )
        return {key: tensors[key] for key in wanted}


def open_run(path: str | Path, runs_dir: str | Path = "runs") -> Run:
    """Open a run by its folder, or by its bare name within `runs_dir`.

    Raises
    ------
    RunDirError
        No such run (names the nearest one there is), or a file of it is missing or damaged.
    """
    path = _locate(Path(path), Path(runs_dir))
    info = _read_info(path / "run.json")
    config = _read_config(path / "config.toml")
    torn: list[str] = []
    metrics = list(_read_lines(path / "metrics.jsonl", torn))
    _check_order(path / "metrics.jsonl", metrics)
    timing = {line["round"]: line for line in _read_lines(path / "timing.jsonl", torn)}
    failures = list(_read_lines(path / "failures.jsonl", torn, (object,)))
    return Run(
        path=path,
        config=config,
        info=info,
        metrics=metrics,
        timing=[timing[round] for round in sorted(timing)],
        failures=failures,
        torn=tuple(torn),
    )


def list_runs(folder: str | Path) -> list[Path]:
    """The run folders directly within `folder`, by name; empty when it does not exist.

    Hidden folders are left out: a run is written under a hidden name until it is whole.
    """
    folders = (path.parent for path in Path(folder).glob("[!.]*/run.json"))
    return sorted(folders)


def summary(run: Run) -> dict[str, Any]:
    """Everything one would quote of a run, as plain JSON values.

    ``last`` are the figures of the last evaluated round, ``mean-of-last-ten`` their means
    over the last ten evaluated rounds (``evaluations`` says how many there were), and
    ``best-on-test`` the highest primary figures, picked on the test set. Accuracies are
    in [0, 1]; a run that was not evaluated yet has empty ones.
    """
    keys = ("run-id", "created", "config-fingerprint", "partition", "prototypes", "parts")
    return {
        "name": run.name,
        "path": str(run.path),
        "method": run.method,
        "fingerprint": run.fingerprint,
        **{key: run.info.get(key) for key in keys},
        "primary": run.primary,
        "rounds": run.config.rounds,
        "rounds-done": run.rounds_done,
        "complete": run.complete,
        "last": run.evaluated[-1] if run.evaluated else {},
        "mean-of-last-ten": mean_of_last(run, 10),
        "best-on-test": best_on_test(run),
        "seconds": total(run.timing, "seconds"),
        "bytes-down": total(run.timing, "bytes-down"),
        "bytes-up": total(run.timing, "bytes-up"),
        "failures": len(run.failures),
        "torn": list(run.torn),
        "config-changed": run.config_changed,
        "versions": run.info.get("versions", {}),
        "config": run.config.flat(),
    }


def mean_of_last(run: Run, count: int) -> dict[str, float]:
    """Mean of every figure over the last `count` evaluated rounds, and which rounds these are.

    A figure that one of these rounds lacks is left out: its mean would be over other
    rounds than the rest.
    """
    lines = run.evaluated[-count:]
    if not lines:
        return {}
    names = [key for key in lines[-1] if _is_figure(key) and all(key in line for line in lines)]
    return {
        "evaluations": len(lines),
        "first-round": lines[0]["round"],
        "last-round": lines[-1]["round"],
        **{name: statistics.fmean(line[name] for line in lines) for name in names},
    }


def best_on_test(run: Run) -> dict[str, dict[str, float]]:
    """The highest value of each primary figure and the first round that reached it.

    Picked on the test set, so no estimate of how good a model would be elsewhere.
    """
    best = {}
    for figure in run.primary.values():
        lines = [line for line in run.evaluated if figure in line]
        if lines:
            top = max(lines, key=lambda line: (line[figure], -line["round"]))
            best[figure] = {"round": top["round"], "value": top[figure]}
    return best


def total(lines: Iterable[Line], key: str) -> float:
    """Sum of `key` over the lines that have it."""
    return sum(line.get(key, 0) for line in lines)


def _is_figure(key: str) -> bool:
    return key.startswith(_FIGURES)


def _locate(path: Path, runs_dir: Path) -> Path:
    if path.name == str(path) and not path.exists():
        path = runs_dir / path
    if path.is_file():
        raise RunDirError(f"{path} is a file; give the folder of a run")
    if not path.is_dir():
        raise RunDirError(_no_such_run(path))
    if not (path / "run.json").is_file():
        inside = list_runs(path)
        if inside:
            raise RunDirError(
                f"{path} is no run but holds {len(inside)}; "
                f"give one of them, for example {inside[0]}"
            )
        raise RunDirError(
            f"{path}: no run.json, which a run writes when it starts; give the folder of a run"
        )
    return path


def _no_such_run(path: Path) -> str:
    names = [p.name for p in list_runs(path.parent)]
    if not names:
        return f"no such run {str(path)!r}, and there are no runs in {path.parent}; start one first"
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else f"one that there is: {names[0]!r}"
    return f"no such run {path.name!r} in {path.parent}; {hint}"


def _read_info(path: Path) -> dict[str, Any]:
    try:
        info = json.loads(path.read_bytes())
    except (OSError, ValueError) as exc:
        raise RunDirError(
            f"{path}: damaged, expected a JSON object, got {_one_line(exc)}; copy the run again"
        ) from None
    if not isinstance(info, dict):
        raise RunDirError(
            f"{path}: damaged, expected a JSON object, got {type(info).__name__}; "
            "copy the run again"
        )
    if info.get("format") != FORMAT:
        raise RunDirError(
            f"{path}: expected run format {FORMAT}, got {info.get('format')!r}; "
            "read it with the version of fedloge that wrote it"
        )
    for key, kind in _REQUIRED.items():
        if not isinstance(info.get(key), kind):
            raise RunDirError(
                f"{path}: damaged, expected {key!r} to be a {kind.__name__}, "
                f"got {info.get(key)!r}; copy the run again"
            )
    for key in ("train-counts", "groups"):
        if len(info[key]) != len(info["classes"]):
            raise RunDirError(
                f"{path}: damaged, expected {len(info['classes'])} {key}, one a class, "
                f"got {len(info[key])}; copy the run again"
            )
    return info


def _read_config(path: Path) -> Config:
    if not path.is_file():
        raise RunDirError(
            f"{path}: missing, expected the configuration of the run; copy the run again"
        )
    try:
        return load(path)
    except ConfigError as exc:
        raise RunDirError(f"damaged run: {exc}") from None


def _read_lines(path: Path, torn: list[str], kinds: tuple[type, ...] = _NUMBER) -> Iterator[Line]:
    """Yield the lines of a JSON-lines file, whose values must be of `kinds`.

    A torn last line is named in `torn` instead.
    """
    if not path.exists():
        return
    try:
        file = path.open("rb")
    except OSError as exc:
        raise RunDirError(f"{path}: cannot be read ({exc.strerror})") from None
    with file:
        for number, raw in enumerate(file, start=1):
            line, problem = _parse_line(raw, kinds)
            if problem is None:
                yield line
            elif not raw.endswith(b"\n"):
                torn.append(path.name)
            else:
                raise RunDirError(
                    f"{path}: line {number} is damaged, expected a JSON object with its round, "
                    f"got {problem}; copy the run again"
                )


def _parse_line(raw: bytes, kinds: tuple[type, ...]) -> tuple[Line, str | None]:
    text = _one_line(raw.decode("utf-8", "replace").strip()) or "nothing"
    try:
        line = json.loads(raw)
    except ValueError:
        return {}, text
    if not isinstance(line, dict) or not isinstance(line.get("round"), int):
        return {}, text
    for key, value in line.items():
        if not isinstance(value, kinds) or ("/" in key and isinstance(value, bool)):
            return {}, f"{key} = {value!r}"
    return {key: value for key, value in line.items() if _is_known(value)}, None


def _is_known(value: object) -> bool:
    return value is not None and not (isinstance(value, float) and not math.isfinite(value))


def _check_order(path: Path, lines: Sequence[Line]) -> None:
    for number, (before, line) in enumerate(pairwise(lines), start=2):
        if line["round"] <= before["round"]:
            raise RunDirError(
                f"{path}: line {number} is out of order, expected a round after "
                f"{before['round']}, got {line['round']}; copy the run again"
            )


def _one_line(problem: object) -> str:
    text = " ".join(str(problem).split())
    return text if len(text) <= 100 else f"{text[:97]}..."
