"""What every backbone is."""

from __future__ import annotations

from torch import nn


class Backbone(nn.Module):
    """A module that turns inputs into features: (examples, ...) to (examples, d), float."""

    out_features: int
    """d, the number of features."""
