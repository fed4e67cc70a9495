"""Faster local training for GPUs; never run on one yet."""
