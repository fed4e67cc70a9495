"""A trained model by itself: weights as safetensors, a manifest, and `load`.

>>> model = load("exported/")                       # doctest: +SKIP
>>> model.predict("photo.jpg")[0].label             # doctest: +SKIP
>>> logits = model(images)                          # doctest: +SKIP
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Shaped
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from fedloge import config as configs
from fedloge.config import Config
from fedloge.data import preparation_of
from fedloge.data.images.decoding import Decoding
from fedloge.data.sources import decoding_of
from fedloge.digest import digest
from fedloge.errors import DataError, InputError, RunError
from fedloge.federation.kept_inputs import ThroughFrozen
from fedloge.federation.starting_backbone import StartingBackbone
from fedloge.learning.client_data import EVALUATION_BATCH
from fedloge.methods import make_method
from fedloge.methods.method import Method, Network, Predictor, Task
from fedloge.models.head import LinearHead
from fedloge.plugins import plugins
from fedloge.results.prediction import Input, Prediction, Taker, each_input

FORMAT = 2
WEIGHTS, MANIFEST = "weights.safetensors", "manifest.json"
_OF_MODEL = {"format", "model", "client", "rounds-trained", "run-id", "fingerprint", "round"}
_OF_MODEL |= {"extractor", "config", "weights"}


class Packed(NamedTuple):
    """A model as it is written: a manifest of what it is and where it comes from, and its weights."""

    manifest: dict[str, Any]
    weights: bytes


class Model(nn.Module):
    """From images to logits: preparation, what is frozen, the method's features, one linear head.

    Attributes
    ----------
    classes : names of the classes, in the order of the logits.
    manifest : which model it is, of which run and round, and the run's configuration.
    takes : shape and type of raw inputs, and how photos become such.
    method, config, preparation : of the run.
    """

    def __init__(
        self,
        method: Method[Any],
        net: Network,
        predictor: Predictor,
        manifest: dict[str, Any],
        frozen: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.frozen = frozen
        self.net = net.to(memory_format=torch.channels_last)
        self.manifest = manifest
        self.config: Config = method.config
        self.classes: list[str] = manifest["classes"]
        self.method, self._predictor = method, predictor
        preparation = preparation_of(manifest["preparation"])
        self.preparation = preparation if frozen is None else ThroughFrozen(preparation, frozen)
        self.takes = taker(manifest)
        self.requires_grad_(False).eval()

    def forward(self, inputs: Shaped[Tensor, "batch ..."]) -> Float[Tensor, "batch classes"]:
        """Logits of raw inputs of the shape and dtype that the model was trained on, such as uint8 images.

        `InputError`: they are of another shape or dtype.
        """
        self.takes.check(inputs)
        x = self.preparation.prepare(inputs)
        features = getattr(self.method, self._predictor.extractor)(self.net, x)
        return self._predictor.head.logits(features)

    @property
    def predicted_classes(self) -> list[str]:
        """The classes that it may predict; a personal model may know those of its client alone."""
        mask = self._predictor.head.mask
        allowed = [True] * len(self.classes) if mask is None else (mask > -torch.inf).tolist()
        return [name for name, may in zip(self.classes, allowed, strict=True) if may]

    @torch.no_grad()
    def predict(
        self, inputs: Input | Iterable[Input], *, top: int = 5, resize: str = ""
    ) -> list[Prediction]:
        """Class names and probabilities of photos or arrays, prepared as in training.

        An input that is damaged or does not fit gets a `Prediction` with a `problem`; the others are
        predicted.

        Parameters
        ----------
        inputs : paths of photos or of folders of them, PIL images, arrays, or one of these. An array is a
            picture (height, width[, 3]) of bytes, or a raw input of the training's own shape and type;
            one of four dimensions is a batch.
        top : at most so many classes of each, 1 or more.
        resize : ``squash``, ``crop`` or ``pad``: how photos of any size are resized for a model whose
            training did not resize.

        Raises
        ------
        InputError
            `inputs`, `top` or `resize` is nothing of that kind, or a folder holds no images.
        """
        if top < 1:
            raise InputError(f"top: expected 1 or more, got {top}")
        takes, found = self.takes.with_resize(resize), list[Prediction]()
        given_one_by_one = each_input(inputs)
        while batch := list(itertools.islice(given_one_by_one, EVALUATION_BATCH)):
            raw: list[Tensor | str] = []
            for source, given in batch:
                try:
                    raw.append(takes.taken(given))
                except DataError as exc:
                    raw.append(f"{source}: {exc}")
            fitting = [one for one in raw if isinstance(one, Tensor)]
            rows = iter(self(torch.stack(fitting)).cpu()) if fitting else iter(())
            for (source, _), one in zip(batch, raw, strict=True):
                found.append(
                    Prediction(source, problem=one)
                    if isinstance(one, str)
                    else Prediction.of(source, next(rows), self.classes, top)
                )
        return found


def of_data(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What a manifest says of the data set, as `pack` was given it."""
    return {key: value for key, value in manifest.items() if key not in _OF_MODEL}


def taker(manifest: Mapping[str, Any]) -> Taker:
    """What the model of a manifest takes."""
    # Exports of earlier versions say neither; then the configuration and the preparation do.
    said = manifest.get("decoding")
    config = configs.from_flat(manifest["config"], MANIFEST)
    how = decoding_of(config) if said is None else Decoding(**said)
    of_images = manifest["preparation"].get("kind") == "image"
    dtype = manifest.get("input-dtype", "uint8" if of_images else "")
    return Taker(tuple(manifest["input-shape"]), getattr(torch, dtype) if dtype else None, how)


def pack(
    config: Config,
    data: Mapping[str, Any],
    net: Network,
    predictor: Predictor,
    origin: Mapping[str, Any],
    frozen: nn.Module | None = None,
) -> Packed:
    """Pack a model for writing; later changes to `net` do not change it.

    Parameters
    ----------
    data : ``classes``, ``input-shape``, ``network-shape``, ``input-dtype``, ``decoding`` and
        ``preparation`` of the data set.
    frozen : what comes before `net`; None: nothing.
    origin : which model it is and from which run, for the manifest.
    """
    head = {
        "head.weight": predictor.head.weight,
        "head.bias": predictor.head.bias,
        "head.mask": predictor.head.mask,
    }
    tensors = {f"net.{name}": t for name, t in net.state_dict().items()}
    tensors |= {name: t for name, t in head.items() if t is not None}
    if frozen is not None:
        tensors |= {f"frozen.{name}": t for name, t in frozen.state_dict().items()}
    # Cloned, since a head is often also part of the network, and safetensors refuses shared memory.
    weights = to_bytes({k: v.detach().cpu().clone().contiguous() for k, v in tensors.items()})
    manifest = {
        "format": FORMAT,
        **origin,
        **data,
        "extractor": predictor.extractor,
        "config": config.nested(),
        "weights": digest(weights),
    }
    return Packed(manifest, weights)


def unpack(packed: Packed) -> Model:
    """The packed model, on the CPU, in evaluation mode."""
    manifest = packed.manifest
    tensors = from_bytes(packed.weights)
    config = configs.from_flat(manifest["config"], MANIFEST)
    classes = len(manifest["classes"])
    # Not in the manifests of earlier versions, where prepared inputs had the shape of raw ones.
    shape = tuple(manifest.get("network-shape", manifest["input-shape"]))

    start = StartingBackbone(config, shape)
    method = make_method(Task(config, classes, start.new, start.trained_shape))
    net = method.build()
    net.load_state_dict(_within(tensors, "net."))
    if start.frozen is not None:
        start.frozen.load_state_dict(_within(tensors, "frozen."))
    head = LinearHead(tensors["head.weight"], tensors.get("head.bias"), tensors.get("head.mask"))
    return Model(method, net, Predictor(head, manifest["extractor"]), manifest, start.frozen)


def _within(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}


def write(folder: Path, packed: Packed) -> None:
    """Write a model into a new folder.

    Raises
    ------
    InputError
        The folder exists.
    RunError
        The disk refused; nothing is left of the folder.
    """
    if folder.exists():
        raise InputError(f"{folder} exists already; export to a new folder")
    try:
        folder.mkdir(parents=True)
        (folder / WEIGHTS).write_bytes(packed.weights)
        (folder / MANIFEST).write_text(json.dumps(packed.manifest, indent=1), encoding="utf-8")
    except OSError as exc:
        shutil.rmtree(folder, ignore_errors=True)
        raise RunError(
            f"{folder} cannot be written ({exc.strerror}); free space or choose another folder"
        ) from None


def load(folder: str | Path, *, allow_plugins: bool = False) -> Model:
    """Load an exported model, on the CPU, in evaluation mode.

    Parameters
    ----------
    allow_plugins : whether a method or model that is not fedloge's own may be loaded, which
        executes its code. A manifest may name any file of this machine.

    Raises
    ------
    PluginError
        It needs a plug-in, and none is allowed.
    DataError
        The folder holds no exported model, or a damaged one.
    """
    folder = Path(folder)
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
        written, expected = manifest["format"], manifest["weights"]
        weights = (folder / WEIGHTS).read_bytes()
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise DataError(
            f"{folder} holds no exported model ({type(exc).__name__}: {exc}); make one with 'fedloge export'"
        ) from None
    if written != FORMAT:
        raise DataError(
            f"{folder / MANIFEST} has format {written!r}, this version reads {FORMAT}; upgrade fedloge"
        )
    if digest(weights) != expected:
        raise DataError(
            f"{folder / WEIGHTS} is damaged: {len(weights)} bytes that do not match its manifest; "
            "export the model again"
        )
    with plugins(allowed=allow_plugins):
        return unpack(Packed(manifest, weights))
