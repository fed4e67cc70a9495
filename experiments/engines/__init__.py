"""Engines: each carries the messages of the same two apps."""
