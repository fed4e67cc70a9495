"""What a trained model of a run gets wrong: by class, by pairs of classes, and image by image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from numpy.typing import NDArray
from torch import Tensor

from fedloge.errors import InputError
from fedloge.federation import Federation
from fedloge.federation.evaluation import predictor_guesses
from fedloge.learning.guesses import Guesses
from fedloge.learning.metrics import accuracy
from fedloge.learning.ranking import auroc
from fedloge.results.export import Chosen, chosen_client, chosen_global
from fedloge.results.recorded_run import RecordedRun


@dataclass(frozen=True)
class Mistake:
    """One image that is taken for another class.

    Attributes
    ----------
    source : where the image came from, as far as the data set says.
    true, guess : class names.
    confidence, of_true : probabilities of the guess and of the true class.
    picture : its bytes, (channels, height, width), as the model was given them; None if it is no image.
    """

    source: str
    true: str
    guess: str
    confidence: float
    of_true: float
    picture: NDArray[np.uint8] | None


@dataclass(frozen=True)
class ClassFigures:
    """One class; figures in [0, 1], NaN where not defined.

    Attributes
    ----------
    train, test : images to train on, of this client or of the federation, and to test on.
    right : of the test images.
    taken_for : the class that its images are most often taken for, and how often; ("", 0) if never.
    """

    name: str
    train: int
    test: int
    right: int
    sensitivity: float
    precision: float
    f1: float
    auroc: float
    taken_for: tuple[str, int]


@dataclass(frozen=True)
class Mistakes:
    """What one model gets wrong.

    Attributes
    ----------
    model : its name in the metrics, such as ``personal/realigned``.
    client : whose it is; None: the global one.
    round : of the newest checkpoint.
    guesses : on the test images of its owner.
    by_class : in label order.
    worst : the most confident mistakes, the most confident first.
    """

    run: str
    model: str
    client: int | None
    round: int
    guesses: Guesses
    by_class: Sequence[ClassFigures]
    worst: Sequence[Mistake]

    @property
    def classes(self) -> list[str]:
        """Class names in label order."""
        return [one.name for one in self.by_class]

    @property
    def confusion(self) -> Int64[np.ndarray, "classes classes"]:
        """Test images by true class (row) and guess (column)."""
        counted: NDArray[np.int64] = self.guesses.confusion.numpy()
        return counted

    @property
    def figures(self) -> dict[str, float]:
        """Accuracy, and those of `Guesses.quality`."""
        return {"accuracy": accuracy(self.guesses.tally), **self.guesses.quality()}

    @property
    def wrong(self) -> int:
        """Number of test images that are taken for another class."""
        return int(self.confusion.sum() - self.confusion.trace())

    def pairs(self, most: int) -> list[tuple[str, str, int]]:
        """(true class, guess, images) of the most frequent confusions."""
        off = self.confusion - np.diag(self.confusion.diagonal())
        order = np.argsort(-off, axis=None, kind="stable")[:most]
        places = (np.unravel_index(int(at), off.shape) for at in order)
        return [
            (self.classes[row], self.classes[column], int(off[row, column]))
            for row, column in places
            if off[row, column]
        ]

    def described(self) -> dict[str, Any]:
        """All but the pictures, as JSON values."""
        known = {
            "class": "name",
            "train-images": "train",
            "test-images": "test",
            "right": "right",
            "sensitivity": "sensitivity",
            "precision": "precision",
            "f1": "f1",
            "auroc": "auroc",
        }
        return {
            "run": self.run,
            "model": self.model,
            "client": self.client,
            "round": self.round,
            "test-images": len(self.guesses),
            "wrong": self.wrong,
            **self.figures,
            "classes": [
                {key: _json(getattr(one, name)) for key, name in known.items()}
                for one in self.by_class
            ],
            "confusion": self.confusion.tolist(),
            "worst": [
                {
                    "source": one.source,
                    "true": one.true,
                    "guess": one.guess,
                    "confidence": one.confidence,
                    "of-true": one.of_true,
                }
                for one in self.worst
            ],
        }


def find_mistakes(
    run: RecordedRun,
    client: int | None = None,
    predictor: str = "",
    *,
    most: int = 48,
    state_dir: Path | None = None,
    data_path: str = "",
) -> Mistakes:
    """The mistakes of the global model on the server's test images, or of a client's own model on its own.

    Parameters
    ----------
    most : at most so many mistakes are kept one by one.

    Others, and errors, are those of `export_client`.

    Raises
    ------
    InputError
        There are no test images to make mistakes on, or a parameter of `export_client` is wrong.
    """
    if client is None:
        chosen = chosen_global(run, predictor)
        test = chosen.federation.global_test.cpu()
    else:
        chosen = chosen_client(run, client, predictor, state_dir, data_path)
        test = torch.from_numpy(chosen.federation.partition.test[client])
    if not len(test):
        whose = "the server" if client is None else f"client {client}"
        raise InputError(f"mistakes: {whose} has no test images, so no mistake is known")
    fed = chosen.federation
    indices = test.to(fed.device)
    guesses = predictor_guesses(fed.method, fed.net, chosen.predictor, fed.bank, None, indices)
    guesses = Guesses(guesses.logits.cpu(), guesses.labels.cpu())
    own = fed.partition.training_counts if client is None else fed.partition.train_counts[client]
    return Mistakes(
        run=run.name,
        model=chosen.origin["model"],
        client=client,
        round=chosen.origin["round"],
        guesses=guesses,
        by_class=_by_class(fed, guesses, own),
        worst=_worst(chosen, guesses, test, most),
    )


def _by_class(fed: Federation, guesses: Guesses, train: NDArray[np.int64]) -> list[ClassFigures]:
    names, confusion = fed.data.classes, guesses.confusion
    right, true, said = confusion.diagonal(), confusion.sum(dim=1), confusion.sum(dim=0)
    areas = auroc(guesses.probabilities, guesses.labels)
    others = confusion - torch.diag(right)
    found = []
    for c, name in enumerate(names):
        guess = int(others[c].argmax())
        often = int(others[c, guess])
        found.append(
            ClassFigures(
                name=name,
                train=int(train[c]),
                test=int(true[c]),
                right=int(right[c]),
                sensitivity=_share(right[c], true[c]),
                precision=_share(right[c], said[c]),
                f1=_share(2 * right[c], true[c] + said[c]),
                auroc=float(areas[c]),
                taken_for=(names[guess], often) if often else ("", 0),
            )
        )
    return found


def _worst(chosen: Chosen, guesses: Guesses, test: Tensor, most: int) -> list[Mistake]:
    fed, probabilities = chosen.federation, guesses.probabilities
    confidence = probabilities.gather(1, guesses.first[:, None])[:, 0]
    wrong = (guesses.first != guesses.labels).nonzero()[:, 0]
    order = wrong[confidence[wrong].argsort(descending=True, stable=True)][:most]
    names = fed.data.classes
    found = []
    for at in order.tolist():
        place, true = int(test[at]), int(guesses.labels[at])
        raw = fed.raw_test_input(place)
        found.append(
            Mistake(
                source=_source(fed, place),
                true=names[true],
                guess=names[int(guesses.first[at])],
                confidence=float(confidence[at]),
                of_true=float(probabilities[at, true]),
                picture=raw.numpy() if _is_picture(raw) else None,
            )
        )
    return found


def _source(fed: Federation, place: int) -> str:
    """Where a test image came from; behind those of the test set are the clients' own."""
    given = len(fed.data.test)
    if place < given:
        manifest, row = fed.data.test_manifest, place
    else:
        manifest, row = fed.train_manifest, int(fed.partition.own_test[place - given])
    known = manifest is not None and "path" in manifest
    return str(manifest.column("path")[row]) if manifest and known else f"test image {place}"


def _is_picture(raw: Tensor) -> bool:
    return raw.dtype is torch.uint8 and raw.ndim == 3 and raw.shape[0] in (1, 3)


def _share(part: Tensor, whole: Tensor) -> float:
    return float(part) / float(whole) if whole else math.nan


def _json(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
