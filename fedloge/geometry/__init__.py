"""Class geometry: the fixed classifiers, and what features are measured against.

``from fedloge.geometry import collapse`` measures neural collapse of any torch network.
"""

from fedloge.geometry.collapse import Collapse, FeatureSums, collapse

__all__ = ["Collapse", "FeatureSums", "collapse"]
