"""Faster local training for GPUs, behind the config key ``fast``. It has never run on a GPU yet.

CUDA graphs (`graphs`) and several clients' networks stacked into one (`stacked`) are only tested
on a processor, where a plain call takes the place of a graph.
"""
