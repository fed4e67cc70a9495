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
from fedloge.data import AsTheyAre, DataSet, load_dataset
from fedloge.data.sources import _digits_table
from fedloge.errors import ConfigError, DataError, PluginError


def test_digits() -> None:
    data = load_dataset(from_flat({"dataset": "digits"}))
    assert data.input_shape == (1, 8, 8)
    assert data.num_classes == 10
    # 174 images of the scarcest class, 50 of each for the test.
    assert torch.bincount(data.train.labels).tolist() == [124] * 10
    assert torch.bincount(data.test.labels).tolist() == [50] * 10
    assert data.train.inputs.max() == 255
    assert data.preparation.augmentation == "crop"
    rows = [int(origin.removeprefix("digits/")) for origin in data.train_origins]
    table = _digits_table()
    assert torch.equal(data.train.labels, torch.from_numpy(table[rows, -1]).long())
    assert not {*data.train_origins} & {*data.test_origins}
    again = load_dataset(from_flat({"dataset": "digits"}))
    assert torch.equal(data.train.inputs, again.train.inputs)
    together = torch.cat([data.train.inputs, data.test.inputs]).flatten(1)
    assert len(together.unique(dim=0)) == len(together), "an image of the test set is trained on"


def test_the_config_may_choose_the_augmentation() -> None:
    assert load_dataset(from_flat({"augment": "none"})).preparation.augmentation == "none"
    assert load_dataset(from_flat({"augment": "crop-flip"})).preparation.augmentation == "crop-flip"


def test_an_unknown_source() -> None:
    with pytest.raises(PluginError, match=r"unknown dataset 'cifar' .*did you mean 'cifar10'"):
        load_dataset(from_flat({"dataset": "cifar"}))


@pytest.mark.parametrize("dataset", ["digits", "cifar10"])
def test_an_image_size_that_nobody_reads_is_refused(dataset: str) -> None:
    message = f"image-size: dataset '{dataset}' is taken at its own size, got 16; leave it out"
    with pytest.raises(ConfigError) as caught:
        load_dataset(from_flat({"dataset": dataset, "image-size": 16}))
    assert str(caught.value) == message


PLUGIN = """
import torch
from fedloge.data import AsTheyAre, DataSet, Examples, ImagePreparation

def features(config):
    '''Six rows of two cached features, in half precision.'''
    train = Examples(torch.arange(8.0).view(4, 2).half(), torch.tensor([0, 1, 0, 1]))
    test = Examples(torch.tensor([[8.0, 9.0], [10.0, 11.0]]).half(), torch.tensor([0, 1]))
    return DataSet("features", train, test, ("a", "b"), AsTheyAre())

def pixels(config):
    shape = (2, 1, config.image_size, config.image_size)
    ones = Examples(torch.ones(shape, dtype=torch.uint8), torch.tensor([0, 1]))
    return DataSet("pixels", ones, ones, ("a", "b"), ImagePreparation((0.0,), (1.0,), "crop-flip"))

def tuples(config):
    return [1, 2], [0, 1]
"""


@pytest.fixture
def plugin(tmp_path: Path) -> str:
    file = tmp_path / "mine.py"
    file.write_text(PLUGIN)
    return str(file)


def test_a_data_set_of_ones_own(plugin: str) -> None:
    data = load_dataset(from_flat({"dataset": f"{plugin}:features"}))
    assert isinstance(data, DataSet) and data.preparation == AsTheyAre()
    assert (data.name, data.input_shape, data.classes) == ("features", (2,), ("a", "b"))
    blank = data.blank_inputs(3)
    assert blank.dtype == torch.float32 and blank.tolist() == [[0, 0]] * 3


def test_images_of_ones_own_are_augmented_as_the_config_says(plugin: str) -> None:
    asked = {"dataset": f"{plugin}:pixels", "image-size": 5}
    data = load_dataset(from_flat(asked))
    assert data.input_shape == (1, 5, 5)
    assert data.preparation.augmentation == "crop-flip"
    assert load_dataset(from_flat(asked | {"augment": "none"})).preparation.augmentation == "none"


def test_what_is_no_image_is_not_augmented(plugin: str) -> None:
    asked = {"dataset": f"{plugin}:features", "augment": "crop"}
    with pytest.raises(
        ConfigError, match=r"augment: 'crop' is for images, and dataset .* has none"
    ):
        load_dataset(from_flat(asked))


def test_what_is_no_data_set_is_refused(plugin: str) -> None:
    with pytest.raises(
        PluginError, match=r"tuples': expected a fedloge\.data\.DataSet, got tuple$"
    ):
        load_dataset(from_flat({"dataset": f"{plugin}:tuples"}))
    with pytest.raises(PluginError, match=r"unknown name in .*did you mean 'features'"):
        load_dataset(from_flat({"dataset": f"{plugin}:feature"}))


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
    assert list(data.train_origins) == [f"train/{row}" for row in range(10)]
    assert list(data.test_origins) == ["test/0", "test/1"]
    assert data.preparation.augmentation == "crop-flip"
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
