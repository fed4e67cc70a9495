"""Small image folders and archives of them, and what loading one gives."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import torch
from PIL import Image

from fedloge.config import from_flat
from fedloge.data import DataSet, load_dataset


def load(path: Path, cache: Path, **values: object) -> DataSet:
    return load_dataset(
        from_flat(
            {
                "dataset": "image-folder",
                "data-path": str(path),
                "cache-dir": str(cache),
                **{key.replace("_", "-"): value for key, value in values.items()},
            }
        )
    )


def png(colour: tuple[int, int, int], size: tuple[int, int] = (4, 3)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG")
    return out.getvalue()


def files() -> dict[str, bytes]:
    """Two classes, 3 + 2 training and 2 + 1 test images; an image's red says which it is."""
    return {
        "train/cat/a.png": png((10, 1, 1)),
        "train/cat/b.png": png((11, 1, 1)),
        "train/cat/c.png": png((12, 1, 1)),
        "train/dog/a.png": png((20, 1, 1)),
        "train/dog/b.png": png((21, 1, 1)),
        "test/cat/a.png": png((30, 1, 1)),
        "test/cat/b.png": png((31, 1, 1)),
        "test/dog/a.png": png((40, 1, 1)),
    }


def write_folder(root: Path, content: dict[str, bytes]) -> Path:
    for name, data in content.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def write_archive(path: Path, content: dict[str, bytes]) -> Path:
    mode = {".tar": "w", ".xz": "w:xz", ".gz": "w:gz", ".bz2": "w:bz2"}[path.suffix]
    with tarfile.open(path, mode) as tar:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def reds(pixels: torch.Tensor) -> list[int]:
    assert (pixels[:, 0] == pixels[:, :1, 0, 0, None]).all()
    return pixels[:, 0, 0, 0].tolist()


def check_content(data: DataSet) -> None:
    assert data.classes == ("cat", "dog")
    assert data.input_shape == (3, 3, 4)
    assert reds(data.train.inputs) == [10, 11, 12, 20, 21]
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1]
    assert reds(data.test.inputs) == [30, 31, 40]
    assert data.test.labels.tolist() == [0, 0, 1]


def pictures(*names: str) -> dict[str, bytes]:
    """Files of which each has a red of its own: 0, 10, 20, ..."""
    return {name: png((10 * i, 1, 1)) for i, name in enumerate(names)}


def loaded(folder: Path, content: dict[str, bytes], **values: object) -> DataSet:
    """What loading a folder of these files gives."""
    return load(write_folder(folder / "set", content), folder / "cache", **values)


def columns(data: DataSet, *names: str, split: str = "train") -> list[tuple[str, ...]]:
    """Rows of a data set's manifest."""
    rows = data.train_manifest if split == "train" else data.test_manifest
    assert rows is not None
    return [*zip(*(rows.column(name) for name in names), strict=True)]
