"""Decoded images on disk, mapped into memory: decoded once, shared by all processes."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import UInt8

from fedloge.data.images import channel_statistics

log = logging.getLogger(__name__)

# Part of every key: raise it when what stands in an entry changes.
FORMAT = 1
SPLITS = ("train", "test")


def cache_folder(configured: str = "") -> Path:
    """Where decoded archives are kept.

    `configured` where given, else $FEDLOGE_CACHE, else $XDG_CACHE_HOME/fedloge, else
    ~/.cache/fedloge. It need not exist.
    """
    if configured:
        return Path(configured).expanduser()
    if own := os.environ.get("FEDLOGE_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "fedloge"
