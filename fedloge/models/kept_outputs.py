"""The outputs of a frozen network, computed once for all runs and engines, mapped from disk.

They are found again by what they depend on: weights, cut, preprocessing, versions, kind of processor
and the inputs themselves. Batches have one size, the last one is filled up, so that an example's output
has the same bits in whatever company it is computed. An interrupted computation is taken up again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from fedloge.data.examples import Preparation
from fedloge.digest import digest
from fedloge.errors import ConfigError, RunError
from fedloge.models.pretrained import tensor_bytes

log = logging.getLogger(__name__)

BATCH = 64
"""Examples per forward pass."""
_FORMAT = 1
_DTYPES = {"float16": torch.float16, "float32": torch.float32}
_CHUNK = 4096
_LONG = 10.0
"""Seconds from which a computation is announced."""


@dataclass(frozen=True)
class Keeper:
    """Computes or finds the outputs of one frozen network.

    Parameters
    ----------
    frozen : from prepared inputs to what is kept; in evaluation mode, on `device`.
    name : the model's name and where it is cut, for the key.
    preparation : makes the network's input of raw ones.
    views : 1; or 2, of which the second is of the mirrored image.
    folder : the cache.
    """

    frozen: nn.Module
    name: str
    preparation: Preparation
    views: int
    folder: Path
    device: torch.device

    def outputs(
        self, inputs: Shaped[Tensor, "examples ..."]
    ) -> Float[Tensor, "examples views ..."]:
        """What is kept of each input, float16 if that holds it, mapped from disk.

        Raises
        ------
        ConfigError
            The network gives numbers that are not finite.
        RunError
            The cache cannot be written.
        """
        entry = self.folder / f"features-{self._key(inputs)}"
        with _only_one(entry):
            found = _open(entry)
            if found is None:
                self._compute(inputs, entry)
                found = _open(entry)
        if found is None:
            raise RunError(f"{entry} was just written and cannot be read; check the disk")
        return found

    def _key(self, inputs: Tensor) -> str:
        about = {
            "format": _FORMAT,
            "name": self.name,
            "preparation": self.preparation.described(),
            "views": self.views,
            "batch": BATCH,
            "device": self.device.type,
            "processor": torch.backends.cpu.get_cpu_capability(),
            "versions": {name: _version(name) for name in ("torch", "torchvision", "timm")},
            "shape": list(inputs.shape),
        }
        parts = [json.dumps(about, sort_keys=True).encode()]
        for name, tensor in self.frozen.state_dict().items():
            parts += [name.encode(), tensor_bytes(tensor)]
        parts += [tensor_bytes(chunk) for chunk in inputs.split(_CHUNK)]
        return digest(*parts)

    def _compute(self, inputs: Tensor, entry: Path) -> None:
        for dtype in _DTYPES:
            try:
                with _begun(entry, dtype) as file:
                    shape = self._write(inputs, file, dtype)
            except OverflowError:
                continue
            except OSError as exc:
                raise RunError(
                    f"{entry} cannot be written ({exc.strerror}); free space, or set cache-dir"
                ) from None
            about = {
                "format": _FORMAT,
                "dtype": dtype,
                "shape": [len(inputs), *shape],
                "name": self.name,
            }
            part = _partial(entry)
            (part / "manifest.json").write_text(json.dumps(about), encoding="utf-8")
            shutil.rmtree(entry, ignore_errors=True)  # a damaged one
            part.rename(entry)
            return
        raise ConfigError(f"model {self.name}: its weights give features that are not finite")

    @torch.no_grad()
    def _write(self, inputs: Tensor, file: IO[bytes], dtype: str) -> tuple[int, ...]:
        """Append the outputs of the inputs that the file has not yet; returns one output's shape."""
        shape = self._views_of(inputs[:1]).shape[1:]
        size = int(np.prod(shape)) * _DTYPES[dtype].itemsize
        done = file.tell() // size // BATCH * BATCH
        file.truncate(done * size)  # what is written goes to the end
        began, told = time.monotonic(), False
        for start in range(done, len(inputs), BATCH):
            kept = self._views_of(inputs[start : start + BATCH]).to(_DTYPES[dtype])
            if not bool(kept.isfinite().all()):
                raise OverflowError
            file.write(kept.contiguous().numpy().tobytes())
            ready = start + len(kept) - done
            left = (time.monotonic() - began) / ready * (len(inputs) - done - ready)
            if not told and left > _LONG:
                log.warning(
                    "the outputs of %s for %s examples are computed once, in about %.0f s, and kept in %s",
                    self.name,
                    f"{len(inputs):,}",
                    left,
                    self.folder,
                )
            told = True
        file.flush()
        os.fsync(file.fileno())
        return tuple(shape)

    def _views_of(self, inputs: Tensor) -> Tensor:
        """(examples, views, ...) on the CPU; an empty batch is computed as one example and cut off."""
        views = [inputs, inputs.flip(-1)][: self.views]
        return torch.stack([self._of_batch(view) for view in views], dim=1)

    def _of_batch(self, inputs: Tensor) -> Tensor:
        count = len(inputs)
        filled = torch.cat([inputs, inputs.new_zeros(BATCH - count, *inputs.shape[1:])])
        prepared = self.preparation.prepare(filled.to(self.device))
        outputs: Tensor = self.frozen(prepared)
        return outputs[:count].float().cpu()


def _open(entry: Path) -> Tensor | None:
    try:
        about = json.loads((entry / "manifest.json").read_text(encoding="utf-8"))
        shape, dtype = tuple(about["shape"]), about["dtype"]
        path = entry / f"values.{dtype}"
        if about["format"] != _FORMAT:
            return None
        if 0 in shape:
            return torch.empty(shape, dtype=_DTYPES[dtype])
        # Copy-on-write, because torch asks for writable memory but the file must never change.
        return torch.from_numpy(np.memmap(path, dtype=dtype, mode="c").reshape(shape))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _partial(entry: Path) -> Path:
    return entry.with_name(f"{entry.name}.partial")


@contextlib.contextmanager
def _begun(entry: Path, dtype: str) -> Iterator[IO[bytes]]:
    folder = _partial(entry)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"values.{dtype}").open("ab") as file:
        yield file
    for other in set(_DTYPES) - {dtype}:
        (folder / f"values.{other}").unlink(missing_ok=True)


@contextlib.contextmanager
def _only_one(entry: Path) -> Iterator[None]:
    """Other processes wait meanwhile: computing the same twice takes twice as long."""
    if os.name != "posix":
        yield
        return
    # Not there on Windows.
    import fcntl

    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        lock = entry.with_name(f"{entry.name}.lock").open("w")
    except OSError as exc:
        raise RunError(
            f"{entry.parent} cannot be written ({exc.strerror}); set cache-dir to a folder that can"
        ) from None
    with lock:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
