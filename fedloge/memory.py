"""Memory that a process frees stays with it: the next step wants the same again."""

from __future__ import annotations

import ctypes
from functools import cache

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
_MIB = 2**20


@cache
def keep_freed_memory() -> bool:
    """Tell glibc to keep up to 256 MiB of freed memory; whether there is a glibc to tell.

    By default it gives every large block back to the system when it is freed, and the system
    clears each page again when it comes back: a third of the time of a forward pass over 256
    images, a tenth of a training step. No result changes.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    kept = mallopt(_M_TRIM_THRESHOLD, 256 * _MIB)
    # Older versions take 32 MiB at most for the size from which a block is mapped by itself.
    return bool(kept and any(mallopt(_M_MMAP_THRESHOLD, size * _MIB) for size in (64, 32)))
