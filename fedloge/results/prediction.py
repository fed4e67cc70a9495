"""Photos and arrays to class names with probabilities: what a trained model is given, and what it says."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fedloge.data.images.decoding import (
    BadImageError,
    Decoding,
    Resize,
    decode,
    fitted_to,
)
from fedloge.data.images.file_tree import passed_over
from fedloge.data.images.read_place import read_place
from fedloge.errors import DataError, InputError, in_one_line

Input = str | Path | Image.Image | NDArray[Any] | Tensor


@dataclass(frozen=True)
class Prediction:
    """What a model says of one input.

    Attributes
    ----------
    source : the path, or ``input 0`` by its place among the inputs.
    classes : class names, the most probable first; classes that the model never predicts are left out.
    probabilities : of these classes, in [0, 1].
    problem : why there is no prediction, in one line; then `classes` is empty.
    """

    source: str
    classes: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    problem: str = ""

    @property
    def label(self) -> str:
        """The most probable class; `DataError` with the problem if there is no prediction."""
        if self.problem:
            raise DataError(self.problem)
        return self.classes[0]

    @classmethod
    def of(cls, source: str, logits: Tensor, classes: Sequence[str], top: int) -> Prediction:
        """From one row of logits, those of all classes."""
        probabilities = logits.double().softmax(dim=0)
        if not math.isfinite(float(probabilities.sum())):
            return cls(source, problem=f"{source}: the model's logits are not finite")
        best = probabilities.topk(min(top, len(classes)))
        pairs = [
            (classes[c], p)
            for c, p in zip(best.indices.tolist(), best.values.tolist(), strict=True)
            if logits[c] > -math.inf
        ]
        return cls(source, tuple(name for name, _ in pairs), tuple(p for _, p in pairs))


@dataclass(frozen=True)
class Taker:
    """What a model takes, and how photos become it.

    Attributes
    ----------
    shape : of one raw input; (channels, height, width) of images.
    dtype : of raw inputs; None where the export does not say, as those of earlier versions.
    decoding : how the training's image files became bytes.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype | None
    decoding: Decoding

    @property
    def images(self) -> bool:
        """Whether raw inputs are images of bytes, grey or RGB."""
        return self.dtype is torch.uint8 and len(self.shape) == 3 and self.shape[0] in (1, 3)

    def with_resize(self, resize: str) -> Taker:
        """The same for photos of any size, resized as is said here because the training did not resize.

        `InputError`: no such way, or the training resized in another one.
        """
        if not resize or (self.decoding.image_size and resize == self.decoding.resize):
            return self
        if resize not in get_args(Resize):
            raise InputError(f"resize: expected {', '.join(get_args(Resize))}, got {resize!r}")
        if self.decoding.image_size:
            raise InputError(
                f"resize: the model was trained on images resized by {self.decoding.resize!r}, got {resize!r}; "
                "leave it out"
            )
        if not self.images or self.shape[1] != self.shape[2]:
            raise InputError(
                f"resize: the model takes {self.described()}, not square images; leave it out"
            )
        how = Decoding(self.shape[1], resize, self.decoding.interpolation, self.decoding.window)  # type: ignore[arg-type]
        return Taker(self.shape, self.dtype, how)

    def described(self) -> str:
        """What one raw input is, in words."""
        if self.images:
            channels, height, width = self.shape
            return f"{'RGB' if channels == 3 else 'grey'} images of {width}x{height}"
        kind = str(self.dtype).removeprefix("torch.") if self.dtype else "inputs"
        return f"{kind} of shape {'x'.join(map(str, self.shape)) or 'a single number'}"

    def check(self, inputs: Tensor) -> None:
        """`InputError` if a batch is not of the shape and dtype that the model was trained on."""
        if tuple(inputs.shape[1:]) != self.shape or inputs.ndim == 0:
            raise InputError(
                f"inputs: expected a batch of {self.described()}, so (batch, "
                f"{', '.join(map(str, self.shape))}), got {tuple(inputs.shape)}"
            )
        if self.dtype is not None and inputs.dtype != self.dtype:
            raise InputError(f"inputs: {self._wrong_dtype(str(inputs.dtype))}")

    def taken(self, given: Input) -> Tensor:
        """One raw input, of `shape`.

        Raises
        ------
        DataError
            It is damaged or does not fit; a clause without its name.
        """
        if isinstance(given, str | Path):
            self._images_only()
            return self._fitting(
                decode(read_place(("file", str(given))), str(given), self.decoding)
            )
        if isinstance(given, Image.Image):
            self._images_only()
            return self._fitting(_of_image(given, self.decoding))
        array = given.numpy() if isinstance(given, Tensor) else np.asarray(given)
        if self.dtype is not None:
            self._check_kind(array.dtype)
        if array.shape == self.shape:
            return torch.from_numpy(array.copy()).to(self.dtype or torch.from_numpy(array).dtype)
        if self.images and not isinstance(given, Tensor) and _is_picture(array):
            return self._fitting(fitted_to(Image.fromarray(array), self.decoding))
        raise DataError(
            f"has shape {'x'.join(map(str, array.shape))}, the model takes {self.described()}"
        )

    def _images_only(self) -> None:
        if not self.images:
            raise DataError(f"is an image, the model takes {self.described()}; give arrays")

    def _fitting(self, rgb: NDArray[np.uint8]) -> Tensor:
        channels, height, width = self.shape
        if rgb.shape[1:] != (height, width):
            raise DataError(
                f"has {rgb.shape[2]}x{rgb.shape[1]} pixels, the model takes {width}x{height} and was "
                "trained on images of that size, which were not resized; resize it, or say how with "
                "resize = squash, crop or pad"
            )
        if channels == 3:
            return torch.from_numpy(np.ascontiguousarray(rgb))
        if (rgb != rgb[:1]).any():
            raise DataError("is in colour, the model takes grey images; convert it to grey")
        return torch.from_numpy(np.ascontiguousarray(rgb[:1]))

    def _check_kind(self, dtype: np.dtype[Any]) -> None:
        assert self.dtype is not None
        wanted = torch.empty(0, dtype=self.dtype)
        if self.dtype is torch.uint8:
            fits = dtype == np.uint8
        elif wanted.is_floating_point():
            fits = dtype.kind == "f"
        else:
            fits = dtype.kind in "iu"
        if not fits:
            raise DataError(self._wrong_dtype(str(dtype)))

    def _wrong_dtype(self, got: str) -> str:
        wanted = str(self.dtype).removeprefix("torch.")
        more = ", bytes from 0 to 255" if self.dtype is torch.uint8 else ""
        return f"expected {wanted}{more}, as in training, got {got.removeprefix('torch.')}"


def each_input(given: Input | Iterable[Input]) -> Iterator[tuple[str, Input]]:
    """The inputs one by one, each with its name; folders become the image files in them.

    Raises
    ------
    InputError
        It is neither a path, an image, an array nor several of them.
    """
    if isinstance(given, np.ndarray | Tensor) and given.ndim == 4:
        yield from ((f"input {i}", one) for i, one in enumerate(given))
        return
    if isinstance(given, str | Path | Image.Image | np.ndarray | Tensor):
        given = [given]
    if not isinstance(given, Iterable):
        raise InputError(
            f"predict: expected paths, PIL images or arrays, got {type(given).__name__}"
        )
    for i, one in enumerate(given):
        if isinstance(one, str | Path):
            yield from ((str(path), path) for path in _files(Path(one)))
        elif isinstance(one, Image.Image | np.ndarray | Tensor):
            yield f"input {i}", one
        else:
            raise InputError(
                f"predict: input {i}: expected a path, a PIL image or an array, got {type(one).__name__}"
            )


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    known = Image.registered_extensions()
    found = sorted(
        file
        for file in path.rglob("*")
        if file.suffix.lower() in {*known, ".dcm"}
        and not any(passed_over(part) for part in file.relative_to(path).parts)
    )
    if not found:
        raise InputError(f"predict: {path}: no images in this folder")
    return found


def _of_image(image: Image.Image, how: Decoding) -> NDArray[np.uint8]:
    try:
        return fitted_to(image, how)
    except BadImageError:
        raise
    # An image that was opened, not loaded, is decoded here, and decoders raise nearly anything.
    except Exception as exc:
        raise DataError(f"cannot be decoded ({in_one_line(exc)})") from None


def _is_picture(array: NDArray[Any]) -> bool:
    return array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)
