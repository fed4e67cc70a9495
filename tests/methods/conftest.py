from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness
import pytest
import torch
from flwr.app import Message
from torch import Tensor

from fedloge.config import from_flat
from fedloge.data import Examples, ImagePreparation
from fedloge.engines import local
from fedloge.errors import ConfigError
from fedloge.federation import Federation
from fedloge.learning.client_data import ClientData
from fedloge.methods import method_class, method_options
from fedloge.methods.method import Task
from fedloge.models.backbone import Backbone


@dataclass(frozen=True)
class Run:
    """A small run: its figures, and the names of the tensors that its messages carried."""

    folder: Path
    metrics: list[dict[str, Any]]
    sent: set[str]


@pytest.fixture
def run_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    """Run a method for two rounds on digits, twice, and see that both runs give the same figures."""
    sent: set[str] = set()
    carry = local.LocalGrid.carry

    def watched(grid: local.LocalGrid, messages: list[Message], *args: Any) -> Iterator[Message]:
        note(messages)
        for reply in carry(grid, messages, *args):
            note([reply])
            yield reply

    def note(messages: Iterable[Message]) -> None:
        for message in messages:
            for record in message.content.array_records.values():
                sent.update(record)

    monkeypatch.setattr(local.LocalGrid, "carry", watched)

    def run(method: str, options: str = "", **changes: Any) -> Run:
        values: dict[str, Any] = {
            "method": method,
            "method-options": options,
            "num-clients": 4,
            "clients-per-round": 3,
            "rounds": 2,
            "local-epochs": 1,
            "batch-size": 32,
            "evaluate-every": 1,
            "device": "cpu",
            **{key.replace("_", "-"): value for key, value in changes.items()},
        }
        runs = []
        for name in ("one", "two"):
            place = {"runs-dir": str(tmp_path / name), "name": "run"}
            local.run(from_flat(values | place))
            folder = tmp_path / name / "run"
            lines = (folder / "metrics.jsonl").read_text().splitlines()
            runs.append(Run(folder, [json.loads(line) for line in lines], sent))
        assert runs[0].metrics == runs[1].metrics
        assert len(runs[0].metrics) == 2
        assert not (runs[0].folder / "failures.jsonl").exists()
        return runs[0]

    return run


SMALL: dict[str, Any] = {
    "num-clients": 4,
    "clients-per-round": 3,
    "rounds": 2,
    "local-epochs": 1,
    "batch-size": 32,
    "imbalance-factor": 0.1,
    "evaluate-every": 1,
    "device": "cpu",
}


@pytest.fixture
def federation() -> Callable[..., Federation]:
    """A method on digits among four clients."""

    def make(method: str, options: str = "", **changes: Any) -> Federation:
        values = {"method": method, "method-options": options}
        named = {key.replace("_", "-"): value for key, value in changes.items()}
        return Federation(from_flat(SMALL | values | named))

    return make


@pytest.fixture
def run_once(tmp_path: Path) -> Callable[..., Path]:
    """Run a method on digits for two rounds; returns the run's folder."""

    def run(method: str, options: str = "", name: str = "", **changes: Any) -> Path:
        values = {"method": method, "method-options": options, "runs-dir": str(tmp_path)}
        named = {key.replace("_", "-"): value for key, value in changes.items()}
        name = name or f"{method}-{len(list(tmp_path.iterdir()))}"
        local.run(from_flat(SMALL | values | named | {"name": name}))
        assert not (tmp_path / name / "failures.jsonl").exists()
        return tmp_path / name

    return run


@pytest.fixture
def trained() -> Callable[[Path], dict[str, Tensor]]:
    """The shared tensors of a run's newest checkpoint, and the server's as ``server.<name>``."""

    def read(folder: Path) -> dict[str, Tensor]:
        return {k.removeprefix("shared."): t for k, t in harness.goes_on_from(folder).items()}

    return read


class Flat(Backbone):
    """Features are the image's pixels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.out_features = dim

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


@pytest.fixture
def task() -> Callable[..., Task]:
    """A task whose backbone passes the image through, so that features are known by hand."""

    def make(num_classes: int = 4, dim: int = 8, **changes: Any) -> Task:
        config = from_flat({key.replace("_", "-"): value for key, value in changes.items()})
        return Task(config, num_classes, lambda: Flat(dim))

    return make


@pytest.fixture
def client() -> Callable[..., ClientData]:
    """A client in round `round` with given pixels (images, dim), 0..255, and labels."""

    def make(task: Task, pixels: Tensor, labels: Tensor, **changes: Any) -> ClientData:
        values = {
            "client": 0,
            "round": 1,
            "config": task.config,
            "train": Examples(pixels.to(torch.uint8).view(len(labels), 1, 1, -1), labels),
            "counts": torch.bincount(labels, minlength=task.num_classes),
            # So that a pixel of 7 is a feature of 7.
            "preparation": ImagePreparation((0.0,), (1 / 255,), "none"),
            "received": {},
        }
        return ClientData(**(values | changes))

    return make


@pytest.fixture
def refuses() -> Callable[[str, str], None]:
    """A method's options are refused with a line that names the method and the option."""

    def check(method: str, options: str) -> None:
        config = from_flat({"method": method, "method-options": options})
        option = options.split(" ")[0]
        with pytest.raises(
            ConfigError, match=f"method-options of '{method}': .*{option}"
        ) as caught:
            method_options(method_class(method), config)
        assert "\n" not in str(caught.value)

    return check


@pytest.fixture
def has_no_option(federation: Callable[..., Federation]) -> Callable[[str, str], None]:
    """An option that the method does not read is refused with a line that names both."""

    def check(method: str, options: str) -> None:
        option = options.split(" ")[0]
        message = (
            f"method-options of '{method}': (unknown option|there are no options, got) '{option}'"
        )
        with pytest.raises(ConfigError, match=message):
            _ = federation(method, options).method

    return check
