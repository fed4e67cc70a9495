"""What is measured: a generator of groups for each kind of work, by the name that `--only` takes.

A group's engines live while it is measured, and stop when the generator goes on.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import work
from flwr.app import ArrayRecord
from loops import BackbonePass, BareLoop
from measure import Case, Group, Ratio
from paced import Paced
from together import LocalTraining
from torch import Tensor

from fedloge.engines import local
from fedloge.geometry.prototypes import prototypes
from fedloge import messages as wire
from fedloge.messages.averaging import WeightedSum, check_update
from fedloge.models import build_backbone
from fedloge.partition import make_partition

NEVER = 10**6


def training(quick: bool) -> Iterator[Group]:
    """Local training: the engine's round against the bare loop over as many images."""
    for model in _models(quick):
        for batch in (8,) if quick else (8, 64):
            images = 48 if quick else 350
            epochs = 1 if quick or model == "resnet18" else 5
            data = work.data_set(4 * images, 40)
            settings = {"model": model, "batch_size": batch, "local_epochs": epochs}
            alone = {"num_clients": 4, "clients_per_round": 1, "checkpoint_every": NEVER}
            bare = BareLoop(model, work.CLASSES, work.batches(data, batch, images), epochs=epochs)
            with work.federation(data, **settings, **alone) as fed, _local(fed.config) as engine:
                limit = {"resnet8": 1.08, "resnet18": 1.05}[model] if batch == 8 else None
                yield Group(
                    f"training {model}, batch {batch}",
                    "s/image",
                    (
                        Case("bare loop", bare, images * epochs),
                        Case("local engine", partial(_round, engine), images * epochs),
                    ),
                    (Ratio("local engine", "bare loop", None if quick else limit),),
                    3 if quick else 7,
                )


def steps(quick: bool) -> Iterator[Group]:
    """The bare loop, the same in other ways: optimiser, memory layout, bf16."""
    ways: dict[str, dict] = {
        "fused, channels last": {},
        "fused, contiguous": {"layout": "contiguous"},
        "foreach, channels last": {"optimiser": "foreach"},
        "one by one, channels last": {"optimiser": "single"},
        "fused, channels last, bf16": {"bf16": True},
    }
    for model in _models(quick):
        images = 16 if quick else 48
        batches = work.batches(work.data_set(images, 10), 8, images)
        cases = tuple(
            Case(name, BareLoop(model, work.CLASSES, batches, **how), images)
            for name, how in ways.items()
        )
        ratios = tuple(Ratio(case.name, cases[0].name) for case in cases[1:])
        yield Group(f"steps {model}, batch 8", "s/image", cases, ratios, 3 if quick else 7)


def rounds(quick: bool) -> Iterator[Group]:
    """A part of 8 clients x 350 images x 5 epochs with all evaluations, against the naive loop.

    An eighth: one client trains, and 1,250 global and 5 x 250 local test images are measured, so
    that every part of the round is an eighth of the whole. A fortieth with ResNet-18, which takes
    minutes otherwise: 70 images, 250 and 5 x 50.
    """
    from naive import NaiveRound

    for model in _models(quick):
        share = "a fortieth" if model == "resnet18" else "an eighth"
        whole = (70, 250, 5) if model == "resnet18" else (350, 1250, 5)
        images, tests, epochs = (40, 100, 1) if quick else whole
        data = work.data_set(5 * images, tests)
        settings = {"model": model, "local_epochs": epochs, "evaluate_every": 1}
        few = {"num_clients": 5, "clients_per_round": 1}
        with work.federation(data, **settings, **few) as fed, _local(fed.config) as engine:
            parts = fed.partition
            naive = NaiveRound(
                model, data, parts.train, parts.test, [0], batch_size=8, epochs=epochs
            )
            wanted = None if quick else {"resnet8": 1.7, "resnet18": 1.25}[model]
            yield Group(
                f"{share} of a round, {model}",
                "s",
                (Case("naive loop", naive), Case("local engine", partial(_round, engine))),
                (Ratio("naive loop", "local engine", wanted, floor=True),),
                3 if quick else 5,
            )


def evaluation(quick: bool) -> Iterator[Group]:
    """The global and 40 personal models through the engine, against one pass of the backbone."""
    for model in _models(quick):
        tests = 400 if quick else 10_000 if model == "resnet8" else 1_000
        data = work.data_set(320, tests)
        settings = {"model": model, "local_epochs": 1, "evaluate_every": 1}
        many = {"num_clients": 40, "clients_per_round": 1, "checkpoint_every": NEVER}
        with work.federation(data, **settings, **many) as fed, _local(fed.config) as engine:
            all_models, one_pass = "global and 40 personal models", "backbone, one pass"
            yield Group(
                f"evaluation {model}",
                "s/test image",
                (
                    Case(one_pass, BackbonePass(model, data), tests),
                    Case(all_models, partial(_round, engine, "evaluate-seconds"), tests),
                ),
                (Ratio(all_models, one_pass, None if quick else 1.15),),
                3 if quick else 5,
            )


def ray(quick: bool) -> Iterator[Group]:
    """Rounds on one and on two Ray workers of one thread, and what a round costs beside its training."""
    from workers import ray_rounds

    for model in _models(quick):
        images, clients = (16, 2) if quick else (350 if model == "resnet8" else 96, 4)
        with ray_rounds(model, images, clients) as rounds_on:
            wanted = None if quick else {"resnet8": 1.5, "resnet18": 1.75}[model]
            yield Group(
                f"ray {model}",
                "s/image",
                tuple(
                    Case(f"{n} worker(s)", partial(rounds_on, n), images * clients, cpu=False)
                    for n in (1, 2)
                ),
                (Ratio("1 worker(s)", "2 worker(s)", wanted, floor=True),),
                3 if quick else 7,
            )
        for clients in () if quick else (8, 40):
            data = work.data_set(2, 10)
            bare = BareLoop(model, work.CLASSES, work.batches(data, 8, 2))
            with ray_rounds(model, 2, clients) as rounds_on:
                yield Group(
                    f"ray {model}, {clients} clients of 2 images",
                    "s/round",
                    (
                        Case("2 worker(s)", partial(rounds_on, 2), cpu=False),
                        Case("half of the steps, bare", bare, 2 / clients),
                    ),
                    (),
                    7,
                )


def engines(quick: bool) -> Iterator[Group]:
    """The same rounds on two Ray workers of one thread, and in one process of two threads."""
    from workers import ray_rounds

    for model in _models(quick):
        images, clients = (16, 2) if quick else (350 if model == "resnet8" else 48, 4)
        epochs = 5 if model == "resnet8" and not quick else 1
        data = work.data_set(images * clients, 40)
        settings = {"model": model, "local_epochs": epochs, "checkpoint_every": NEVER, "threads": 2}
        everybody = {"num_clients": clients, "clients_per_round": clients}
        with (
            ray_rounds(model, images, clients, epochs=epochs) as rounds_on,
            work.federation(data, **settings, **everybody) as fed,
            _local(fed.config) as engine,
        ):
            local_round = partial(_round, engine, "train-seconds")
            trained = images * clients * epochs
            cases = (
                Case("local, 2 threads", local_round, trained, cpu=False),
                Case("ray, 2 workers of 1 thread", partial(rounds_on, 2), trained, cpu=False),
            )
            wanted = None if quick or model != "resnet8" else 1.2
            ratios = (Ratio(cases[0].name, cases[1].name, wanted, floor=True),)
            yield Group(f"engines {model}", "s/image", cases, ratios, 3 if quick else 5)


def at_once(quick: bool) -> Iterator[Group]:
    """Clients trained together beside one by one: on the GPU where there is one, with graphs there."""
    gpu = torch.cuda.is_available()
    device = "cuda" if gpu else "cpu"
    clients, images = (16, 350) if gpu else (4, 16 if quick else 70)
    data = work.data_set(clients * images, 40)
    for model in ("resnet18",) if gpu else ("cnn",) if quick else ("cnn", "resnet8"):
        for precision in ("float32", "tf32", "bf16") if gpu else ("float32",):
            settings: dict[str, Any] = {"model": model, "device": device, "precision": precision}
            settings |= {"num_clients": clients, "clients_per_round": clients, "local_epochs": 1}
            with work.federation(data, **settings, cuda_graphs=gpu) as fed:
                batches = work.batches(data, 8, images)
                bare = BareLoop(
                    model, work.CLASSES, batches, bf16=precision == "bf16", device=device
                )
                amount, how = clients * images, ", graphs" if gpu else ""
                cases = [
                    Case("bare loop", bare, images, cpu=not gpu),
                    Case(f"one by one{how}", LocalTraining(fed), amount, cpu=not gpu),
                ]
                for count in (2, 4, 8, 16) if gpu else (2, 4):
                    name = f"{count} at once{how}"
                    cases.append(Case(name, LocalTraining(fed, count), amount, cpu=not gpu))
                ratios = tuple(Ratio(cases[0].name, case.name) for case in cases[1:])
                name = f"clients at once, {model}, {precision}"
                yield Group(name, "s/image", tuple(cases), ratios, 3 if quick else 7)


def aggregation(quick: bool) -> Iterator[Group]:
    """Checking and adding up clients' tensors, exactly, against a plain sum in floating point."""

    def exact(tensors: dict[str, Tensor]) -> None:
        total = WeightedSum(tensors, 8 * 350)
        for _ in range(8):
            check_update(tensors, tensors)
            total.add(tensors, 350)
        total.mean()

    def plain(tensors: dict[str, Tensor]) -> None:
        for tensor in tensors.values():
            sum(state * 0.125 for state in [tensor] * 8)

    for model in _models():
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

    for model in _models():
        tensors = dict(build_backbone(model, (3, 32, 32), seed=0).state_dict())
        cases = Case("ours", partial(ours, tensors)), Case("Flower's", partial(flowers, tensors))
        ratios = (Ratio("ours", "Flower's"),)
        yield Group(f"serialisation {model}", "s/message", cases, ratios, 5 if quick else 15)


def partition(quick: bool) -> Iterator[Group]:
    """Splitting by Dirichlet, with the local test sets."""

    def split(images: int, classes: int, clients: int) -> None:
        labels, test = np.arange(images) % classes, np.arange(images // 5) % classes
        config = work.config_of(Path(), partitioner="dirichlet", num_clients=clients)
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
    """Processes from nothing: the command's help, and a short run on the embedded data."""

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


GROUPS: dict[str, Callable[[bool], Iterator[Group]]] = {
    "training": training,
    "steps": steps,
    "round": rounds,
    "evaluation": evaluation,
    "ray": ray,
    "engines": engines,
    "at-once": at_once,
    "aggregation": aggregation,
    "serialisation": serialisation,
    "partition": partition,
    "sse-c": sparse,
    "start": start,
}


def _models(quick: bool = False) -> tuple[str, ...]:
    return ("resnet8",) if quick else ("resnet8", "resnet18")


def _local(config: work.Config) -> Paced:
    return Paced(partial(local.run, config))


def _round(engine: Paced, figure: str = "") -> float | None:
    timing = engine.round()
    return float(timing[figure]) if figure else None
