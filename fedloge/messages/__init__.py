"""Tensors and Flower's records, the protocol of a run, and the exact average."""
