"""Measurements side by side: what an engine costs beside the arithmetic it carries.

Everything is measured in one process, interleaved: case after case, then again from
the first. A figure that counts is a ratio of two cases, taken sample by sample, so
that what else the machine does falls on both. `fedloge bench` is the command.
"""
