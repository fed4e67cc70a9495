"""Made-up features of 1,280 numbers, as a large frozen network gives them, and data sets of them."""

from __future__ import annotations

from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import torch
from natural_users import invented

from fedloge.config import Config
from fedloge.data import DataSet, Examples, read_table
from fedloge.data.examples import AsTheyAre
from fedloge.rng import rng

FEATURES = 1280
_CHUNK = 4096


def features(labels: np.ndarray, purpose: str, folder: Path | None = None) -> torch.Tensor:
    """float16 features: the class's own direction under noise, not negative, as after a ReLU.

    Parameters
    ----------
    purpose : names the draws of the noise; the classes' directions are always the same.
    folder : to hold them in a file that is mapped, as kept features are; None: in memory.
    """
    directions = rng(0, "made-up-directions").standard_normal(
        (int(labels.max()) + 1, FEATURES), dtype=np.float32
    )
    shape, draw = (len(labels), FEATURES), rng(0, purpose)
    if folder is None:
        made = np.empty(shape, dtype=np.float16)
    else:
        made = np.memmap(folder / f"{purpose}.float16", dtype=np.float16, mode="w+", shape=shape)
    for start in range(0, len(labels), _CHUNK):
        part = slice(start, start + _CHUNK)
        noise = draw.standard_normal((len(labels[part]), FEATURES), dtype=np.float32)
        np.maximum(0.3 * directions[labels[part]] + noise, 0, out=noise)
        made[part] = noise
    return torch.from_numpy(made)


def long_tailed(config: Config) -> DataSet:
    """CIFAR-10-LT's shape at imbalance 1/50: 13,996 training features in 10 classes, 10,000 for testing."""
    sizes = [int(5000 * 50 ** (-c / 9)) for c in range(10)]
    return _data_set(np.repeat(np.arange(10), sizes), np.repeat(np.arange(10), 1000))


def of_users(config: Config) -> DataSet:
    """Users' features; ``data-path`` is a table of users and classes, or a number of users to invent."""
    lines = read_table(Path(config.data_path)) if not config.data_path.isdecimal() else None
    lines = lines or invented(int(config.data_path))
    names, labels = lines.numbered("label")
    folder = Path(mkdtemp(prefix="fedloge-features-"))
    none = Examples(torch.empty(0, FEATURES, dtype=torch.float16), torch.empty(0).long())
    return DataSet(
        name="users' features",
        train=Examples(features(labels, "made-up-train", folder), torch.from_numpy(labels)),
        test=none,
        classes=names,
        preparation=AsTheyAre(),
        train_manifest=lines,
    )


def _data_set(train: np.ndarray, test: np.ndarray) -> DataSet:
    return DataSet(
        name="made-up features",
        train=Examples(features(train, "made-up-train"), torch.from_numpy(train)),
        test=Examples(features(test, "made-up-test"), torch.from_numpy(test)),
        classes=tuple(map(str, range(int(train.max()) + 1))),
        preparation=AsTheyAre(),
    )
