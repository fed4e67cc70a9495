"""The key with which a client masks, and the public keys of the others.

A site makes its own key (``fedloge site-key``), which never leaves it. The sites' public keys are
brought together out of band, and pinned at each site: a server can name no client that the sites do
not know.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from fedloge.errors import UpdateError

KEY = "masking-key"
PEERS = "peers"
_KEY_BYTES = 32


@dataclass(frozen=True)
class MaskingKeys:
    """A client's private key, and all clients' public ones (32 bytes) by partition id."""

    private: X25519PrivateKey
    public: Mapping[int, bytes]


def site_keys(node_config: Mapping[str, Any], state: Path, me: int) -> MaskingKeys:
    """The keys of a site, never those of a simulation, which everybody can compute.

    They are ``masking.key`` and ``peers.toml`` in its state folder, or where its node config says
    (``masking-key``, ``peers``).

    Raises
    ------
    UpdateError
        The site has no key, or not the one by which the others know it.
    """
    private = _private(Path(str(node_config.get(KEY, state / "masking.key"))).expanduser())
    public = read_peers(Path(str(node_config.get(PEERS, state / "peers.toml"))).expanduser())
    own = private.public_key().public_bytes_raw()
    if public.get(me) != own:
        known = public[me].hex() if me in public else "none"
        raise UpdateError(
            f"client {me}: its masking key is {own.hex()}, the list of peers says {known}; bring the list "
            "up to date at all sites"
        )
    return MaskingKeys(private, public)


def simulated_keys(seed: int, clients: int, me: int) -> MaskingKeys:
    """The keys of a simulated client, NOT SECRET: see `simulated_key`."""
    return MaskingKeys(simulated_key(seed, me), _simulated_public(seed, clients))


@lru_cache(maxsize=4096)
def simulated_key(seed: int, client: int) -> X25519PrivateKey:
    """The key of a simulated client. It is NOT SECRET: whoever knows the run's seed can compute it."""
    text = f"fedloge: simulated masking key, not secret|{seed}|{client}"
    return X25519PrivateKey.from_private_bytes(hashlib.sha256(text.encode()).digest())


@lru_cache(maxsize=4)
def _simulated_public(seed: int, clients: int) -> dict[int, bytes]:
    return {k: simulated_key(seed, k).public_key().public_bytes_raw() for k in range(clients)}


def _private(path: Path) -> X25519PrivateKey:
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except OSError as exc:
        raise UpdateError(
            f"secure aggregation needs this site's own masking key: {path} cannot be read "
            f"({exc.strerror}); make one with 'fedloge site-key'"
        ) from None
    except (ValueError, TypeError):
        raise UpdateError(
            f"{path} is no private key in PEM; make one with 'fedloge site-key'"
        ) from None
    if not isinstance(key, X25519PrivateKey):
        raise UpdateError(f"{path} is no X25519 key; make one with 'fedloge site-key'")
    return key


def read_peers(path: Path) -> dict[int, bytes]:
    """The public keys that a site knows the others by, from a file of TOML: ``0 = "<64 hex digits>"``.

    `UpdateError`: it cannot be read, an entry is malformed, or two clients have one key.
    """
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise UpdateError(
            f"secure aggregation needs the sites' public keys: {path} cannot be read ({exc.strerror}); "
            'put their lines there, such as 0 = "<64 hexadecimal digits>"'
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise UpdateError(f"{path} is no TOML ({exc})") from None
    peers = {}
    for name, value in entries.items():
        try:
            public = bytes.fromhex(value)
            if not name.isdecimal() or len(public) != _KEY_BYTES:
                raise ValueError
        except (ValueError, TypeError):
            raise UpdateError(
                f'{path}: expected lines such as 0 = "<64 hexadecimal digits>", got {name} = {value!r}'
            ) from None
        peers[int(name)] = public
    if len(set(peers.values())) < len(peers):
        raise UpdateError(f"{path}: two clients have the same key; each site makes its own")
    return peers
