"""Masks cancel exactly, seeds are known to two alone, and too few shares are told apart from enough."""

from __future__ import annotations

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloge.errors import UpdateError
from fedloge.messages.masks import MaskStream, Pairs, combined, commitment, new_seed, split

KEYS = {k: X25519PrivateKey.generate() for k in range(4)}
PUBLIC = {k: key.public_key().public_bytes_raw() for k, key in KEYS.items()}


def pairs(me: int, context: str = "c") -> Pairs:
    return Pairs(me, KEYS[me], PUBLIC, context)


@given(st.lists(st.integers(0, 2**64 - 1), max_size=300), st.binary(min_size=32, max_size=32))
@settings(max_examples=30, deadline=None)
def test_a_mask_hides_and_cancels(values: list[int], seed: bytes) -> None:
    words = np.array(values, dtype=np.uint64)
    masked = words.copy()
    MaskStream(seed).into(masked, 1)
    assert len(values) < 3 or (masked != words).any()
    MaskStream(seed).into(masked, -1)
    assert (masked == words).all()


def test_a_mask_is_the_key_stream_of_its_cipher() -> None:
    # AES-256 in counter mode, zero key, zero counter: the cipher of sixteen zeros, by FIPS-197's tables.
    words = np.zeros(2, dtype=np.uint64)
    MaskStream(bytes(32)).into(words, 1)
    assert words.tobytes().hex() == "dc95c078a2408989ad48a21492842087"


def test_a_stream_goes_on_where_it_stopped_whatever_the_pieces() -> None:
    seed, whole, pieces = new_seed(), np.zeros(400_000, np.uint64), np.zeros(400_000, np.uint64)
    MaskStream(seed).into(whole, 1)
    stream = MaskStream(seed)
    for part in np.split(pieces, [1, 77, 131_072, 300_001]):
        stream.into(part, 1)
    assert (whole == pieces).all()
    assert len(set(whole.tolist())) == len(whole)  # nothing repeats


def test_two_clients_have_a_seed_in_common_that_no_other_context_or_client_has() -> None:
    assert pairs(0).mask_seed(1) == pairs(1).mask_seed(0)
    seeds = {pairs(0).mask_seed(1), pairs(0).mask_seed(2), pairs(0, "d").mask_seed(1)}
    assert len(seeds) == 3


def test_a_sealed_share_is_read_by_its_holder_alone_and_in_its_context_alone() -> None:
    box = pairs(0).seal(1, b"share")
    assert pairs(1).open(0, box) == b"share"
    assert pairs(0).seal(1, b"share") != box  # a fresh nonce each time
    for reader, sender, context in ((2, 0, "c"), (1, 2, "c"), (1, 0, "d")):
        with pytest.raises(UpdateError, match="was not sealed by it for this sum"):
            pairs(reader, context).open(sender, box)
    with pytest.raises(UpdateError, match="was not sealed"):
        pairs(0).open(0, box)  # nor turned round
    for damaged in (b"", box[:-1], box[:-1] + bytes([box[-1] ^ 1])):
        with pytest.raises(UpdateError, match="was not sealed"):
            pairs(1).open(0, damaged)


def test_a_public_key_that_fixes_the_secret_is_refused() -> None:
    with pytest.raises(UpdateError, match="public key is none"):
        Pairs(0, KEYS[0], {1: bytes(32)}, "c").mask_seed(1)


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_any_threshold_of_the_shares_gives_the_secret_back(data: st.DataObject) -> None:
    secret = data.draw(st.binary(min_size=32, max_size=32))
    holders = data.draw(st.lists(st.integers(0, 2000), min_size=2, max_size=12, unique=True))
    threshold = data.draw(st.integers(2, len(holders)))
    shares = split(secret, threshold, holders)
    some = data.draw(st.permutations(holders))[:threshold]
    assert combined({k: shares[k] for k in some}, threshold) == secret


def test_too_few_shares_would_fit_any_secret_and_are_counted() -> None:
    shares = split(new_seed(), 3, [0, 1, 2, 3])
    with pytest.raises(ValueError, match="2 shares, expected 3"):
        combined({0: shares[0], 1: shares[1]}, 3)


def test_a_line_through_two_points_by_hand() -> None:
    # f(x) = 7 + 5x at holders 0 and 2, that is x = 1 and x = 3.
    shares = {0: (12).to_bytes(66), 2: (22).to_bytes(66)}
    assert combined(shares, 2) == (7).to_bytes(32)


def test_shares_that_do_not_belong_together_give_no_secret_or_another() -> None:
    secret = new_seed()
    shares = split(secret, 2, [0, 1])
    shares[1] = (int.from_bytes(shares[1]) ^ 1).to_bytes(66)
    found = combined(shares, 2)
    assert found is None or commitment(found, "c") != commitment(secret, "c")
