"""Rounds on Ray workers: how they scale, and against one process with as many threads.

Each function yields groups of cases. A group's engines run while it is measured, and stop when the
generator continues.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import noise_data
from bare_loop import BareLoop
from interleaved_timing import Case, Group, Ratio
from noise_data import NEVER, models
from ray_rounds import ray_rounds
from round_by_round import local_rounds


def ray(quick: bool) -> Iterator[Group]:
    """Rounds on one and on two Ray workers of one thread each, and a round's cost beside its training."""
    for model in models(quick):
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
            data = noise_data.data_set(2, 10)
            bare = BareLoop(model, noise_data.CLASSES, noise_data.batches(data, 8, 2))
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
    """The same rounds on two Ray workers of one thread each, and in one process of two threads."""
    for model in models(quick):
        images, clients = (16, 2) if quick else (350 if model == "resnet8" else 48, 4)
        epochs = 5 if model == "resnet8" and not quick else 1
        data = noise_data.data_set(images * clients, 40)
        settings = {"model": model, "local_epochs": epochs, "checkpoint_every": NEVER, "threads": 2}
        everybody = {"num_clients": clients, "clients_per_round": clients}
        with (
            ray_rounds(model, images, clients, epochs=epochs) as rounds_on,
            noise_data.federation(data, **settings, **everybody) as fed,
            local_rounds(fed.config) as engine,
        ):
            local_round = partial(engine.seconds, "train-seconds")
            trained = images * clients * epochs
            cases = (
                Case("local, 2 threads", local_round, trained, cpu=False),
                Case("ray, 2 workers of 1 thread", partial(rounds_on, 2), trained, cpu=False),
            )
            wanted = None if quick or model != "resnet8" else 1.2
            ratios = (Ratio(cases[0].name, cases[1].name, wanted, floor=True),)
            yield Group(f"engines {model}", "s/image", cases, ratios, 3 if quick else 5)
