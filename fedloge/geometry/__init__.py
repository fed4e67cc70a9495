"""Class geometry: the fixed classifiers, and what features are measured against.

``from fedloge.geometry import collapse`` measures neural collapse of any torch network.
"""

from fedloge.geometry.collapse import Collapse, collapse
from fedloge.geometry.feature_sums import FeatureSums

__all__ = ["Collapse", "FeatureSums", "collapse"]
