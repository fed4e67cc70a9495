from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedloge.errors import InputError
from fedloge.results.partition_picture import MOST_CELLS, binned, draw_partition


def drawn(folder: Path, counts: np.ndarray, name: str = "split.png") -> Path:
    out = folder / name
    clients, classes = (list(map(str, range(n))) for n in counts.shape)
    draw_partition(counts, clients, classes, "a split", out)
    return out


def test_thousands_of_clients_are_put_together_and_no_image_is_lost() -> None:
    counts = np.random.default_rng(0).integers(0, 4, size=(4000, 7))
    bins = binned(counts, MOST_CELLS)
    assert bins.shape == (MOST_CELLS, 7)
    widths = np.diff(np.linspace(0, 4000, MOST_CELLS + 1).astype(int))
    assert (bins * widths[:, None]).sum() == pytest.approx(counts.sum())


def test_the_same_partition_gives_the_same_picture(tmp_path: Path) -> None:
    counts = np.random.default_rng(0).integers(0, 9, size=(12, 5))
    one, other = drawn(tmp_path, counts), drawn(tmp_path, counts, "again.png")
    assert one.read_bytes() == other.read_bytes()
    with Image.open(one) as image:
        assert min(image.size) > 500
        assert len(set(image.convert("RGB").getdata())) > 20
    assert drawn(tmp_path, counts, "split.svg").read_text().count("clients, largest first") == 1


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has the suffix '\.bmp', expected one of \.pdf, \.png"):
        drawn(tmp_path, np.ones((2, 2), dtype=np.int64), "split.bmp")
