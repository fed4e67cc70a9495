"""Folders of the user's that fedloge keeps things in."""

from __future__ import annotations

import os
from pathlib import Path


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
