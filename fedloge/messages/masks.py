"""Masks that cancel in a sum, and secrets in shares: the arithmetic of secure aggregation.

Bonawitz et al. 2017 (arXiv 1611.04482), with the neighbour graph of Bell et al. 2020 (eprint
2020/704). Sums are of integers modulo a power of two, so that what cancels, cancels exactly.
The primitives are those of the package ``cryptography``: X25519, HKDF-SHA256, AES-256-CTR and
AES-GCM. A mask's seed has 256 bits, and its stream repeats nowhere in a vector's length.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterable, Mapping
from functools import lru_cache

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedloge.errors import UpdateError

SEED_BYTES = 32
SHARE_BYTES = 66
_FIELD = 2**521 - 1  # a prime above every seed; shares are points of polynomials over it
_CHUNK = 1 << 20  # bytes of a stream at a time, so that they stay in the processor's cache
_ZEROS = bytes(_CHUNK)
_NONCE_BYTES = 12


class MaskStream:
    """The mask that a seed stands for, as far as it has been used.

    Parameters
    ----------
    seed : 32 bytes, used for one stream only.
    """

    def __init__(self, seed: bytes) -> None:
        # The seed is the key of one stream, so the counter may begin at zero.
        self._cipher = Cipher(algorithms.AES(seed), modes.CTR(bytes(16))).encryptor()
        self._buffer = bytearray()

    def into(self, words: np.ndarray, sign: int) -> None:
        """Add the next piece of the mask to unsigned `words`, or subtract it, modulo their width."""
        step, change = _CHUNK // words.itemsize, np.add if sign > 0 else np.subtract
        for start in range(0, len(words), step):
            part = words[start : start + step]
            if len(self._buffer) < part.nbytes + 15:
                self._buffer = bytearray(part.nbytes + 15)
            self._cipher.update_into(memoryview(_ZEROS)[: part.nbytes], self._buffer)
            change(part, np.frombuffer(self._buffer, words.dtype, len(part)), out=part)


def new_seed() -> bytes:
    """A seed from the system's entropy. It must be secret, and no result depends on it: masks cancel."""
    return os.urandom(SEED_BYTES)


def commitment(seed: bytes, context: str) -> bytes:
    """What binds a client to its seed without showing it."""
    return hashlib.sha256(b"fedloge self-mask|" + context.encode() + b"|" + seed).digest()


class Pairs:
    """What one client shares with each other client in one context: a mask's seed, and a sealed way.

    Parameters
    ----------
    me : this client's partition id.
    private : its key.
    peers : the clients' public keys by partition id, 32 bytes each.
    context : names what is summed; other contexts have independent seeds.
    """

    def __init__(
        self, me: int, private: X25519PrivateKey, peers: Mapping[int, bytes], context: str
    ) -> None:
        self.me = me
        self._private, self._peers, self._context = private, peers, context

    def mask_seed(self, other: int) -> bytes:
        """The seed of the mask that the lower of the two adds, and the higher subtracts."""
        return self._derived("mask", other)

    def seal(self, other: int, share: bytes) -> bytes:
        """A share of this client's seed that only `other` can read (itself included)."""
        nonce = os.urandom(_NONCE_BYTES)
        key = AESGCM(self._derived("share", other))
        return nonce + key.encrypt(nonce, share, self._way(self.me, other))

    def open(self, other: int, box: bytes) -> bytes:
        """What `other` has sealed for this client here; `UpdateError` if it did not."""
        key = AESGCM(self._derived("share", other))
        try:
            return key.decrypt(box[:_NONCE_BYTES], box[_NONCE_BYTES:], self._way(other, self.me))
        except (InvalidTag, ValueError):
            raise UpdateError(
                f"client {self.me}: the share said to come from client {other} was not sealed by it "
                "for this sum"
            ) from None

    def _derived(self, purpose: str, other: int) -> bytes:
        agreed = _agreed(self._private, self._peers[other])
        low, high = sorted((self.me, other))
        info = f"fedloge {purpose}|{self._context}|{low}|{high}".encode()
        return HKDF(SHA256(), SEED_BYTES, None, info).derive(agreed)

    def _way(self, sender: int, receiver: int) -> bytes:
        return f"{self._context}|{sender}>{receiver}".encode()


@lru_cache(maxsize=2**14)
def _agreed(private: X25519PrivateKey, public: bytes) -> bytes:
    # Kept, because a process may answer many messages for the same clients.
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise UpdateError("a client's public key is none; ask its site for the right one") from None


def split(secret: bytes, threshold: int, holders: Iterable[int]) -> dict[int, bytes]:
    """Shares of a secret by holder (Shamir 1979); any `threshold` of them give it back, fewer say nothing.

    Parameters
    ----------
    secret : 32 bytes.
    holders : partition ids, from 0.
    """
    coefficients = [int.from_bytes(secret)] + [
        secrets.randbelow(_FIELD) for _ in range(threshold - 1)
    ]
    shares = {}
    for holder in holders:
        value = 0
        for coefficient in reversed(coefficients):
            value = (value * (holder + 1) + coefficient) % _FIELD
        shares[holder] = value.to_bytes(SHARE_BYTES)
    return shares


def combined(shares: Mapping[int, bytes], threshold: int) -> bytes | None:
    """The secret behind at least `threshold` shares.

    None if these shares do not belong together. With too few shares any secret would fit, so that
    nobody would notice: that is refused.

    Raises
    ------
    ValueError
        There are fewer than `threshold` shares.
    """
    if len(shares) < threshold:
        raise ValueError(f"{len(shares)} shares, expected {threshold}")
    points = {
        holder + 1: int.from_bytes(share) for holder, share in sorted(shares.items())[:threshold]
    }
    total = 0
    for x, y in points.items():
        above = below = 1
        for other in points:
            if other != x:
                above, below = above * other % _FIELD, below * (other - x) % _FIELD
        total = (total + y * above * pow(below, -1, _FIELD)) % _FIELD
    return total.to_bytes(SHARE_BYTES)[-SEED_BYTES:] if total < 2 ** (8 * SEED_BYTES) else None
