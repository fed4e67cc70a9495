"""Where fedloge keeps what it can make again, in the user's folders."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(configured: str = "") -> Path:
    """The folder for downloads, decoded images and fixed classifiers; it need not exist.

    `configured` (the key ``cache-dir``) if given, else $FEDLOGE_CACHE, else
    $XDG_CACHE_HOME/fedloge, else ~/.cache/fedloge.
    """
    if configured:
        return Path(configured).expanduser()
    if own := os.environ.get("FEDLOGE_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "fedloge"
