"""Where fedloge keeps what it can make again, and what it has to remember, in the user's folders."""

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


def state_folder() -> Path:
    """The folder of what is remembered of this user's runs; it need not exist.

    $FEDLOGE_STATE, else $XDG_STATE_HOME/fedloge, else ~/.local/state/fedloge.
    """
    if own := os.environ.get("FEDLOGE_STATE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local/state") / "fedloge"
