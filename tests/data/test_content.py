from __future__ import annotations

import dataclasses
import zlib
from pathlib import Path

import image_folders as folders
import numpy as np
import pytest
import torch

from fedloge.data import DataSet, Examples
from fedloge.data.content import Content, changed, checksums, content_of


def of(folder: Path, cache: Path) -> Content:
    return content_of(folders.load(folder, cache))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return folders.write_folder(tmp_path / "data", folders.files())


def test_a_checksum_is_that_of_the_bytes_alone() -> None:
    inputs = torch.arange(12, dtype=torch.int16).reshape(3, 4)
    expected = [zlib.crc32(row.numpy().tobytes()) for row in inputs]
    assert checksums(inputs).tolist() == expected
    # Rows of a transposed matrix do not lie together in memory.
    assert checksums(inputs.T.contiguous().T).tolist() == expected
    assert len(checksums(inputs[:0])) == 0


def test_checksums_go_with_their_examples() -> None:
    inputs = torch.arange(12, dtype=torch.uint8).reshape(4, 3)
    examples = Examples(inputs, torch.tensor([0, 1, 0, 1]), checksums(inputs))
    taken = examples.take(np.array([3, 1, 1]))
    assert taken.checks is not None and taken.checks.tolist() == checksums(taken.inputs).tolist()


def test_kept_in_the_cache_or_in_memory_it_is_the_same(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = folders.load(folder, tmp_path / "cache")
    assert data.train.checks is not None
    assert data.train.checks.tolist() == checksums(data.train.inputs).tolist()
    first = content_of(data)
    assert first == of(folder, tmp_path / "cache")  # opened, not decoded
    (tmp_path / "file").write_text("")
    assert first == of(folder, tmp_path / "file")  # no folder can be made there
    unknown = dataclasses.replace(data, train=Examples(data.train.inputs, data.train.labels))
    assert content_of(unknown) == first


def test_what_it_describes_is_read_again(folder: Path, tmp_path: Path) -> None:
    content = of(folder, tmp_path / "cache")
    assert Content.of(content.described()) == content
    for damage in ({"classes": [1, 2]}, {"train": ["x"]}, {"test": 5}):
        with pytest.raises((ValueError, TypeError, KeyError)):
            Content.of(content.described() | damage)


def test_two_class_folders_that_are_exchanged_are_named(folder: Path, tmp_path: Path) -> None:
    before = of(folder, tmp_path / "cache")
    cat, dog = folder / "train/cat", folder / "train/dog"
    cat.rename(tmp_path / "other")
    dog.rename(cat)
    (tmp_path / "other").rename(dog)
    now = of(folder, tmp_path / "cache")
    assert changed(before, now) == "of its training examples those of 'cat' and 'dog' are exchanged"
    assert changed(now, before) == changed(before, now) and before.digest != now.digest


def test_an_image_that_is_replaced_is_found(folder: Path, tmp_path: Path) -> None:
    before = of(folder, tmp_path / "cache")
    (folder / "test/dog/a.png").write_bytes(folders.png((99, 1, 1)))
    now = of(folder, tmp_path / "cache")
    assert changed(before, now) == "of its test examples those of 'dog' are others than before"


def test_a_file_with_another_name_and_date_is_the_same_image(folder: Path, tmp_path: Path) -> None:
    before = of(folder, tmp_path / "cache")
    (folder / "test/dog/a.png").rename(folder / "test/dog/z.png")
    (folder / "train/cat/a.png").touch()
    assert changed(before, of(folder, tmp_path / "cache")) == ""


def test_other_classes_are_named(folder: Path, tmp_path: Path) -> None:
    before = of(folder, tmp_path / "cache")
    for split in ("train", "test"):
        (folder / split / "dog").rename(folder / split / "wolf")
    now = of(folder, tmp_path / "cache")
    assert changed(before, now) == "its classes are others: 'dog' gone, 'wolf' new"


def test_soft_labels_and_the_order_count(folder: Path, tmp_path: Path) -> None:
    data = folders.load(folder, tmp_path / "cache")
    soft = torch.tensor([[0.9, 0.1]] * 3 + [[0.2, 0.8]] * 2)

    def content(labels: torch.Tensor) -> Content:
        train = Examples(data.train.inputs, labels)
        return content_of(DataSet("soft", train, data.test, data.classes, data.preparation))

    hard, one, other = content(data.train.labels), content(soft), content(soft.flip(1).flip(1) * 1)
    assert (
        one == other and changed(hard, one) == "the order or the labels of its examples are others"
    )
