"""Class geometry: the fixed classifiers, and what features are measured against."""
