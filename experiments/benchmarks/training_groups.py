"""Training and evaluation by the engine, against the bare and the naive loop.

Each function yields groups of cases. A group's engines run while it is measured, and stop when the
generator continues.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import noise_data
import torch
from bare_loop import BackbonePass, BareLoop
from interleaved_timing import Case, Group, Ratio
from local_training import LocalTraining
from naive_round import NaiveRound
from noise_data import NEVER, models
from round_by_round import local_rounds


def training(quick: bool) -> Iterator[Group]:
    """Local training: the engine's round against the bare loop over as many images."""
    for model in models(quick):
        for batch in (8,) if quick else (8, 64):
            images = 48 if quick else 350
            epochs = 1 if quick or model == "resnet18" else 5
            data = noise_data.data_set(4 * images, 40)
            settings = {"model": model, "batch_size": batch, "local_epochs": epochs}
            alone = {"num_clients": 4, "clients_per_round": 1, "checkpoint_every": NEVER}
            bare = BareLoop(
                model, noise_data.CLASSES, noise_data.batches(data, batch, images), epochs=epochs
            )
            with (
                noise_data.federation(data, **settings, **alone) as fed,
                local_rounds(fed.config) as engine,
            ):
                limit = {"resnet8": 1.08, "resnet18": 1.05}[model] if batch == 8 else None
                yield Group(
                    f"training {model}, batch {batch}",
                    "s/image",
                    (
                        Case("bare loop", bare, images * epochs),
                        Case("local engine", engine, images * epochs),
                    ),
                    (Ratio("local engine", "bare loop", None if quick else limit),),
                    3 if quick else 7,
                )


def steps(quick: bool) -> Iterator[Group]:
    """The bare loop with other optimisers, memory layout and precision."""
    ways: dict[str, dict[str, Any]] = {
        "fused, channels last": {},
        "fused, contiguous": {"layout": "contiguous"},
        "foreach, channels last": {"optimiser": "foreach"},
        "one by one, channels last": {"optimiser": "single"},
        "fused, channels last, bf16": {"bf16": True},
    }
    for model in models(quick):
        images = 16 if quick else 48
        batches = noise_data.batches(noise_data.data_set(images, 10), 8, images)
        cases = tuple(
            Case(name, BareLoop(model, noise_data.CLASSES, batches, **how), images)
            for name, how in ways.items()
        )
        ratios = tuple(Ratio(case.name, cases[0].name) for case in cases[1:])
        yield Group(f"steps {model}, batch 8", "s/image", cases, ratios, 3 if quick else 7)


def rounds(quick: bool) -> Iterator[Group]:
    """A part of a round of 8 clients x 350 images x 5 epochs with all evaluations, against the naive loop.

    It is an eighth: one client trains, and 1,250 global and 5 x 250 local test images are measured, so
    that every part of the round is an eighth of the whole. With ResNet-18, which would take minutes, it
    is a fortieth: 70 training images, and 250 and 5 x 50 test images.
    """
    for model in models(quick):
        share = "a fortieth" if model == "resnet18" else "an eighth"
        whole = (70, 250, 5) if model == "resnet18" else (350, 1250, 5)
        images, tests, epochs = (40, 100, 1) if quick else whole
        data = noise_data.data_set(5 * images, tests)
        settings = {"model": model, "local_epochs": epochs, "evaluate_every": 1}
        few = {"num_clients": 5, "clients_per_round": 1}
        with (
            noise_data.federation(data, **settings, **few) as fed,
            local_rounds(fed.config) as engine,
        ):
            parts = fed.partition
            naive = NaiveRound(
                model, data, parts.train, parts.test, [0], batch_size=8, epochs=epochs
            )
            wanted = None if quick else {"resnet8": 1.7, "resnet18": 1.25}[model]
            yield Group(
                f"{share} of a round, {model}",
                "s",
                (Case("naive loop", naive), Case("local engine", engine)),
                (Ratio("naive loop", "local engine", wanted, floor=True),),
                3 if quick else 5,
            )


def evaluation(quick: bool) -> Iterator[Group]:
    """The global and 40 personal models through the engine, against one pass of the backbone."""
    for model in models(quick):
        tests = 400 if quick else 10_000 if model == "resnet8" else 1_000
        data = noise_data.data_set(320, tests)
        settings = {"model": model, "local_epochs": 1, "evaluate_every": 1}
        many = {"num_clients": 40, "clients_per_round": 1, "checkpoint_every": NEVER}
        with (
            noise_data.federation(data, **settings, **many) as fed,
            local_rounds(fed.config) as engine,
        ):
            all_models, one_pass = "global and 40 personal models", "backbone, one pass"
            yield Group(
                f"evaluation {model}",
                "s/test image",
                (
                    Case(one_pass, BackbonePass(model, data), tests),
                    Case(all_models, partial(engine.seconds, "evaluate-seconds"), tests),
                ),
                (Ratio(all_models, one_pass, None if quick else 1.15),),
                3 if quick else 5,
            )


def collapse(quick: bool) -> Iterator[Group]:
    """An evaluation that measures neural collapse, against the same one without."""
    tests, train, clients = (400, 560, 4) if quick else (10_000, 14_000, 40)
    data = noise_data.data_set(train, tests)
    settings = {"model": "resnet8", "local_epochs": 1, "evaluate_every": 1}
    many = {"num_clients": clients, "clients_per_round": 1, "checkpoint_every": NEVER}
    share = 0.05
    # An evaluation goes over the test images alone, so all training images cost what they are.
    ways: dict[str, tuple[dict[str, Any], float | None]] = {
        "collapse-on-test": ({"probes": "collapse-on-test"}, 1.1),
        f"collapse, a share of {share:g}": ({"probes": "collapse", "collapse_share": share}, 1.1),
        "collapse": ({"probes": "collapse"}, None),
    }
    for name, (probes, limit) in ways.items():
        with ExitStack() as stack:  # a process keeps two federations open
            cases = []
            for case, changes in (("without", {}), (name, probes)):
                made = noise_data.federation(data, **settings, **many, **changes)
                engine = stack.enter_context(local_rounds(stack.enter_context(made).config))
                cases.append(Case(case, partial(engine.seconds, "evaluate-seconds"), tests))
            yield Group(
                f"evaluation with {name}",
                "s/test image",
                tuple(cases),
                (Ratio(name, "without", None if quick else limit),),
                3 if quick else 5,
            )


def at_once(quick: bool) -> Iterator[Group]:
    """Clients trained together against one by one; on a GPU, if there is one, with CUDA graphs."""
    gpu = torch.cuda.is_available()
    device = "cuda" if gpu else "cpu"
    clients, images = (16, 350) if gpu else (4, 16 if quick else 70)
    data = noise_data.data_set(clients * images, 40)
    for model in ("resnet18",) if gpu else ("cnn",) if quick else ("cnn", "resnet8"):
        for precision in ("float32", "tf32", "bf16") if gpu else ("float32",):
            settings: dict[str, Any] = {"model": model, "device": device, "precision": precision}
            settings |= {"num_clients": clients, "clients_per_round": clients, "local_epochs": 1}
            with noise_data.federation(data, **settings, fast=gpu) as fed:
                batches = noise_data.batches(data, 8, images)
                bare = BareLoop(
                    model, noise_data.CLASSES, batches, bf16=precision == "bf16", device=device
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
