"""Files as cameras, scanners and programs write them: the right pixels, or one clear clause."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.io import decode_png

from fedloge.data.images.decoding import BadImageError, Decoding, decode, fitted_to

SQUARE = np.array([[10, 20], [30, 40]], dtype=np.uint8)


def file_of(pixels: np.ndarray | Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(out, kind, **options)
    return out.getvalue()


def grey(data: bytes, how: Decoding = Decoding()) -> list[list[int]]:  # noqa: B008 - frozen
    found = decode(data, "any.name", how)
    assert found.dtype == np.uint8 and found.shape[0] == 3
    assert (found[0] == found[1]).all() and (found[0] == found[2]).all()
    return found[0].tolist()


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return file_of(SQUARE, "PNG", exif=exif)


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, [[10, 20], [30, 40]]),
        (3, [[40, 30], [20, 10]]),
        (6, [[30, 10], [40, 20]]),
        (8, [[20, 40], [10, 30]]),
        (2, [[20, 10], [40, 30]]),
        (4, [[30, 40], [10, 20]]),
        (5, [[10, 30], [20, 40]]),
        (7, [[40, 20], [30, 10]]),
        (0, [[10, 20], [30, 40]]),
        (99, [[10, 20], [30, 40]]),
    ],
)
def test_pictures_are_turned_as_exif_says(orientation, upright) -> None:
    assert grey(turned(orientation)) == upright


@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "WEBP"])
def test_a_phones_portrait_is_turned_once_in_every_format(kind) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = np.zeros((16, 32, 3), dtype=np.uint8)
    picture[:, :16] = 255  # the left half: the upper one when turned
    data = file_of(picture, kind, exif=exif)
    found = decode(data, f"a.{kind.lower()}", Decoding()).astype(int)
    assert found.shape == (3, 32, 16)
    assert found[:, 2:14].min() > 200 and found[:, 18:30].max() < 55


def test_damaged_exif_data_say_nothing() -> None:
    data = file_of(SQUARE, "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff", quality=100)
    assert decode(data, "a.jpg", Decoding()).shape == (3, 2, 2)


WIDE = {
    "16-bit PNG": file_of(np.array([[0, 65535], [257, 514]], dtype=np.uint16), "PNG"),
    "16-bit TIFF": file_of(np.array([[0, 65535], [257, 514]], dtype=np.uint16), "TIFF"),
    "float TIFF": file_of(np.array([[0, 65535], [257, 514]], dtype=np.float32), "TIFF"),
    "32-bit TIFF": file_of(np.array([[0, 65535], [257, 514]], dtype=np.int32), "TIFF"),
}


@pytest.mark.parametrize("name", WIDE)
def test_values_wider_than_a_byte_need_a_window(name) -> None:
    assert grey(WIDE[name], Decoding(window="0 65535")) == [[0, 255], [1, 2]]
    with pytest.raises(
        BadImageError, match=r'from 0 to 65535, which .* set window = "LOW HIGH", the same for all'
    ):
        decode(WIDE[name], "a", Decoding())
    with pytest.raises(BadImageError, match="do not fit the window 0 4095; widen it, or add"):
        decode(WIDE[name], "a", Decoding(window="0 4095"))
    assert grey(WIDE[name], Decoding(window="257 514 clip")) == [[0, 255], [0, 255]]
    with pytest.raises(BadImageError, match=r'"dicom" is for DICOM files, and this is none'):
        decode(WIDE[name], "a", Decoding(window="dicom"))


def test_twelve_bits_in_sixteen() -> None:
    data = file_of(np.array([[0, 4095, 2048]], dtype=np.uint16), "PNG")
    # 2048 * 255 / 4095 = 127.53
    assert grey(data, Decoding(window="0 4095")) == [[0, 255, 128]]


def test_a_window_leaves_bytes_alone_and_negative_values_are_possible() -> None:
    assert grey(file_of(SQUARE, "PNG"), Decoding(window="0 65535")) == SQUARE.tolist()
    data = file_of(np.array([[-1.0, 1.0, 0.0]], dtype=np.float32), "TIFF")
    assert grey(data, Decoding(window="-1 1")) == [[0, 255, 128]]
    for wrong in (np.nan, np.inf):
        data = file_of(np.array([[0.0, wrong]], dtype=np.float32), "TIFF")
        with pytest.raises(BadImageError, match="not finite"):
            decode(data, "a", Decoding(window="0 1"))


def deep_png(channels: int) -> bytes:
    """16 bits a channel: red 65535, green 257, blue 0, opaque; written by hand, as Pillow cannot."""
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        whole = kind + body
        return struct.pack(">I", len(body)) + whole + struct.pack(">I", zlib.crc32(whole))

    values = {2: (257, 65535), 3: (65535, 257, 0), 4: (65535, 257, 0, 65535)}[channels]
    kind = {2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", 1, 1, 16, kind, 0, 0, 0)
    row = b"\0" + struct.pack(f">{channels}H", *values)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(*part) for part in ((b"IHDR", header), (b"IDAT", zlib.compress(row)), (b"IEND", b""))
    )


def test_deep_colours_keep_their_lower_bits() -> None:
    for channels in (3, 4):
        found = decode(deep_png(channels), "a.png", Decoding(window="0 257 clip"))
        assert found[:, 0, 0].tolist() == [255, 255, 0]
        assert decode(deep_png(channels), "a.png", Decoding(window="0 65535"))[
            :, 0, 0
        ].tolist() == [255, 1, 0]
        with pytest.raises(BadImageError, match="wider than a byte"):
            decode(deep_png(channels), "a.png", Decoding())
    assert grey(deep_png(2), Decoding(window="0 514")) == [[128]]
    # An independent reader finds the same in the file written by hand.
    assert decode_png(torch.frombuffer(bytearray(deep_png(3)), dtype=torch.uint8)).shape == (
        3,
        1,
        1,
    )


def test_deep_colours_that_cannot_be_read_are_refused() -> None:
    # A TIFF of 16 bits in colour: Pillow reads it, and writes none; so the tag is set by hand.
    data = bytearray(file_of(np.zeros((2, 2, 3), dtype=np.uint8), "TIFF"))
    at = data.find(b"\x08\x00\x08\x00\x08\x00")
    data[at : at + 6] = b"\x10\x00" * 3
    data += bytes(64)
    with pytest.raises(BadImageError, match="a colour TIFF of more than 8 bits a channel"):
        decode(bytes(data), "a.tif", Decoding(window="0 65535"))


def stripes(width: int, height: int) -> Image.Image:
    """Red grows from left to right, green from top to bottom."""
    across = np.linspace(0, 255, width).round()[None, :, None]
    down = np.linspace(0, 255, height).round()[:, None, None]
    parts = np.broadcast_arrays(across, down, np.full((1, 1, 1), 77.0))
    return Image.fromarray(np.concatenate(parts, axis=2).astype(np.uint8))


def test_squash_is_what_it_was() -> None:
    image = stripes(40, 20)
    found = decode(file_of(image, "PNG"), "a.png", Decoding(8))
    before = np.asarray(image.resize((8, 8), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert np.array_equal(found, before)


def test_crop_takes_the_middle_square_and_pad_the_whole() -> None:
    image = stripes(40, 20)
    crop = fitted_to(image, Decoding(20, "crop"))
    assert np.array_equal(crop, np.asarray(image)[:, 10:30].transpose(2, 0, 1))
    pad = fitted_to(image, Decoding(40, "pad"))
    assert not pad[:, :10].any() and not pad[:, 30:].any()
    assert np.array_equal(pad[:, 10:30], np.asarray(image).transpose(2, 0, 1))
    portrait = image.transpose(Image.Transpose.ROTATE_90)
    assert fitted_to(portrait, Decoding(20, "crop")).shape == (3, 20, 20)
    assert not fitted_to(portrait, Decoding(40, "pad"))[:, :, :10].any()
    assert fitted_to(stripes(500, 1), Decoding(8, "pad"))[2].max() == 77
    bicubic = fitted_to(image, Decoding(8, "crop", "bicubic"))
    assert not np.array_equal(bicubic, fitted_to(image, Decoding(8, "crop")))


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
@pytest.mark.parametrize("shape", [(640, 480), (480, 640), (1000, 163)])
def test_a_large_jpeg_at_a_reduced_scale_is_hardly_another_picture(resize, shape) -> None:
    small = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize(shape, Image.Resampling.BICUBIC)
    data = file_of(image, "JPEG", quality=95)
    how = Decoding(32, resize)
    whole = fitted_to(Image.open(io.BytesIO(data)), how).astype(int)
    assert np.abs(decode(data, "a.jpg", how) - whole).max() <= 6


def test_a_jpeg_below_four_times_the_size_is_decoded_whole() -> None:
    data = file_of(stripes(160, 120), "JPEG")
    how = Decoding(48)
    assert np.array_equal(decode(data, "a", how), fitted_to(Image.open(io.BytesIO(data)), how))


def test_other_modes_become_rgb() -> None:
    for mode in ("1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"):
        image = Image.new("RGB", (3, 3), (0, 0, 0)).convert(mode)
        kind = "TIFF" if mode in ("CMYK", "YCbCr") else "PNG"
        assert decode(file_of(image, kind), "a", Decoding()).max() <= 2
    frames = [Image.new("RGB", (3, 3), (i, i, i)) for i in (9, 200)]
    data = file_of(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert grey(data) == [[9] * 3] * 3, "the first picture of an animation"


def test_what_cannot_be_decoded_is_said_in_a_clause() -> None:
    whole = file_of(stripes(40, 30), "PNG")
    for data, message in (
        (b"", "is empty"),
        (b"junk", "not an image"),
        (whole[:-60], "."),
        (file_of(stripes(64, 64), "JPEG")[:700], "truncated"),
    ):
        with pytest.raises(BadImageError, match=message) as error:
            decode(data, "a.png", Decoding())
        assert "\n" not in str(error.value)


def test_a_bomb_is_an_error(monkeypatch) -> None:
    data = file_of(stripes(40, 30), "PNG")
    for most in (1199, 500):  # above it Pillow warns; above its double it raises
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
        with pytest.raises(BadImageError, match=f"has more than {most:,} pixels"):
            decode(data, "a.png", Decoding())


def test_decoding_imports_no_torch() -> None:
    code = "import sys, fedloge.data.images.decoding; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
