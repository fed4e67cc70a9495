"""What a round costs beside the training itself, as the federation grows.

Each client holds two small images and trains on them once. So nearly all of a round is what a
client costs whatever it learns: messages, state on disk, the sum.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import noise_data
from bare_loop import BareLoop
from ray_rounds import ray_rounds
from round_by_round import local_rounds

from fedloge.methods.method import Part

TINY = (1, 8, 8)
CIFAR = (3, 32, 32)
Say = Callable[[str], None]


def scale(quick: bool, say: Say) -> list[dict[str, Any]]:
    """One row per federation: its size, and the seconds of its start, training and evaluation.

    ``train``, ``bare`` (the same steps in a bare loop) and ``evaluate`` are wall seconds per
    round. The same names with ``-processor`` are processor seconds of this process.
    """
    federations = [("clients", "cnn", TINY, n, 10) for n in (10, 100, 1000, 10_000)]
    federations += [("clients a round", "cnn", TINY, 1000, m) for m in (1, 10, 100, 1000)]
    models = ("cnn", "resnet8", "resnet18", "resnet34")
    federations += [("model", model, CIFAR, 8, 8) for model in models]
    if quick:
        federations = [f for f in federations if f[3] <= 100 and f[1] in ("cnn", "resnet8")]
    # Twenty rounds where all thousand clients take part, to see whether memory grows; ten elsewhere.
    rows = [
        _on_local(*federation, 2 if quick else 10 if federation[4] == 1000 else 5, say)
        for federation in federations
    ]
    return rows + [_on_ray(workers, 1000, say) for workers in (() if quick else (1, 2))]


def memory() -> float:
    """Resident memory of this process in MiB; 0 if the system does not tell."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(x.split()[1]) / 1024 for x in lines if x.startswith("VmRSS")), 0.0)


def _on_local(
    series: str,
    model: str,
    shape: tuple[int, int, int],
    clients: int,
    asked: int,
    repeats: int,
    say: Say,
) -> dict[str, Any]:
    say(f"scale: {asked} of {clients} clients, {model}")
    data = noise_data.data_set(2 * clients, max(10, min(10 * clients, 1000)), shape, "none")
    bare = BareLoop(model, noise_data.CLASSES, noise_data.batches(data, 8, 2))
    settings = {"model": model, "local_epochs": 1, "evaluate_every": 2}
    many = {"num_clients": clients, "clients_per_round": asked}
    measured: dict[str, list[float]] = {}
    resident = []

    def note(name: str, seconds: float, processor: float) -> None:
        measured.setdefault(name, []).append(seconds)
        measured.setdefault(f"{name}-processor", []).append(processor)

    with noise_data.federation(data, **settings, **many) as fed:
        began = time.perf_counter()
        with local_rounds(fed.config) as engine:
            start = time.perf_counter() - began
            engine.round()
            for _ in range(repeats):
                # Every other round is evaluated.
                evaluated, with_evaluation = _processor(engine.round)
                timing, without = _processor(engine.round)
                note("train", timing["train-seconds"], without)
                note("evaluate", evaluated["evaluate-seconds"], with_evaluation - without)
                note("bare", *(asked * seconds for seconds in _step(bare)))
                resident.append(memory())
        parameters = sum(t.numel() for t in fed.tensors(Part.SHARED).values())
    return {
        "series": series,
        "engine": "local",
        "model": model,
        "parameters": parameters,
        "clients": clients,
        "asked": asked,
        "start": start,
        **{name: statistics.median(values) for name, values in measured.items()},
        "memory": resident,
    }


def _on_ray(workers: int, clients: int, say: Say) -> dict[str, Any]:
    say(f"scale: {clients} clients on {workers} Ray worker(s)")
    bare = BareLoop(
        "cnn",
        noise_data.CLASSES,
        noise_data.batches(noise_data.data_set(2, 10, TINY, "none"), 8, 2),
    )
    began = time.perf_counter()
    with ray_rounds("cnn", 2, clients, TINY) as rounds_on:
        start = time.perf_counter() - began
        rounds_on(workers)
        seconds, steps, resident = [], [], []
        for _ in range(20 if workers > 1 else 5):
            seconds.append(rounds_on(workers))
            steps.append(_step(bare)[0])
            resident.append(memory())
    return {
        "series": "workers",
        "engine": f"ray, {workers} worker(s)",
        "model": "cnn",
        "clients": clients,
        "asked": clients,
        "start": start,
        "train": statistics.median(seconds),
        "bare": statistics.median(steps) * clients / workers,
        "memory": resident,
    }


def _processor(call: Callable[[], Mapping[str, Any]]) -> tuple[Mapping[str, Any], float]:
    before = time.process_time()
    result = call()
    return result, time.process_time() - before


def _step(bare: BareLoop) -> tuple[float, float]:
    """Wall and processor seconds of a step, the median of 20."""
    wall, processor = [], []
    for _ in range(20):
        began, worked = time.perf_counter(), time.process_time()
        bare()
        wall.append(time.perf_counter() - began)
        processor.append(time.process_time() - worked)
    return statistics.median(wall), statistics.median(processor)
