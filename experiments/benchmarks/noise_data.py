"""The data of all benchmarks: images of noise in CIFAR's shape, and federations over them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from fedloge import config as configs
from fedloge.config import Config
from fedloge.data import Augmentation, DataSet, Examples, ImagePreparation
from fedloge.federation import Federation, open_federation

CLASSES = 10
NEVER = 10**6
"""Rounds between two evaluations or checkpoints, if there are to be none."""


def images(count: int, shape: tuple[int, int, int], seed: int) -> Examples:
    """Images of noise, as many of each class."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)
    return Examples(pixels, torch.arange(count) % CLASSES)


def data_set(
    train: int,
    test: int,
    shape: tuple[int, int, int] = (3, 32, 32),
    augment: Augmentation = "crop-flip",
) -> DataSet:
    """A data set of noise; mean and deviation are CIFAR-10's where there are three channels."""
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    return DataSet(
        name="noise",
        train=images(train, shape, seed=1),
        test=images(test, shape, seed=2),
        classes=tuple(map(str, range(CLASSES))),
        preparation=ImagePreparation(mean[: shape[0]], std[: shape[0]], augment),
    )


def config_of(folder: Path, **changes: Any) -> Config:
    """FedLoGe on evenly split images, without evaluations unless `changes` say otherwise."""
    flat: dict[str, Any] = {
        "device": "cpu",
        "partitioner": "iid",
        "long-tail": "none",
        "evaluate-every": NEVER,
        "rounds": NEVER,
        "runs-dir": str(folder),
        "name": "bench",
        "threads": 1,
    }
    return configs.from_flat(flat | {key.replace("_", "-"): v for key, v in changes.items()})


@contextmanager
def federation(data: DataSet, **changes: Any) -> Iterator[Federation]:
    """A federation over `data`; the folder of its runs is removed at the end of the block."""
    with TemporaryDirectory(prefix="fedloge-bench-") as folder:
        yield open_federation(config_of(Path(folder), **changes), data)


def batches(data: DataSet, size: int, count: int) -> list[tuple[Tensor, Tensor]]:
    """The first `count` training images as float batches, made beforehand; the last may be smaller."""
    pixels = data.train.inputs[:count].float().div_(255).sub_(0.5).mul_(4)
    prepared = pixels.contiguous(memory_format=torch.channels_last)
    return list(zip(prepared.split(size), data.train.labels[:count].split(size), strict=True))


def models(quick: bool = False) -> tuple[str, ...]:
    """The networks that are measured."""
    return ("resnet8",) if quick else ("resnet8", "resnet18")
