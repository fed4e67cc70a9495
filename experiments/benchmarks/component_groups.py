"""Parts of the package by themselves: sums, messages, splits, the fixed classifier, start-up.

Each function yields groups of cases to measure.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import noise_data
import numpy as np
from flwr.app import ArrayRecord
from interleaved_timing import Case, Group, Ratio
from noise_data import models
from torch import Tensor

from fedloge import messages as wire
from fedloge.geometry.prototypes import prototypes
from fedloge.messages.averaging import WeightedSum, check_update
from fedloge.models import build_backbone
from fedloge.partition import make_partition


def aggregation(quick: bool) -> Iterator[Group]:
    """Checking clients' tensors and adding them up exactly, against a plain floating-point sum."""

    def exact(tensors: dict[str, Tensor]) -> None:
        total = WeightedSum(tensors, 8 * 350)
        for _ in range(8):
            check_update(tensors, tensors)
            total.add(tensors, 350)
        total.mean()

    def plain(tensors: dict[str, Tensor]) -> None:
        for tensor in tensors.values():
            sum(state * 0.125 for state in [tensor] * 8)

    for model in models():
        tensors = build_backbone(model, (3, 32, 32), seed=0).state_dict()
        yield Group(
            f"aggregation {model}",
            "s/client",
            (
                Case("checked and exact", partial(exact, tensors), 8),
                Case("plain sum", partial(plain, tensors), 8),
            ),
            (Ratio("checked and exact", "plain sum"),),
            5 if quick else 15,
        )


def serialisation(quick: bool) -> Iterator[Group]:
    """Tensors to a message and back, against Flower's own conversion."""

    def ours(tensors: dict[str, Tensor]) -> None:
        wire.decode(wire.encode(tensors))

    def flowers(tensors: dict[str, Tensor]) -> None:
        ArrayRecord(tensors).to_torch_state_dict()

    for model in models():
        tensors = dict(build_backbone(model, (3, 32, 32), seed=0).state_dict())
        cases = Case("ours", partial(ours, tensors)), Case("Flower's", partial(flowers, tensors))
        ratios = (Ratio("ours", "Flower's"),)
        yield Group(f"serialisation {model}", "s/message", cases, ratios, 5 if quick else 15)


def partition(quick: bool) -> Iterator[Group]:
    """Splitting by Dirichlet, with the local test sets."""

    def split(images: int, classes: int, clients: int) -> None:
        labels, test = np.arange(images) % classes, np.arange(images // 5) % classes
        config = noise_data.config_of(Path(), partitioner="dirichlet", num_clients=clients)
        make_partition(config, labels, test, classes)

    sizes = [(50_000, 10, 40)] if quick else [(50_000, 10, 40), (120_000, 1000, 1000)]
    yield Group(
        "partition",
        "s",
        tuple(
            Case(
                f"{images:,} images, {classes:,} classes, {clients:,} clients",
                partial(split, *size),
            )
            for size in sizes
            for images, classes, clients in [size]
        ),
        repeats=3 if quick else 5,
    )


def sparse(quick: bool) -> Iterator[Group]:
    """The fixed classifier SSE-C, built afresh."""

    def build(classes: int, dim: int) -> None:
        with TemporaryDirectory(prefix="fedloge-bench-") as folder:
            prototypes(classes, dim, cache_dir=Path(folder))

    for classes, dim, wanted in (
        [(100, 512, 3.0)] if quick else [(100, 512, 3.0), (1000, 2048, 90.0)]
    ):
        cases = (Case("build", partial(build, classes, dim)),)
        yield Group(f"SSE-C {dim} x {classes}, at most {wanted:g} s", "s", cases, repeats=2)


def start(quick: bool) -> Iterator[Group]:
    """New processes: the command's help, and a short run on the embedded data."""

    def command(*args: str) -> None:
        code = "from fedloge.commands.main import main; main()"
        subprocess.run([sys.executable, "-c", code, *args], check=True, capture_output=True)

    def short_run() -> None:
        with TemporaryDirectory(prefix="fedloge-bench-") as folder:
            few = ("rounds=1", "local-epochs=1", "clients-per-round=1")
            command("run", "--runs-dir", folder, *(a for item in few for a in ("--set", item)))

    def importing() -> None:
        subprocess.run([sys.executable, "-c", "import torch"], check=True)

    yield Group(
        "start",
        "s",
        (
            Case("fedloge --help", partial(command, "--help"), cpu=False),
            Case("import torch", importing, cpu=False),
            Case("fedloge run, one client, one epoch", short_run, cpu=False),
        ),
        repeats=2 if quick else 5,
    )
