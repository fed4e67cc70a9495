"""What every backbone is."""

from __future__ import annotations

from torch import nn


class Backbone(nn.Module):
    """A module from images to features, (samples, channels, height, width) to (samples, d)."""

    out_features: int
    """d, the number of features."""
