"""One image file to bytes of RGB: turned upright, of one size, and never clipped in silence."""

from __future__ import annotations

import contextlib
import io
import warnings
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

import numpy as np
from jaxtyping import Shaped, UInt8
from numpy.typing import NDArray
from PIL import ExifTags, Image

from fedloge.data.images.dicom import is_dicom, read_dicom
from fedloge.data.images.window import OWN, Window, parse_window
from fedloge.errors import DataError

Resize = Literal["squash", "crop", "pad"]
Interpolation = Literal["bilinear", "bicubic"]

Box = tuple[float, float, float, float]
"""Left, top, right and lower end of a part of an image."""

_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
# What brings a picture of each EXIF orientation upright; 1 is upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# A JPEG is decoded at a reduced scale where that leaves at least so many pixels for each one that is
# wanted, in both directions. With 2, bytes of a 12-megapixel photo at 224 pixels differ by at most 2.
_REDUCED = 2
# Bytes of one file. Nobody photographs so much, but an archive of a few kB may unpack to it.
MOST_BYTES = 256 << 20


class BadImageError(DataError):
    """One file cannot be decoded. The message is a clause without the file's name."""


@dataclass(frozen=True)
class Decoding:
    """How image files become bytes of RGB.

    Parameters
    ----------
    image_size : side in pixels of the square they are brought to; 0: they keep their size.
    resize : ``squash``: whatever their shape; ``crop``: the middle square; ``pad``: the whole image
        in the middle of a black square.
    interpolation : how pixels are resampled, with anti-aliasing.
    window : how values wider than a byte become bytes (`parse_window`); "": such images are refused.
    """

    image_size: int = 0
    resize: Resize = "squash"
    interpolation: Interpolation = "bilinear"
    window: str = ""

    def described(self) -> dict[str, Any]:
        """As JSON values, from which ``Decoding(**described)`` makes it again."""
        return asdict(self)


def decode(data: bytes, name: str, how: Decoding) -> UInt8[np.ndarray, "3 height width"]:
    """The pixels of an image file.

    Orientation by EXIF is applied, of animations the first picture is taken, palettes and CMYK become
    RGB, transparency is left out. A large JPEG is decoded at a reduced scale.

    Parameters
    ----------
    data : the file's content.
    name : its name, whose suffix says which decoder is asked first.

    Raises
    ------
    BadImageError
        It is no image, damaged, too large, or of values that need another window.
    """
    if not data:
        raise BadImageError("is empty")
    try:
        with warnings.catch_warnings():
            # Pillow only warns of an image of more than its 89 million pixels.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return _decoded(data, name, how)
    except BadImageError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise BadImageError(f"has more than {Image.MAX_IMAGE_PIXELS:,} pixels") from None
    except Image.UnidentifiedImageError:
        raise BadImageError("not an image") from None
    # For a damaged file decoders raise nearly anything: OSError, SyntaxError, struct.error, ...
    except Exception as exc:
        raise BadImageError(str(exc) or type(exc).__name__) from None


def fitted_to(image: Image.Image, how: Decoding) -> UInt8[np.ndarray, "3 height width"]:
    """The pixels of an image that is in memory, upright, in RGB and resized as the files of a data set are.

    Raises
    ------
    BadImageError
        Its values are wider than a byte and do not fit the window.
    """
    return _fitted(image, (0, 0, *image.size), how)


def _fitted(image: Image.Image, box: Box, how: Decoding) -> UInt8[np.ndarray, "3 height width"]:
    # Loaded first: a TIFF is turned by that.
    image.load()
    turn = _turn(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _in_window(np.asarray(image), _stated(how))
    rgb = _resized(image.convert("RGB"), box, how)
    return np.asarray(rgb if turn is None else rgb.transpose(turn)).transpose(2, 0, 1)


def _decoded(data: bytes, name: str, how: Decoding) -> UInt8[np.ndarray, "3 height width"]:
    if is_dicom(data):
        return fitted_to(_in_window(*read_dicom(data, how.window)), how)
    image = _opened(data, name)
    if (kind := _lost_depth(image, data)) is not None:
        if kind != "PNG":
            raise BadImageError(
                f"a colour {kind} of more than 8 bits a channel, of which the lower ones would be lost; "
                "convert it to PNG"
            )
        image = _in_window(_deep_png(data), _stated(how))
    elif how.image_size and image.format == "JPEG":
        return _fitted(image, _reduce(image, how), how)
    return fitted_to(image, how)


def _opened(data: bytes, name: str) -> Image.Image:
    # Asking every decoder in turn takes longer than decoding a small image, so the one that the
    # suffix names comes first.
    named = Image.registered_extensions().get(PurePosixPath(name).suffix.lower())
    if named:
        with contextlib.suppress(Image.UnidentifiedImageError):
            return Image.open(io.BytesIO(data), formats=[named])
    return Image.open(io.BytesIO(data))


def _turn(image: Image.Image) -> Image.Transpose | None:
    # Cameras and editors write damaged EXIF data, which then say nothing; the pixels are whole.
    with contextlib.suppress(Exception):
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return None


def _reduce(image: Image.Image, how: Decoding) -> Box:
    """Have a JPEG decoded at a reduced scale; the part of the reduced image that the whole one fills."""
    scale = how.image_size / (max(image.size) if how.resize == "pad" else min(image.size))
    wanted = [how.image_size if how.resize == "squash" else side * scale for side in image.size]
    whole = (0, 0, *image.size)
    reduced = image.draft(image.mode, (int(_REDUCED * wanted[0]), int(_REDUCED * wanted[1])))
    # The last row and column of a reduced image may stand for less than the others.
    return whole if reduced is None else reduced[1]


def _resized(rgb: Image.Image, box: Box, how: Decoding) -> Image.Image:
    size, resampling = how.image_size, _FILTERS[how.interpolation]
    if not size:
        return rgb
    if how.resize == "squash":
        return rgb.resize((size, size), resampling, box=box)
    width, height = box[2:]
    if how.resize == "crop":
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        return rgb.resize((size, size), resampling, box=(left, top, left + side, top + side))
    scale = size / max(width, height)
    inner = (max(1, round(width * scale)), max(1, round(height * scale)))
    square = Image.new("RGB", (size, size))
    corner = ((size - inner[0]) // 2, (size - inner[1]) // 2)
    square.paste(rgb.resize(inner, resampling, box=box), corner)
    return square


def _stated(how: Decoding) -> Window | None:
    if how.window == OWN:
        raise BadImageError(
            f'window = "{OWN}" is for DICOM files, and this is none; set window = "LOW HIGH"'
        )
    return parse_window(how.window)


def _in_window(
    values: Shaped[np.ndarray, "height width ..."], window: Window | None
) -> Image.Image:
    """Values of any range as an image of bytes."""
    if values.dtype == np.uint8:
        return Image.fromarray(values)
    numbers: NDArray[np.float64] = np.asarray(values, dtype=np.float64)
    if not np.isfinite(numbers).all():
        raise BadImageError("has values that are not finite")
    if window is None:
        raise BadImageError(
            f"has values from {numbers.min():g} to {numbers.max():g}, which are wider than a byte; set "
            'window = "LOW HIGH", the same for all images'
        )
    return Image.fromarray(_bytes_of(numbers, window))


def _bytes_of(numbers: NDArray[np.float64], window: Window) -> NDArray[np.uint8]:
    low, high = window.low, window.high
    if window.clip:
        numbers = numbers.clip(low, high)
    elif numbers.min() < low or numbers.max() > high:
        raise BadImageError(
            f"values from {numbers.min():g} to {numbers.max():g} do not fit the window {low:g} {high:g}; "
            "widen it, or add the word clip"
        )
    scaled: NDArray[np.uint8] = np.rint((numbers - low) * (255 / (high - low))).astype(np.uint8)
    return scaled


def _lost_depth(image: Image.Image, data: bytes) -> str | None:
    """The format, where Pillow reads a deeper image into 8 bits and drops the rest without a word."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return None
    kind = image.format or "image"
    if kind == "PNG":
        deep = data[24] == 16
    elif kind == "TIFF":
        bits: Any = getattr(image, "tag_v2", {}).get(258, 8)
        deep = max(bits if isinstance(bits, tuple) else (bits,)) > 8
    elif kind == "JPEG2000":
        header = data.find(b"ihdr", 0, 256)
        deep = header >= 0 and (data[header + 14] & 0x7F) + 1 > 8
    else:
        deep = kind == "SGI" and data[3] == 2
    return kind if deep else None


def _deep_png(data: bytes) -> NDArray[np.uint16]:
    """Grey or colour channels of a PNG of 16 bits, without transparency."""
    # torchvision reads them, and takes seconds to import.
    import torch
    from torchvision.io import ImageReadMode, decode_png

    pixels = decode_png(
        torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.UNCHANGED
    ).numpy()
    channels: NDArray[np.uint16] = pixels[: 1 if len(pixels) < 3 else 3].transpose(1, 2, 0)
    return channels[..., 0] if channels.shape[2] == 1 else channels
