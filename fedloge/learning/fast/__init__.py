"""Faster local training for GPUs, behind the config key ``fast``. It has never run on a GPU yet.

CUDA graphs (`graphs`) and several clients' networks stacked into one (`stacked`) are tested on
a processor only, with a call in the graph's place.
"""
