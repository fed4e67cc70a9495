"""Federated learning on long-tailed classes: the science."""
