from __future__ import annotations

import io
import lzma
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from image_folders import check_content, files, load, png, reds, write_archive, write_folder
from PIL import Image

from fedloge.config import from_flat
from fedloge.data import ImagePreparation, load_dataset
from fedloge.errors import DataError

SHARED = Path(__file__).parents[3] / "shared" / "data" / "cifar10-lt.tar.xz"


@pytest.mark.filterwarnings("error")
def test_a_folder(tmp_path) -> None:
    root = write_folder(tmp_path / "set", files())
    (root / "train" / ".hidden").mkdir()
    (root / "train" / "cat" / ".DS_Store").write_bytes(b"junk")
    (root / "README.txt").write_text("passed over")
    for _ in range(2):
        data = load(root, tmp_path / "cache")
        check_content(data)
        # Mean red: (10 + 11 + 12 + 20 + 21) / 5; the other channels are constant.
        preparation = data.preparation
        assert isinstance(preparation, ImagePreparation)
        assert preparation.mean == pytest.approx((14.8 / 255, 1 / 255, 1 / 255), abs=1e-15)
        assert preparation.std == pytest.approx(
            (np.std([10, 11, 12, 20, 21]) / 255, 1, 1), abs=1e-15
        )
        assert preparation.augmentation == "crop-flip"
        assert data.train_origins == [
            *("train/cat/a.png", "train/cat/b.png", "train/cat/c.png"),
            *("train/dog/a.png", "train/dog/b.png"),
        ]
        assert data.test_origins == ["test/cat/a.png", "test/cat/b.png", "test/dog/a.png"]


def test_a_folder_one_level_down(tmp_path) -> None:
    write_folder(tmp_path / "set" / "inner", files())
    check_content(load(tmp_path / "set", tmp_path / "cache"))


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tar.bz2", ".tar.xz"])
@pytest.mark.parametrize("prefix", ["", "inner/", "./inner/"])
def test_an_archive(tmp_path, suffix, prefix) -> None:
    content = {prefix + name: data for name, data in files().items()}
    archive = write_archive(tmp_path / f"set{suffix}", content)
    check_content(load(archive, tmp_path / "cache"))


@pytest.mark.parametrize("writable", [True, False])
def test_the_order_inside_an_archive_does_not_matter(tmp_path, writable) -> None:
    content = dict(reversed(files().items()))
    archive = write_archive(tmp_path / "set.tar", content)
    cache = tmp_path / "cache"
    if not writable:
        cache.write_text("a file where the cache should be")
    check_content(load(archive, cache))


def test_any_mode_and_suffix_is_decoded_to_rgb(tmp_path) -> None:
    content = files()
    grey, jpeg = io.BytesIO(), io.BytesIO()
    Image.new("L", (4, 3), 10).save(grey, "PNG")
    Image.new("RGB", (4, 3), (11, 11, 11)).save(jpeg, "JPEG", quality=100)
    content["train/cat/a.png"] = grey.getvalue()
    content["train/cat/b.png"] = jpeg.getvalue()  # not what its suffix says
    data = load(write_folder(tmp_path / "set", content), tmp_path / "cache")
    assert data.train.inputs[0].unique().tolist() == [10]
    assert data.train.inputs[1].unique().tolist() == [11]


def test_resizing(tmp_path) -> None:
    content = files()
    content["train/cat/b.png"] = png((11, 1, 1), size=(9, 9))
    root = write_folder(tmp_path / "set", content)
    data = load(root, tmp_path / "cache", image_size=6)
    assert data.input_shape == (3, 6, 6)
    assert reds(data.train.inputs) == [10, 11, 12, 20, 21]
    with pytest.raises(
        DataError, match=r"train/cat/a.png is 4x3 but train/cat/b.png is 9x9; set image-size"
    ):
        load(root, tmp_path / "cache")


def without(*names: str) -> dict[str, bytes]:
    return {name: data for name, data in files().items() if not name.startswith(names)}


@pytest.mark.parametrize("kind", ["folder", "archive"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (without("train/dog"), "class 'dog' is in test but not in train"),
        (
            {**files(), "train/dog/b.png": b"junk"},
            "1 of 8 files cannot be decoded: train/dog/b.png (not an image); mend or remove",
        ),
        ({**files(), "train/dog/b.png": png((1, 1, 1))[:40]}, "train/dog/b.png ("),
        ({**files(), "train/dog/sub/b.png": png((1, 1, 1))}, "train/dog/sub/b.png"),
        ({"a.png": png((1, 1, 1))}, "'a.png' does not say what is its class; expected <class>/"),
        ({"readme": b""}, "'readme' does not say"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(tmp_path, kind, content, message) -> None:
    write = write_folder if kind == "folder" else write_archive
    path = write(tmp_path / ("set" if kind == "folder" else "set.tar"), content)
    with pytest.raises(DataError, match=re.escape(message)) as error:
        load(path, tmp_path / "cache")
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    assert not [e for e in (tmp_path / "cache").glob("images-*") if e.suffix != ".partial"]


def test_one_of_the_splits_may_lack_classes_or_be_missing(tmp_path) -> None:
    # What follows from that is said where clients get their tests.
    data = load(write_folder(tmp_path / "a", without("test/cat")), tmp_path / "cache")
    assert data.test.labels.tolist() == [1]
    data = load(write_folder(tmp_path / "b", without("test/")), tmp_path / "cache")
    assert len(data.test) == 0 and len(data.train) == 5


def test_an_empty_class_is_named(tmp_path) -> None:
    root = write_folder(tmp_path / "set", files())
    for split in ("train", "test"):
        (root / split / "eel").mkdir()
    archive = tmp_path / "set.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(root, "set")
    for path in (root, archive):
        with pytest.raises(DataError, match="test/eel holds no images"):
            load(path, tmp_path / "cache")


def test_no_such_path_or_archive(tmp_path) -> None:
    with pytest.raises(DataError, match=r"nowhere': no such folder or archive; expected <class>/"):
        load(tmp_path / "nowhere", tmp_path / "cache")
    (tmp_path / "set.zip").write_bytes(b"PK" + bytes(2000))
    with pytest.raises(DataError, match="unsupported file; expected a folder, or a tar archive"):
        load(tmp_path / "set.zip", tmp_path / "cache")
    with pytest.raises(DataError, match="'image-folder' needs data-path"):
        load_dataset(from_flat({"dataset": "image-folder"}))


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tar.bz2", ".tar.xz"])
def test_a_truncated_archive_is_never_taken_for_a_whole_one(tmp_path, suffix) -> None:
    whole = write_archive(tmp_path / f"set{suffix}", files())
    content = whole.read_bytes()
    # Of a plain tar, the zeros at its end are no content: 2 blocks of them say that it is one.
    size = 8 * 1024 if suffix == ".tar" else len(content)
    for share in (0.2, 0.5, 0.9):
        whole.write_bytes(content[: int(size * share)])
        with pytest.raises(DataError, match=r"cannot be read to its end .* cut short\?"):
            load(whole, tmp_path / "cache")


def test_a_tar_cut_between_two_files_is_not_whole(tmp_path) -> None:
    archive = write_archive(tmp_path / "set.tar", files())
    # A header and a block of pixels a file; what is left has every class in it.
    archive.write_bytes(archive.read_bytes()[: 8 * 1024])
    with pytest.raises(DataError, match="cannot be read to its end"):
        load(archive, tmp_path / "cache")


def test_a_damaged_archive_is_noticed(tmp_path) -> None:
    archive = write_archive(tmp_path / "set.tar", files())
    content = bytearray(archive.read_bytes())
    content[4 * 1024 + 5] ^= 255  # inside the name of the fifth file: its header's sum is wrong
    archive.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read to its end"):
        load(archive, tmp_path / "cache")
    damaged = bytearray(lzma.compress(bytes(range(256)) * 100))
    damaged[len(damaged) // 2] ^= 255
    (tmp_path / "set.tar.xz").write_bytes(damaged)
    with pytest.raises(DataError, match=r"set\.tar\.xz"):
        load(tmp_path / "set.tar.xz", tmp_path / "cache")


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.exists(), reason=f"{SHARED.name} is not here")
def test_the_real_cifar10_lt(tmp_path) -> None:
    data = load(SHARED, tmp_path / "cache")
    sizes = [5000, 3237, 2096, 1357, 878, 568, 368, 238, 154, 100]
    assert torch.bincount(data.train.labels).tolist() == sizes
    assert torch.bincount(data.test.labels).tolist() == [1000] * 10
    assert data.input_shape == (3, 32, 32)
    assert data.classes[0] == "airplane"
    pixels = data.train.inputs.double() / 255
    preparation = data.preparation
    assert isinstance(preparation, ImagePreparation)
    assert preparation.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), abs=1e-12)
    assert preparation.std == pytest.approx(pixels.std((0, 2, 3), correction=0).tolist(), abs=1e-12)
