"""Real DICOM files: those that pydicom brings."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest

from fedloge.data.images.decoding import BadImageError, Decoding, decode
from fedloge.errors import DataError

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
FILES = Path(pydicom.__file__).parent / "data/test_files"


def content(name: str, **changes: object) -> bytes:
    file = pydicom.dcmread(FILES / name)
    for key, value in changes.items():
        setattr(file, key, value)
    out = io.BytesIO()
    file.save_as(out)
    return out.getvalue()


def test_a_ct_in_hounsfield_units() -> None:
    file = pydicom.dcmread(FILES / "CT_small.dcm")
    units = file.pixel_array * float(file.RescaleSlope) + float(file.RescaleIntercept)
    expected = np.rint((units.clip(-1000, 1000) + 1000) * 255 / 2000)
    found = decode(content("CT_small.dcm"), "a.dcm", Decoding(window="-1000 1000 clip"))
    assert found.shape == (3, 128, 128)
    assert np.array_equal(found[0], expected) and len(np.unique(found)) > 50


def test_a_window_is_needed_and_not_fitted_to_each_image() -> None:
    with pytest.raises(BadImageError, match=r"wider than a byte; set window"):
        decode(content("CT_small.dcm"), "a.dcm", Decoding())
    with pytest.raises(BadImageError, match="do not fit the window 0 100"):
        decode(content("CT_small.dcm"), "a.dcm", Decoding(window="0 100"))


def test_the_files_own_window() -> None:
    own = {"WindowCenter": 600, "WindowWidth": 1201}
    values = pydicom.dcmread(FILES / "MR_small.dcm").pixel_array.astype(float)
    # PS3.3 C.11.2.1.2: from c - 0.5 - (w - 1) / 2 to c - 0.5 + (w - 1) / 2
    expected = np.rint((values.clip(-0.5, 1199.5) + 0.5) * 255 / 1200)
    found = decode(content("MR_small.dcm", **own), "a", Decoding(window="dicom"))
    assert np.array_equal(found[1], expected)
    exact = own | {"VOILUTFunction": "LINEAR_EXACT", "WindowWidth": 1200}
    expected = np.rint(values.clip(0, 1200) * 255 / 1200)
    found = decode(content("MR_small.dcm", **exact), "a", Decoding(window="dicom"))
    assert np.array_equal(found[1], expected)
    several = {"WindowCenter": [600, 40], "WindowWidth": [1201, 80]}
    assert np.array_equal(
        decode(content("MR_small.dcm", **several), "a", Decoding(window="dicom")),
        decode(content("MR_small.dcm", **own), "a", Decoding(window="dicom")),
    )
    with pytest.raises(BadImageError, match="without a linear window of its own"):
        decode(
            content("MR_small.dcm", **own, VOILUTFunction="SIGMOID"), "a", Decoding(window="dicom")
        )


def test_where_large_means_dark_it_is_mirrored() -> None:
    how = Decoding(window="0 5000")
    bright = decode(content("MR_small.dcm"), "a", how)
    dark = decode(content("MR_small.dcm", PhotometricInterpretation="MONOCHROME1"), "a", how)
    assert np.abs(255 - bright.astype(int) - dark).max() <= 1


def test_colours() -> None:
    rgb = decode(content("SC_rgb_small_odd.dcm"), "a", Decoding())
    assert np.array_equal(
        rgb, pydicom.dcmread(FILES / "SC_rgb_small_odd.dcm").pixel_array.transpose(2, 0, 1)
    )
    palette = decode(content("examples_palette.dcm"), "a", Decoding())
    assert len({*map(tuple, palette.reshape(3, -1).T[::7].tolist())}) > 20
    assert (palette[0] != palette[1]).any(), "a palette's indices are no grey values"
    with pytest.raises(BadImageError, match="of more images than it says"):
        decode(content("examples_ybr_color.dcm", NumberOfFrames=1), "a", Decoding())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rtplan.dcm", "a DICOM file without an image"),
        ("SC_rgb_rle_2frame.dcm", "a DICOM file of 2 images; write each into a file of its own"),
        ("MR_truncated.dcm", "."),
    ],
)
def test_what_is_no_single_image_is_refused(name, message) -> None:
    with pytest.raises(BadImageError, match=message):
        decode((FILES / name).read_bytes(), name, Decoding(window="0 65535"))


@pytest.mark.filterwarnings("ignore")
def test_every_file_gives_a_picture_or_one_clause() -> None:
    pictures = 0
    for path in sorted(FILES.glob("*.dcm")):
        data = path.read_bytes()
        if data[128:132] != b"DICM":
            continue
        try:
            found = decode(data, path.name, Decoding(16, "pad", window="dicom"))
        except BadImageError as exc:
            assert str(exc)
        else:
            pictures += found.shape == (3, 16, 16)
    assert pictures > 15


def test_without_the_extra_it_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(DataError, match=r"needs the extra dicom: install fedloge\[dicom\]"):
        decode(bytes(128) + b"DICM" + bytes(100), "a.dcm", Decoding())
