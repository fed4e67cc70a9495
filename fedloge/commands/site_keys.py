"""A site's own key for secure aggregation, made at the site."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from fedloge.errors import InputError


def make_masking_key(out: Path, client: int) -> str:
    """Write a new private key, for its owner alone to read; returns the line by which the others know it.

    Raises
    ------
    InputError
        The file exists already, or cannot be written.
    """
    key = X25519PrivateKey.generate()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as f:
            f.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    except FileExistsError:
        raise InputError(
            f"{out} exists already and keys are not overwritten; move it away to make another, and send the "
            "new line to all sites"
        ) from None
    except OSError as exc:
        raise InputError(
            f"{out} cannot be written ({exc.strerror}); name another file with --out"
        ) from None
    return f'{client} = "{key.public_key().public_bytes_raw().hex()}"'
