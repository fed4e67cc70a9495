"""A run on disk: what was started, and every figure that it recorded.

Tables, figures and the report are made of a `RecordedRun`. Users get its subclass `Run`
(`results.run`), which offers more.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from fedloge.config import Config
from fedloge.errors import RunDirError
from fedloge.learning.round_choice import RoundChoice, chosen_round
from fedloge.results.read_files import (
    ANYTHING,
    NUMBER,
    NUMBER_OR_LIST,
    Line,
    check_order,
    read_config,
    read_info,
    read_lines,
    read_tensors,
)
from fedloge.run_files import RunFiles

GROUPS = ("many", "medium", "few")
"""The names of the shot groups; ``run.json`` holds their places in this tuple."""

JUDGED: Mapping[str, str] = {"global": "all", "personal": "mean"}
"""The figure of each side by which a method is judged."""


class Split(NamedTuple):
    """Images of each class on each client, for training and for local tests; shape (clients, classes)."""

    train: NDArray[np.int64]
    local_test: NDArray[np.int64]


@dataclass(frozen=True)
class RecordedRun:
    """One run directory, as far as it has been written.

    Attributes
    ----------
    files : the paths of its files.
    config : the whole configuration.
    info : the content of ``run.json``.
    metric_lines : one line per round, in order; figures that are not finite are left out.
    timing_lines : one line per round; if a round was repeated after a resume, its later line.
    failure_lines : one line per failed client and round.
    torn : files whose last line is torn and not counted.
    allow_plugins : whether code that the run names, and that this user did not begin it with, may be executed.
    """

    files: RunFiles
    config: Config
    info: dict[str, Any]
    metric_lines: list[Line]
    timing_lines: list[Line]
    failure_lines: list[Line]
    torn: tuple[str, ...]
    allow_plugins: bool = False

    @classmethod
    def open(
        cls, path: str | Path, runs_dir: str | Path = "runs", *, allow_plugins: bool = False
    ) -> Self:
        """Open a run by its folder, or by its bare name within `runs_dir`; nothing is executed.

        Raises
        ------
        RunDirError
            There is no such run (the text names the nearest), or a file of it is missing or damaged.
        """
        files = RunFiles(_locate(Path(path), Path(runs_dir)))
        info, config = read_info(files.info), read_config(files.config)
        torn: list[str] = []
        metrics = list(read_lines(files.metrics, torn, NUMBER_OR_LIST))
        check_order(files.metrics, metrics)
        timing = {line["round"]: line for line in read_lines(files.timing, torn)}
        failures = list(read_lines(files.failures, torn, ANYTHING))
        return cls(
            files=files,
            config=config,
            info=info,
            metric_lines=metrics,
            timing_lines=[timing[round] for round in sorted(timing)],
            failure_lines=failures,
            torn=tuple(torn),
            allow_plugins=allow_plugins,
        )

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self.files.folder

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
        """Hash of config, data, partition and fixed classifier; equal if two runs compute the same."""
        return str(self.info["fingerprint"])

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, in label order."""
        return [str(name) for name in self.info["classes"]]

    def client_name(self, client: int) -> str:
        """A client's name, where the data name it; else its number."""
        names = self.info.get("client-names") or []
        return str(names[client]) if client < len(names) else str(client)

    @property
    def train_counts(self) -> NDArray[np.int64] | None:
        """Training images of each class in the whole federation; None if the clients do not tell them."""
        counts = np.array(self.info["train-counts"], dtype=np.int64)
        return counts if counts.any() else None

    @property
    def rounds_done(self) -> int:
        """The last round recorded; 0 before the first."""
        return int(self.metric_lines[-1]["round"]) if self.metric_lines else 0

    @property
    def complete(self) -> bool:
        """Whether all rounds of the config are done, or the run has ended early, as it was asked to."""
        return self.rounds_done >= self.config.rounds or self.stopped_early

    @cached_property
    def choice(self) -> RoundChoice | None:
        """The round that validation examples choose; None without any."""
        primary = self.info.get("primary") or {}
        return chosen_round(self.metric_lines, primary, self.config.choose_by)

    @property
    def stopped_early(self) -> bool:
        """Whether ``patience`` has ended the run before its last round."""
        patience = self.config.patience
        early = self.rounds_done < self.config.rounds
        return (
            early and bool(patience) and self.choice is not None and self.choice.waited >= patience
        )

    @property
    def config_changed(self) -> bool:
        """Whether ``config.toml`` was changed after the run was started."""
        recorded = self.info.get("config-fingerprint")
        return recorded is not None and recorded != self.config.fingerprint()

    @cached_property
    def evaluated(self) -> list[Line]:
        """The metric lines of evaluated rounds: those with global or personal figures."""
        return [line for line in self.metric_lines if any(is_figure(key) for key in line)]

    @property
    def evaluated_rounds(self) -> list[int]:
        """The rounds after which the models were evaluated."""
        return [int(line["round"]) for line in self.evaluated]

    @property
    def primary(self) -> dict[str, str]:
        """Names of the figures that the method is judged by: ``{"global": "global/realigned/all", ...}``."""
        chosen = self.info.get("primary") or {}
        return {
            side: f"{side}/{chosen[side]}/{end}" for side, end in JUDGED.items() if chosen.get(side)
        }

    def judged_by(self, models: Mapping[str, str]) -> Self:
        """The same run as if its method were judged by these models, by side; not at all on any other side."""
        return replace(self, info=self.info | {"primary": dict(models)})

    def up_to(self, round: int) -> Self:
        """The run as it was when `round` had been its last; a run that has not come so far stays as it is.

        No key makes a round depend on how many are to follow, so this is what a run of so many rounds records.

        Raises
        ------
        RunDirError
            The run has done that round, but its models were not evaluated after it.
        """
        if self.rounds_done < round:
            return self
        if round not in self.evaluated_rounds:
            raise RunDirError(
                f"{self.path}: its models were not evaluated after round {round}; "
                f"they were after {', '.join(map(str, self.evaluated_rounds)) or 'none'}"
            )

        def before(lines: list[Line]) -> list[Line]:
            return [line for line in lines if line["round"] <= round]

        return replace(
            self,
            config=self.config.replace(rounds=round),
            metric_lines=before(self.metric_lines),
            timing_lines=before(self.timing_lines),
            failure_lines=before(self.failure_lines),
        )

    def beside_primary(self, side: str, figure: str) -> str:
        """The name of another figure of the model that a side is judged by; empty without such a model.

        ``beside_primary("global", "few")`` is ``"global/realigned/few"`` for FedLoGe.
        """
        return f"{self.primary[side].rpartition('/')[0]}/{figure}" if side in self.primary else ""

    @cached_property
    def last_client_lines(self) -> list[Line]:
        """One line per client, of the last evaluated round; empty if there is none."""
        return self._of_last_evaluation(self.files.clients, NUMBER)

    @cached_property
    def last_class_line(self) -> Line:
        """Lists over the classes, after the last evaluated round; empty if there is none."""
        lines = self._of_last_evaluation(self.files.classes, NUMBER_OR_LIST)
        return lines[-1] if lines else {}

    def client_lines(self, rounds: Collection[int]) -> list[Line]:
        """One line per client and round, for the evaluated rounds among `rounds`."""
        return [line for line in read_lines(self.files.clients, []) if line["round"] in rounds]

    @cached_property
    def split(self) -> Split | None:
        """How many images of each class each client holds; None if not written yet."""
        path = self.files.split
        tensors = read_tensors(path, "train_counts", "local_test_counts")
        if tensors is None:
            return None
        shape = (self.config.num_clients, len(self.info["classes"]))
        for name, tensor in tensors.items():
            if tensor.shape != shape:
                raise RunDirError(
                    f"{path}: expected {name} of {shape[0]} clients x {shape[1]} classes, got "
                    f"{' x '.join(map(str, tensor.shape))}; the file belongs to another run"
                )
        return Split(tensors["train_counts"], tensors["local_test_counts"])

    @cached_property
    def prototypes(self) -> NDArray[np.float32] | None:
        """Rows of the fixed classifier, (classes, features); None for methods without one."""
        path = self.files.prototypes
        tensors = read_tensors(path, "prototypes")
        if tensors is None:
            return None
        rows = tensors["prototypes"]
        if rows.ndim != 2 or len(rows) != len(self.info["classes"]):
            raise RunDirError(
                f"{path}: expected a row for each of {len(self.info['classes'])} classes, got "
                f"{' x '.join(map(str, rows.shape))}; the file belongs to another run"
            )
        return rows

    def _of_last_evaluation(self, path: Path, kinds: tuple[type, ...]) -> list[Line]:
        if not self.evaluated:
            return []
        last = self.evaluated_rounds[-1]
        # A torn line here is of an evaluation after `last` that is still being written.
        return [line for line in read_lines(path, [], kinds) if line["round"] == last]


def is_figure(key: str) -> bool:
    """Whether a key of a line is a figure of global or personal models, or of new clients'."""
    return key.startswith(("global/", "personal/", "new-clients/"))


def list_runs(folder: str | Path) -> list[Path]:
    """The run folders directly within `folder`, by name; empty if it does not exist.

    Hidden folders are left out: a run is written under a hidden name until it is whole.
    """
    inside = (path.parent for path in Path(folder).glob(f"[!.]*/{RunFiles(Path()).info.name}"))
    return sorted(inside)


def _locate(path: Path, runs_dir: Path) -> Path:
    if path.name == str(path) and not path.exists():
        path = runs_dir / path
    if path.is_file():
        raise RunDirError(f"{path} is a file; give the folder of a run")
    if not path.is_dir():
        raise RunDirError(_no_such_run(path))
    if not RunFiles(path).info.is_file():
        inside = list_runs(path)
        if inside:
            raise RunDirError(
                f"{path} is a folder of runs, not a run; give one of them, for example {inside[0]}"
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
    hint = f"did you mean {near[0]!r}?" if near else f"there is, for example, {names[0]!r}"
    return f"no such run {path.name!r} in {path.parent}; {hint}"
