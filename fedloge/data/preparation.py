"""From a description, as an exported model keeps it, back to a preparation of inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedloge.data.examples import AsTheyAre, Preparation
from fedloge.data.fitted_images import FittedImages, standard_of
from fedloge.data.image_preparation import ImagePreparation
from fedloge.errors import DataError


def preparation_of(described: Mapping[str, Any]) -> Preparation:
    """The preparation that `Preparation.described` has described, without augmentation.

    Raises
    ------
    DataError
        This version does not know the kind of preparation; perhaps it is a plug-in's own.
    """
    kind = described.get("kind")
    if kind == "image":
        return ImagePreparation(tuple(described["mean"]), tuple(described["std"]), "none")
    if kind == "fitted-image":
        return FittedImages(standard_of(described), "none")
    if kind == "as-they-are":
        return AsTheyAre()
    raise DataError(
        f"inputs were prepared by {kind!r}, which this version does not know; expected image, "
        "fitted-image or as-they-are"
    )
