"""Write run directories as a run does: real files in the documented format, invented figures."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import safetensors.numpy
import tomli_w

from fedloge.config import Config, from_flat
from fedloge.results.run import Run, open_run
from fedloge.run_files import FINGERPRINT, FORMAT, RunFiles

LOGE = {"global": ("fixed", "raw", "realigned"), "personal": ("raw", "realigned")}
PARTS = {
    "backbone": "shared",
    "global_head": "shared",
    "local_head": "personal",
    "classifier": "fixed",
}
SIMPLEX = {"kind": "sparse-etf", "sparsity": 0.6, "gamma": 0.1, "reason": "C < d"}
# Of run.json, what is the same in every invented run; a test holds all of it against a real one.
ALIKE = {
    "format": FORMAT,
    "fingerprint-version": FINGERPRINT,
    "run-id": "5f2c",
    "created": "2025-03-01T12:00:00+00:00",
    "parts": PARTS,
    "versions": {"fedloge": "0.1.0", "torch": "2.9", "flwr": "1.41.0", "python": "3.12"},
    "parameters": 12345,
    "weights": None,
}


def shot_groups(counts: np.ndarray) -> np.ndarray:
    """0, 1, 2 for many, medium, few: cut at 75 % and 95 % of cumulative mass."""
    order = np.argsort(-counts, kind="stable")
    share = np.cumsum(counts[order]) / counts.sum()
    groups = np.empty(len(counts), dtype=int)
    groups[order] = np.digitize(share, [0.75, 0.95])
    return groups


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


# Clients without names, tested as in the paper, of which all train; nothing is left out.
PLAIN_SPLIT = {
    "test-split": "matched",
    "client-names": [],
    "held-out-clients": [],
    "left-out": 0,
    "tail": "",
}


def write_run(
    folder: Path,
    *,
    rounds: int = 20,
    done: int | None = None,
    clients: int = 6,
    classes: int = 4,
    dim: int = 16,
    largest: int = 400,
    predictors: Mapping[str, Iterable[str]] = LOGE,
    primary: Mapping[str, str | None] | None = None,
    prototypes: bool = True,
    class_names: list[str] | None = None,
    failures: Iterable[Mapping[str, Any]] = (),
    seed: int = 0,
    lift: float = 0.0,
    keys: Mapping[str, Any] | None = None,
    **config: Any,
) -> Path:
    """Write one run; `lift` is added to every accuracy; `config` and `keys` hold more of the config."""
    folder.mkdir(parents=True)
    files = RunFiles(folder)
    draw = np.random.default_rng(seed)
    resolved = from_flat(
        {
            "name": folder.name,
            "rounds": rounds,
            "num-clients": clients,
            "clients-per-round": min(8, clients),
            "seed": seed,
            **{key.replace("_", "-"): value for key, value in (config | dict(keys or {})).items()},
        }
    )
    files.config.write_text(tomli_w.dumps(resolved.nested()))
    split = draw_split(files, draw, clients, classes, largest)
    counts = split.sum(axis=0)
    if prototypes:
        write_simplex(files, draw, classes, dim)
    names = class_names or [str(c) for c in range(classes)]
    judged = {"global": "realigned", "personal": "realigned"} if primary is None else primary
    info = {
        "fingerprint": resolved.fingerprint()[::-1],
        "config-fingerprint": resolved.fingerprint(),
        "partition": f"{seed:016x}",
        "prototypes": "00112233aabbccdd" if prototypes else "",
        "method": resolved.method,
        **invented_content(names),
        "train-counts": counts.tolist(),
        "test-counts": [100] * classes,
        "groups": shot_groups(counts).tolist(),
        "num-train": int(counts.sum()),
        "primary": judged,
        "prototype-info": SIMPLEX if prototypes else None,
    }
    files.info.write_text(json.dumps({"name": folder.name, **ALIKE, **PLAIN_SPLIT, **info}))
    figures = _Figures(counts, shot_groups(counts), split, predictors, draw, lift)
    write_rounds(files, resolved, rounds if done is None else done, figures)
    if failures:
        write_lines(files.failures, failures)
    return folder


def invented_content(names: list[str]) -> dict[str, Any]:
    """What a run records of its classes, and of its data's content."""
    told = [f"{c:016x}" for c in range(len(names))]
    content = {"classes": names, "train": told, "test": told, "labels": "0123456789abcdef"}
    return {"classes": names, "content": content}


def draw_split(
    files: RunFiles, draw: np.random.Generator, clients: int, classes: int, largest: int
) -> np.ndarray:
    """A long tail over the classes, a Dirichlet split over the clients; (clients, classes)."""
    sizes = np.floor(largest * 0.02 ** (np.arange(classes) / max(1, classes - 1)))
    shares = draw.dirichlet([0.5] * clients, size=classes)
    split = np.stack([draw.multinomial(n, p) for n, p in zip(sizes, shares, strict=True)], axis=1)
    tensors = {
        "train_counts": split.astype(np.int64),
        "local_test_counts": (split // 4).astype(np.int64),
    }
    safetensors.numpy.save_file(tensors, files.split)
    return split


def write_simplex(files: RunFiles, draw: np.random.Generator, classes: int, dim: int) -> None:
    """A fixed classifier whose rows have norm 0.1 and equal angles."""
    basis = np.linalg.qr(draw.normal(size=(max(dim, classes), classes)))[0]
    rows = (np.eye(classes) - 1 / classes) @ basis.T
    rows = 0.1 * rows / np.linalg.norm(rows, axis=1, keepdims=True)
    safetensors.numpy.save_file({"prototypes": rows.astype(np.float32)}, files.prototypes)


def write_rounds(files: RunFiles, config: Config, done: int, figures: _Figures) -> None:
    """The lines of the first `done` rounds."""
    metrics, timing, clients, classes, calibration = [], [], [], [], []
    for r in range(1, done + 1):
        line: dict[str, Any] = {"round": r, "clients": config.clients_per_round, "failed": 0}
        line |= {"images": 1000, "train/loss": 2.5 / r**0.4, "train/loss-fixed": 1.5 / r**0.3}
        seconds: dict[str, Any] = {"round": r, "seconds": 2.0 + 0.1 * (r % 3), "train-seconds": 1.5}
        seconds |= {"images-per-second": 650.0, "bytes-down": 1_000_000, "bytes-up": 800_000}
        if r % config.evaluate_every == 0 or r == config.rounds:
            line |= figures.of_round(r / config.rounds)
            seconds["evaluate-seconds"] = 0.4
            classes.append({"round": r, **figures.of_classes()})
            clients += [{"round": r, **one} for one in figures.of_clients()]
            calibration += [{"round": r, **one} for one in figures.of_calibration()]
        metrics.append(line)
        timing.append(seconds)
    for path, lines in (
        (files.metrics, metrics),
        (files.timing, timing),
        (files.clients, clients),
        (files.classes, classes),
        (files.calibration, calibration),
    ):
        write_lines(path, lines)


class _Figures:
    """Accuracies that rise with the rounds and with class size, as such runs' do."""

    LIFT: ClassVar = {"fixed": 0.0, "raw": 0.02, "tuned": 0.05, "realigned": 0.06}

    def __init__(
        self,
        counts: np.ndarray,
        groups: np.ndarray,
        split: np.ndarray,
        predictors: Mapping[str, Iterable[str]],
        draw: np.random.Generator,
        lift: float,
    ) -> None:
        self.counts, self.groups, self.split = counts, groups, split
        self.predictors, self.draw, self.lift = predictors, draw, lift
        self.progress = 0.0

    def of_round(self, progress: float) -> dict[str, float]:
        self.progress = progress
        self.per_class = {name: self._classes(name) for name in self.predictors["global"]}
        line = {}
        for name, each in self.per_class.items():
            line[f"global/{name}/all"] = float(each.mean())
            line |= self._by_group(f"global/{name}", each)
            line |= self._quality(f"global/{name}", float(each.mean()))
        for name in self.predictors["personal"]:
            each = self._personal(name)
            of = f"personal/{name}"
            line |= {f"{of}/mean": float(each.mean()), f"{of}/std": float(each.std())}
            line[f"interval/{of}/mean"] = [float(each.mean()) - 0.05, float(each.mean()) + 0.05]
            line[f"{of}/worst-decile"] = float(np.sort(each)[: max(1, len(each) // 10)].mean())
            line |= self._quality(of, float(each.mean()))
            line |= self._by_group(of, self._classes(name) + 0.1)
        clients, images = len(self.split), int(sum(n.sum() // 4 for n in self.split))
        told = {"measured-clients": clients, "measured-images": images}
        return {**line, **told, "evaluated-clients": clients}

    def of_classes(self) -> dict[str, list[float]]:
        each = {f"global/{n}/accuracy": a.tolist() for n, a in self.per_class.items()}
        norms = 0.4 + 0.25 * np.log1p(self.counts) + self.draw.normal(0, 0.05, len(self.counts))
        return {**each, "norms/global-head": norms.tolist()}

    def of_calibration(self) -> list[dict[str, Any]]:
        """Overconfident, with nothing in the lower bins."""
        examples = [0.0] * 4 + [10.0 * (bin + 1) for bin in range(4, 15)]
        said = [n * (bin + 0.5) / 15 for bin, n in enumerate(examples)]
        sums = {"examples": examples, "confidence": said, "right": [0.8 * total for total in said]}
        return [{"model": f"global/{name}", **sums} for name in self.predictors["global"]]

    def of_clients(self) -> list[dict[str, float]]:
        each = {name: self._personal(name) for name in self.predictors["personal"]}
        lines = []
        for client, counts in enumerate(self.split):
            line = {"client": client, "num-train": int(counts.sum()), "trained-rounds": client % 4}
            line["num-test"] = int(counts.sum() // 4)
            for name, values in each.items():
                line[f"personal/{name}/accuracy"] = float(values[client])
                line[f"personal/{name}/macro-f1"] = float(values[client] * 0.8)
            lines.append(line)
        return lines

    @staticmethod
    def _quality(prefix: str, mean: float) -> dict[str, float]:
        shares = {"recall": 0.9 * mean, "macro-f1": 0.8 * mean, "auroc": (1 + mean) / 2, "ece": 0.1}
        return {f"{prefix}/{name}": value for name, value in shares.items()}

    def _classes(self, name: str) -> np.ndarray:
        tail = np.log1p(self.counts) / np.log1p(self.counts.max())
        level = (0.25 + 0.6 * self.progress**0.5) * (0.2 + 0.7 * tail) + self.lift
        noise = self.draw.normal(0, 0.03, len(self.counts))
        return np.clip(level + self.LIFT.get(name, 0.0) * (2 - tail) + noise, 0, 1)

    def _personal(self, name: str) -> np.ndarray:
        skew = (self.split.max(axis=1) + 1) / (self.split.sum(axis=1) + 2)
        level = 0.35 + 0.3 * self.progress**0.5 + 0.3 * skew + self.LIFT.get(name, 0.0)
        return np.clip(level + self.lift + self.draw.normal(0, 0.04, len(skew)), 0, 1)

    def _by_group(self, prefix: str, each: np.ndarray) -> dict[str, float]:
        names = ("many", "medium", "few")
        return {
            f"{prefix}/{name}": float(np.clip(each[self.groups == g].mean(), 0, 1))
            for g, name in enumerate(names)
            if (self.groups == g).any()
        }


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """``make_run("name", rounds=20, ...)`` writes a run under ``tmp_path/runs``."""

    def make(name: str = "one", **changes: Any) -> Path:
        return write_run(tmp_path / "runs" / name, **changes)

    return make


PRIMARY = {"fedavg": ("raw", "tuned"), "fedloge": ("realigned", "realigned")}


@pytest.fixture
def figures(make_run: Callable[..., Path]) -> Callable[..., Run]:
    """``figures("fedavg", 0, [.5, .6], [[.4, .8]])``: a run of that method and seed.

    One evaluation per value of `overall`; `clients` are the accuracies of each client at the
    last evaluations, or at all of them when there is a list per evaluation.
    """

    def make(
        method: str,
        seed: int,
        overall: Sequence[float | None],
        clients: Sequence[Sequence[float]] = (),
        name: str = "",
        **config: Any,
    ) -> Run:
        of_all, of_clients = PRIMARY.get(method, ("raw", "raw"))
        folder = make_run(
            name or f"{method}-{seed}",
            method=method,
            seed=seed,
            rounds=len(overall),
            evaluate_every=1,
            primary={"global": of_all, "personal": of_clients},
            **config,
        )
        metrics, lines = [], []
        for r, value in enumerate(overall, start=1):
            row: dict[str, Any] = {"round": r}
            if value is not None:
                row |= {f"global/{of_all}/{key}": value for key in ("all", "many", "few")}
            each = clients[min(r, len(clients)) - 1] if clients else ()
            if each:
                row[f"personal/{of_clients}/mean"] = sum(each) / len(each)
                row[f"personal/{of_clients}/std"] = max(each) - min(each)
            metrics.append(row)
            for k, accuracy in enumerate(each):
                lines.append(
                    {"round": r, "client": k, "num-train": 9}
                    | {f"personal/{of_clients}/accuracy": accuracy}
                )
        for file, content in (("metrics", metrics), ("clients", lines)):
            (folder / f"{file}.jsonl").write_text("".join(f"{json.dumps(c)}\n" for c in content))
        return open_run(folder)

    return make
