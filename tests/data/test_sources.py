from __future__ import annotations

import hashlib
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10, CIFAR100

from fedloge.config import from_flat
from fedloge.data import Examples, channel_statistics, load_dataset
from fedloge.data.sources import _digits_table
from fedloge.errors import ConfigError, DataError


def test_digits() -> None:
    data = load_dataset(from_flat({"dataset": "digits"}))
    assert data.image_shape == (1, 8, 8)
    assert data.num_classes == 10
    # 174 images of the scarcest class, 50 of each for the test.
    assert torch.bincount(data.train.labels).tolist() == [124] * 10
    assert torch.bincount(data.test.labels).tolist() == [50] * 10
    assert data.train.inputs.max() == 255
    assert data.augment == "crop"
    again = load_dataset(from_flat({"dataset": "digits"}))
    assert torch.equal(data.train.inputs, again.train.inputs)
    together = torch.cat([data.train.inputs, data.test.inputs]).flatten(1)
    assert len(together.unique(dim=0)) == len(together), "an image of the test set is trained on"


def test_the_config_may_choose_the_augmentation() -> None:
    assert load_dataset(from_flat({"augment": "none"})).augment == "none"
    assert load_dataset(from_flat({"augment": "crop-flip"})).augment == "crop-flip"


def test_an_unknown_source() -> None:
    with pytest.raises(ConfigError, match=r"unknown dataset 'cifar' .*did you mean 'cifar10'"):
        load_dataset(from_flat({"dataset": "cifar"}))


def test_take() -> None:
    images = Examples(
        torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1), torch.tensor([0, 1, 0, 1])
    )
    taken = images.take(np.array([3, 0, 3]))
    assert len(taken) == 3
    assert taken.inputs.flatten().tolist() == [3, 0, 3]
    assert taken.labels.tolist() == [1, 0, 1]
    taken.inputs.zero_()
    assert images.inputs.flatten().tolist() == [0, 1, 2, 3]


def test_channel_statistics() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 3, 5, 4), dtype=np.uint8)
    pixels[:, 2] = 7
    mean, std = channel_statistics(pixels)
    scaled = pixels / 255
    assert mean == pytest.approx(scaled.mean((0, 2, 3)), abs=1e-14)
    assert std[:2] == pytest.approx(scaled.std((0, 2, 3))[:2], abs=1e-14)
    assert std[2] == 1, "a constant channel can still be divided by"


def write_cifar(folder: Path, source: type[CIFAR10], monkeypatch) -> np.ndarray:
    """A few images in CIFAR's own format, which is pickle; only their sums are replaced."""
    base = folder / source.base_folder
    base.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (12, 3072), dtype=np.uint8)
    key = "fine_labels" if source is CIFAR100 else "labels"
    sums = {}

    def write(name: str, content: dict[str, object]) -> list[str]:
        data = pickle.dumps(content)
        (base / name).write_bytes(data)
        sums[name] = hashlib.md5(data).hexdigest()
        return [name, sums[name]]

    names = [name for name, _ in source.train_list]
    share = 10 // len(names)
    train = [
        write(
            name,
            {
                "data": pixels[i * share : (i + 1) * share],
                key: list(range(i * share, (i + 1) * share)),
            },
        )
        for i, name in enumerate(names)
    ]
    test = [write(source.test_list[0][0], {"data": pixels[10:], key: [3, 4]})]
    meta = write(source.meta["filename"], {source.meta["key"]: [f"class {c}" for c in range(10)]})
    monkeypatch.setattr(source, "train_list", train)
    monkeypatch.setattr(source, "test_list", test)
    monkeypatch.setattr(source, "meta", {**source.meta, "md5": meta[1]})
    return pixels.reshape(12, 3, 32, 32)


@pytest.mark.parametrize(("name", "source"), [("cifar10", CIFAR10), ("cifar100", CIFAR100)])
@pytest.mark.parametrize("placed", ["data-path", "cache-dir"])
def test_cifar(tmp_path, monkeypatch, capfd, name, source, placed) -> None:
    folder = tmp_path if placed == "data-path" else tmp_path / "cifar"
    pixels = write_cifar(folder, source, monkeypatch)
    data = load_dataset(from_flat({"dataset": name, placed: str(tmp_path)}))
    assert np.array_equal(data.train.inputs.numpy(), pixels[:10])
    assert data.train.labels.tolist() == list(range(10))
    assert np.array_equal(data.test.inputs.numpy(), pixels[10:])
    assert data.test.labels.tolist() == [3, 4]
    assert data.test.labels.dtype == torch.int64
    assert data.classes[1] == "class 1"
    assert data.augment == "crop-flip"
    assert capfd.readouterr() == ("", "")


def test_cifar_from_an_archive_that_is_there(tmp_path, monkeypatch, capfd) -> None:
    pixels = write_cifar(tmp_path / "made", CIFAR10, monkeypatch)
    archive = tmp_path / CIFAR10.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "made" / CIFAR10.base_folder, CIFAR10.base_folder)
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    data = load_dataset(from_flat({"dataset": "cifar10", "data-path": str(tmp_path)}))
    assert np.array_equal(data.train.inputs.numpy(), pixels[:10])
    assert capfd.readouterr() == ("", "")


def test_cifar_without_files_or_network(tmp_path, monkeypatch, capfd) -> None:
    # A port on which nobody listens stands for a network that is not there.
    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:1/cifar-10-python.tar.gz")
    with pytest.raises(
        DataError,
        match=r"^CIFAR10 is not in .*cifar and cannot be downloaded \(.*\); put cifar-10-python",
    ) as error:
        load_dataset(from_flat({"dataset": "cifar10", "cache-dir": str(tmp_path)}))
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


def test_digits_are_scikit_learns() -> None:
    from sklearn.datasets import load_digits

    theirs = np.column_stack([load_digits().data, load_digits().target])
    assert np.array_equal(_digits_table(), theirs)


def test_digits_are_read_without_importing_scikit_learn() -> None:
    code = (
        "import sys; from fedloge.config import load; from fedloge.data.sources import load_dataset;"
        "load_dataset(load(None)); sys.exit('sklearn' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
