"""What every backbone is."""

from __future__ import annotations

from torch import nn


class Backbone(nn.Module):
    """A module from inputs to features, (examples, ...) to (examples, d)."""

    out_features: int
    """d, the number of features."""
