"""DICOM files, read by pydicom: the extra ``fedloge[dicom]``."""

from __future__ import annotations

import io
from collections.abc import MutableSequence
from typing import Any

import numpy as np
from jaxtyping import Shaped
from numpy.typing import NDArray
from PIL import Image

from fedloge.data.images.window import OWN, Window, parse_window
from fedloge.errors import DataError


def is_dicom(data: bytes) -> bool:
    """Whether a file's content says that it is DICOM (part 10, section 7.1)."""
    return data[128:132] == b"DICM"


def read_dicom(
    data: bytes, window: str
) -> tuple[Shaped[np.ndarray, "height width ..."], Window | None]:
    """The values of a DICOM image, and the window by which they become bytes.

    Grey values are stored values after the modality's transformation (of CT: Hounsfield units); where
    large ones mean dark (MONOCHROME1) they are mirrored in the window. Colours are RGB.
    `window` is as in `parse_window`; with ``dicom`` it is the file's first window centre and width, cut
    off at both ends (PS3.3, C.11.2.1.2). Values that take 8 bits at most need no window.

    Raises
    ------
    DataError
        The extra is not installed.
    ValueError
        The file holds no image, many, one that is too large or in a form that needs further packages,
        or no window of its own.
    """
    try:
        # An extra, imported by whoever meets a DICOM file.
        import pydicom
        from pydicom import pixels
    except ImportError:
        raise DataError("a DICOM file needs the extra dicom: install fedloge[dicom]") from None
    file = pydicom.dcmread(io.BytesIO(data))
    if "PixelData" not in file:
        raise ValueError("a DICOM file without an image")
    frames = int(file.get("NumberOfFrames") or 1)
    if frames > 1:
        raise ValueError(f"a DICOM file of {frames} images; write each into a file of its own")
    if file.Rows * file.Columns > (Image.MAX_IMAGE_PIXELS or 0):
        raise ValueError(f"has more than {Image.MAX_IMAGE_PIXELS:,} pixels")
    stored = pixels.pixel_array(file)
    if stored.ndim != 2 + (file.SamplesPerPixel > 1):
        raise ValueError("a DICOM file of more images than it says")
    if file.SamplesPerPixel > 1:
        return stored, parse_window(window)
    if file.PhotometricInterpretation == "PALETTE COLOR":
        colours = pixels.apply_color_lut(stored, file)
        return colours, Window(0.0, float(np.iinfo(colours.dtype).max))
    values: NDArray[np.float64] = np.asarray(pixels.apply_modality_lut(stored, file), np.float64)
    chosen = _own_window(file) if window == OWN else parse_window(window)
    if chosen is None and values.min() >= 0 and values.max() <= 255 and file.BitsStored <= 8:
        chosen = Window(0.0, 255.0)
    if chosen is not None and file.PhotometricInterpretation == "MONOCHROME1":
        values = chosen.low + chosen.high - values
    return values, chosen


def _own_window(file: Any) -> Window:
    centre, width = file.get("WindowCenter"), file.get("WindowWidth")
    form = file.get("VOILUTFunction") or "LINEAR"
    if centre is None or width is None or form not in ("LINEAR", "LINEAR_EXACT"):
        raise ValueError("a DICOM file without a linear window of its own; state one")
    # A file may bring several windows; the first is the one to be shown.
    middle, breadth = (
        float(v[0] if isinstance(v, MutableSequence) else v) for v in (centre, width)
    )
    if form == "LINEAR":
        middle, breadth = middle - 0.5, max(breadth - 1, 0.5)
    return Window(middle - breadth / 2, middle + breadth / 2, clip=True)
