"""A trained federation's model for a client that never took part in it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedloge.config import Config
from fedloge.data.examples import Examples, Preparation
from fedloge.data.images.file_tree import composed, passed_over
from fedloge.errors import DataError, InputError, unknown_name
from fedloge.federation.feature_bank import FeatureBank
from fedloge.federation.kept_inputs import ThroughFrozen
from fedloge.federation.new_clients import NewClient, can_personalize
from fedloge.learning.client_data import ClientData
from fedloge.learning.guesses import Guesses
from fedloge.learning.metrics import accuracy
from fedloge.methods.method import Method, Network, Part
from fedloge.models import parts_of_tensors
from fedloge.partition.held_out import hold_out
from fedloge.results import trained_model
from fedloge.results.export import described, opened
from fedloge.results.prediction import Taker
from fedloge.results.recorded_run import RecordedRun
from fedloge.results.trained_model import Model
from fedloge.rng import rng

_LISTED = 5
"""So many of the photos that cannot be read are named."""


@dataclass(frozen=True)
class Base:
    """What a new client is given: a federation's shared model, and how its method trains.

    Attributes
    ----------
    origin : which run it is of, for the manifest of what is made of it.
    data : classes and raw inputs, as an exported model's manifest says them.
    """

    config: Config
    method: Method[Any]
    net: Network
    shared: Mapping[str, Tensor]
    initial: Mapping[str, Tensor]
    whole: bool
    preparation: Preparation
    origin: Mapping[str, Any]
    data: Mapping[str, Any]

    @property
    def frozen(self) -> nn.Module | None:
        """What comes before the network, and is part of the preparation; None: nothing."""
        return self.preparation.frozen if isinstance(self.preparation, ThroughFrozen) else None

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in label order."""
        return list(self.data["classes"])


@dataclass(frozen=True)
class Personalized:
    """A new client's model, and what it is worth.

    Attributes
    ----------
    model : its own.
    guesses : of each stage (`fedloge.federation.new_clients.STAGES`), on its test images; empty without any.
    train, test : numbers of its images.
    held_out : whether the test images are a share of those in the folder, held out from training.
    classes : names of the classes that it has trained on.
    """

    model: Model
    guesses: Mapping[str, Guesses]
    train: int
    test: int
    held_out: bool
    classes: tuple[str, ...]
    packed: trained_model.Packed

    @property
    def figures(self) -> dict[str, dict[str, float]]:
        """Accuracy, and the figures of `Guesses.quality`, of each stage; in [0, 1]."""
        return {
            stage: {"accuracy": accuracy(said.tally), **said.quality()}
            for stage, said in self.guesses.items()
        }

    def write(self, folder: Path) -> None:
        """Write the model into a new folder, as an export; errors as in `trained_model.write`."""
        trained_model.write(folder, self.packed)


def base_of(path: Path, *, allow_plugins: bool = False) -> Base:
    """The base of a run, or of its exported global model; neither is written to.

    `allow_plugins` is as for `trained_model.load` and `open_run`.

    Raises
    ------
    InputError
        It is neither, or a personal model.
    """
    if (path / trained_model.MANIFEST).is_file():
        return _of_export(trained_model.load(path, allow_plugins=allow_plugins))
    return base_of_run(RecordedRun.open(path, allow_plugins=allow_plugins))


def personalize(
    base: Base,
    train: Examples | Path,
    test: Examples | None = None,
    *,
    rounds: int = 1,
    test_share: float = 0.2,
) -> Personalized:
    """Give a client that never took part its own model; see `fedloge.federation.new_clients`.

    Parameters
    ----------
    train : its examples, raw; or a folder of photos, ``<class>/*`` or ``train/<class>/*``, and then
        ``test/<class>/*`` where it has test images. Classes may be missing.
    test : its test examples, where `train` is not a folder.
    rounds : how often the local step is done.
    test_share : where there are no test examples, hold out this share of the others, of each class alike;
        0: measure nothing.

    Raises
    ------
    InputError
        The method has no personal models, an argument is out of range, or an unknown class.
    DataError
        There is nothing to train on, or photos cannot be read.
    """
    _check(base, rounds, test_share)
    if isinstance(train, Path):
        train, test = _from_folder(train, base)
    held_out = test is None and test_share > 0
    if test is None:
        train, test = _divided(train, test_share if held_out else 0.0, base.config.seed)
    if not len(train):
        raise DataError("personalize: there is no image to train on; expected <class>/<image>")
    data = _client_data(base, train)
    new = NewClient(base.method, base.net, base.shared, base.initial, base.whole, data)
    guesses, predictor = {}, None
    bank = FeatureBank(test.to(data.train.device), base.preparation.prepare)
    for stage, predictor in new.stages(rounds):
        if len(test):
            guesses[stage] = new.guesses(bank, predictor)
    assert predictor is not None
    origin = {
        **base.origin,
        "model": f"personal/{base.method.primary_personal}",
        "client": "new",
        "rounds-trained": rounds,
    }
    packed = trained_model.pack(base.config, base.data, base.net, predictor, origin, base.frozen)
    return Personalized(
        model=trained_model.unpack(packed),
        guesses=guesses,
        train=len(train),
        test=len(test),
        held_out=held_out,
        classes=tuple(name for name, n in zip(base.classes, data.counts, strict=True) if n),
        packed=packed,
    )


def _client_data(base: Base, train: Examples) -> ClientData:
    device = next(base.net.parameters()).device
    return ClientData(
        client=base.config.num_clients,
        round=base.origin["round"] + 1,
        config=base.config,
        train=train.to(device),
        counts=torch.bincount(train.classes, minlength=len(base.classes)).to(device),
        preparation=base.preparation,
        received=base.shared,
    )


def _check(base: Base, rounds: int, test_share: float) -> None:
    name = base.method.name
    if not can_personalize(base.method):
        raise InputError(
            f"personalize: method {name!r} has no personal models; a new client uses the global model"
        )
    if rounds < 1:
        raise InputError(f"rounds: expected 1 or more, got {rounds}")
    if rounds > 1 and not base.initial:
        raise InputError(
            f"rounds: method {name!r} keeps nothing at a client between rounds, its personal model is the "
            f"global one tuned for method-options.tune-epochs; got {rounds}, leave it out"
        )
    if not 0 <= test_share < 1:
        raise InputError(f"test-share: expected 0 or more and less than 1, got {test_share:g}")


def base_of_run(run: RecordedRun) -> Base:
    """The base of a run's newest checkpoint; `CheckpointError` if that is missing or damaged."""
    federation, checkpoint = opened(run)
    origin = {
        "run-id": run.info["run-id"],
        "fingerprint": run.info["fingerprint"],
        "round": checkpoint.round,
    }
    return Base(
        config=federation.config,
        method=federation.method,
        net=federation.net,
        shared=checkpoint.shared,
        initial=federation.initial[Part.PERSONAL],
        whole=federation.has_global_network,
        preparation=federation.whole_preparation,
        origin=origin,
        data=described(federation),
    )


def _of_export(model: Model) -> Base:
    manifest = model.manifest
    if not str(manifest["model"]).startswith("global/"):
        raise InputError(
            f"personalize: {manifest['model']} is a client's own model; give the run, or its global model"
        )
    if "augmentation" not in manifest:
        raise InputError(
            "personalize: this export, of an earlier version, does not say how training augments; export anew"
        )
    preparation = model.preparation
    if manifest["augmentation"] != "none":
        preparation = dataclasses.replace(preparation, augmentation=manifest["augmentation"])  # type: ignore[type-var]
    parts = parts_of_tensors(model.net, model.method.parts, model.config.norm_sharing)
    state = {name: tensor.clone() for name, tensor in model.net.state_dict().items()}
    # Trained anew, in a network that is not the given model's.
    net = model.method.build()
    net.load_state_dict(state)
    return Base(
        config=model.config,
        method=model.method,
        net=net.to(memory_format=torch.channels_last),
        shared={name: state[name] for name, part in parts.items() if part is Part.SHARED},
        initial={name: state[name] for name, part in parts.items() if part is Part.PERSONAL},
        whole=True,
        preparation=preparation,
        origin={key: manifest[key] for key in ("run-id", "fingerprint", "round")},
        data=trained_model.of_data(manifest),
    )


def _divided(train: Examples, share: float, seed: int) -> tuple[Examples, Examples]:
    labels = train.classes.cpu().numpy()
    everything = np.arange(len(labels))
    kept, out = hold_out(everything, labels, share, rng(seed, "personalize-test"))
    return train.take(kept), train.take(out)


def _from_folder(folder: Path, base: Base) -> tuple[Examples, Examples | None]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected <class>/<image> in it")
    taker = trained_model.taker({**base.data, "config": base.config.nested()})
    if not (folder / "train").is_dir():
        return _examples(folder, base, taker), None
    test = folder / "test"
    train = _examples(folder / "train", base, taker)
    return train, _examples(test, base, taker) if test.is_dir() else None


def _examples(folder: Path, base: Base, taker: Taker) -> Examples:
    inputs, labels, bad = [], [], []
    for place in filter(Path.is_dir, _visible(folder)):
        label = composed(place.name)
        if label not in base.classes:
            raise InputError(f"{folder}: {unknown_name('class', label, base.classes)}")
        for file in _visible(place):
            try:
                inputs.append(taker.taken(file))
                labels.append(base.classes.index(label))
            except DataError as exc:
                bad.append(f"{file} {exc}")
    if bad:
        more = f" and {len(bad) - _LISTED} more" if len(bad) > _LISTED else ""
        raise DataError(
            f"{folder}: {len(bad)} of {len(bad) + len(inputs)} images cannot be used: "
            f"{'; '.join(bad[:_LISTED])}{more}; mend or remove them"
        )
    empty = torch.empty(0, *taker.shape, dtype=taker.dtype or torch.uint8)
    return Examples(torch.stack(inputs) if inputs else empty, torch.tensor(labels).long())


def _visible(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not passed_over(entry.name))
