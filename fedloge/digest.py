"""The hash by which fedloge names content: configs, matrices, cached files."""

from __future__ import annotations

import hashlib


def digest(*parts: bytes) -> str:
    """SHA-256 of the parts, each length-prefixed, shortened to 16 hexadecimal digits."""
    h = hashlib.sha256()
    for part in parts:
        h.update(len(part).to_bytes(8, "little"))
        h.update(part)
    return h.hexdigest()[:16]
