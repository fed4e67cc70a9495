"""A preparation from its description, as an exported model keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedloge.data.examples import AsTheyAre, Preparation
from fedloge.data.image_preparation import ImagePreparation
from fedloge.errors import DataError


def preparation_of(described: Mapping[str, Any]) -> Preparation:
    """The preparation that `Preparation.described` described, without augmentation.

    Raises
    ------
    DataError
        It is of a kind that this version does not know: a plug-in's own, perhaps.
    """
    kind = described.get("kind")
    if kind == "image":
        return ImagePreparation(tuple(described["mean"]), tuple(described["std"]), "none")
    if kind == "as-they-are":
        return AsTheyAre()
    raise DataError(
        f"inputs were prepared by {kind!r}, which this version does not know; expected image or as-they-are"
    )
