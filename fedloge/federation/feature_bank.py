"""Features of the test examples, each computed once for all heads that use the shared backbone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedloge.data.examples import Examples
from fedloge.learning.client_data import EVALUATION_BATCH

Extract = Callable[[Tensor], Tensor]


class FeatureBank:
    """Features of a fixed set of examples under the newest shared backbone, each computed once.

    The batches are always the same, whichever examples are asked for. So an example's
    features have the same bits in every process and engine.

    Parameters
    ----------
    prepare : makes the network's input of raw examples.
    """

    def __init__(self, examples: Examples, prepare: Callable[[Tensor], Tensor]) -> None:
        self.examples = examples
        self._prepare = prepare
        self._version = ""
        self._chunks: dict[int, Tensor] = {}

    def features(
        self, version: str, extract: Extract, indices: Int[Tensor, " n"]
    ) -> Float[Tensor, "n features"]:
        """Features of the examples at `indices` under the backbone that `extract` uses.

        `version` names its tensors (run, attempt and round); a new one drops the kept features.
        """
        if version != self._version:
            self._version, self._chunks = version, {}
        for chunk in torch.unique(indices // EVALUATION_BATCH).tolist():
            if chunk not in self._chunks:
                self._chunks[chunk] = self._compute(chunk, extract)
        if not len(indices):
            return torch.empty(0, 0)
        width = next(iter(self._chunks.values())).shape[1]
        out = torch.empty(len(indices), width, device=self.examples.device)
        of_chunk = indices // EVALUATION_BATCH
        for chunk in torch.unique(of_chunk).tolist():
            here = of_chunk == chunk
            out[here] = self._chunks[chunk][indices[here] - chunk * EVALUATION_BATCH]
        return out

    def fresh(self, extract: Extract, indices: Int[Tensor, " n"]) -> Float[Tensor, "n features"]:
        """Features under a client's own backbone; they are not kept."""
        parts = [
            self._prepare(self.examples.inputs[part]) for part in indices.split(EVALUATION_BATCH)
        ]
        with torch.no_grad():
            return torch.cat([extract(x) for x in parts])

    def _compute(self, chunk: int, extract: Extract) -> Tensor:
        part = slice(chunk * EVALUATION_BATCH, (chunk + 1) * EVALUATION_BATCH)
        with torch.no_grad():
            return extract(self._prepare(self.examples.inputs[part])).float()
