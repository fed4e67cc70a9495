"""Clients' personal models between the two passes of an evaluation, as long as they are small."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from fedloge.models.head import LinearHead, Predictor

MOST_NUMBERS = 2**24
"""Numbers that are kept in all: 64 MiB of float32. What does not fit is made again."""


class PersonalModels:
    """Heads on the shared features, kept in this process under the newest version of the shared tensors.

    Models that read a client's own features are not kept: they need the client's own network.
    """

    def __init__(self) -> None:
        self._version, self._numbers = "", 0
        self._of: dict[int, dict[str, Predictor]] = {}

    def get(self, version: str, client: int) -> dict[str, Predictor] | None:
        """What was put for this client under this version; None if nothing was, or it was not kept."""
        return self._of.get(client) if version == self._version else None

    def put(self, version: str, client: int, models: Mapping[str, Predictor]) -> None:
        """Keep copies of a client's models, since theirs may be the network's own memory."""
        if version != self._version:
            self._version, self._numbers, self._of = version, 0, {}
        size = sum(model.head.weight.numel() for model in models.values())
        own = any(model.extractor != "features" for model in models.values())
        if own or self._numbers + size > MOST_NUMBERS:
            return
        self._numbers += size
        self._of[client] = {name: Predictor(_copy(m.head)) for name, m in models.items()}


def _copy(head: LinearHead) -> LinearHead:
    parts = (head.weight, head.bias, head.mask)
    weight, bias, mask = (None if part is None else _cloned(part) for part in parts)
    assert weight is not None
    return LinearHead(weight, bias, mask)


def _cloned(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()
