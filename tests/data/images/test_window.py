from __future__ import annotations

import pytest

from fedloge.config import from_flat
from fedloge.data import load_dataset
from fedloge.data.images.window import Window, parse_window
from fedloge.errors import ConfigError


def test_windows() -> None:
    assert parse_window("0 4095") == Window(0, 4095)
    assert parse_window(" -1e3  400.5 clip") == Window(-1000, 400.5, clip=True)
    assert parse_window("") is None and parse_window("dicom") is None


@pytest.mark.parametrize(
    "text", ["4095", "0 0", "5 1", "0 nan", "0 inf", "0 1 cut", "a b", "0 1 2"]
)
def test_another_form_is_refused_before_anything_is_read(tmp_path, text) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_window(text)
    with pytest.raises(ConfigError, match=r'^window: expected "LOW HIGH", "LOW HIGH clip" or'):
        load_dataset(
            from_flat({"dataset": "image-folder", "data-path": str(tmp_path), "window": text})
        )
