"""Measuring models: each image through a backbone once, every head on its features."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedloge.data.images import Images
from fedloge.learning.metrics import (
    ShotGroups,
    accuracy,
    confusion_matrix,
    group_accuracy,
    macro_f1,
)
from fedloge.methods.method import EVALUATION_BATCH, Method, Network, Predictor

Extract = Callable[[Tensor], Tensor]


class FeatureBank:
    """Features of a fixed set of images under the newest shared backbone, each computed once.

    Images go through in fixed batches, whoever asks and for whichever of them, so
    that an image's features have the same bits in every process and engine.
    """

    def __init__(self, images: Images, prepare: Callable[[Tensor], Tensor]) -> None:
        self.images = images
        self._prepare = prepare
        self._version = ""
        self._chunks: dict[int, Tensor] = {}

    def features(
        self, version: str, extract: Extract, indices: Int[Tensor, " n"]
    ) -> Float[Tensor, "n features"]:
        """Features of the images at `indices` under the backbone of `version` (run, attempt, round)."""
        if version != self._version:
            self._version, self._chunks = version, {}
        for chunk in torch.unique(indices // EVALUATION_BATCH).tolist():
            if chunk not in self._chunks:
                self._chunks[chunk] = self._compute(chunk, extract)
        if not len(indices):
            return torch.empty(0, 0)
        width = next(iter(self._chunks.values())).shape[1]
        out = torch.empty(len(indices), width, device=self.images.pixels.device)
        of_chunk = indices // EVALUATION_BATCH
        for chunk in torch.unique(of_chunk).tolist():
            here = of_chunk == chunk
            out[here] = self._chunks[chunk][indices[here] - chunk * EVALUATION_BATCH]
        return out

    def fresh(self, extract: Extract, indices: Int[Tensor, " n"]) -> Float[Tensor, "n features"]:
        """Features under a backbone of the client's own: computed now, not kept."""
        parts = [
            self._prepare(self.images.pixels[part]) for part in indices.split(EVALUATION_BATCH)
        ]
        with torch.no_grad():
            return torch.cat([extract(x) for x in parts])

    def _compute(self, chunk: int, extract: Extract) -> Tensor:
        part = slice(chunk * EVALUATION_BATCH, (chunk + 1) * EVALUATION_BATCH)
        with torch.no_grad():
            return extract(self._prepare(self.images.pixels[part])).float()


def predictor_confusion(
    method: Method,
    net: Network,
    predictor: Predictor,
    bank: FeatureBank,
    version: str | None,
    indices: Int[Tensor, " n"],
) -> Int[Tensor, "classes classes"]:
    """Confusion matrix (rows: true classes) of one predictor on the bank's images at `indices`.

    `version` None: the backbone is this client's own, so its features are not shared.
    """
    extract = partial(getattr(method, predictor.extractor), net)
    if predictor.extractor == "features" and version is not None:
        features = bank.features(version, extract, indices)
    else:
        features = bank.fresh(extract, indices)
    return confusion_matrix(
        predictor.head.predict(features), bank.images.labels[indices], method.task.num_classes
    )


def client_figures(
    name: str, confusion: Int[Tensor, "classes classes"], groups: ShotGroups | None
) -> dict[str, float]:
    """What one client reports of one personal model; groups without a test image are left out."""
    figures = {
        "accuracy": accuracy(confusion),
        "macro-f1": macro_f1(confusion),
        **(group_accuracy(confusion, groups) if groups else {}),
    }
    return {f"personal/{name}/{key}": value for key, value in figures.items()}
