"""Randomness, always named: every draw comes from (seed, purpose, round, client).

No function in fedloge reads or writes a process-wide generator, so that a
result does not hang on which process ran it, or on what ran there before.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator

import numpy as np
import torch


def _entropy(seed: int, purpose: str, round: int, client: int) -> list[int]:
    # -1 (no round, no client) must differ from 0, and SeedSequence takes no negatives.
    tag = int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "little")
    return [seed, tag, round + 1, client + 1]


def rng(seed: int, purpose: str, round: int = -1, client: int = -1) -> np.random.Generator:
    """A generator of its own for one purpose.

    Parameters
    ----------
    seed : the run's seed, >= 0.
    purpose : what is drawn, for example ``"augment"``; different purposes never share numbers.
    round, client : where it is drawn; -1 where there is none.
    """
    return np.random.Generator(
        np.random.Philox(np.random.SeedSequence(_entropy(seed, purpose, round, client)))
    )


@contextlib.contextmanager
def torch_seeded(seed: int, purpose: str, round: int = -1, client: int = -1) -> Iterator[None]:
    """Run a block in which torch's own generators are seeded, and restore them after.

    For code that cannot be given a generator: layer initialisation, dropout.
    """
    state = np.random.SeedSequence(_entropy(seed, purpose, round, client)).generate_state(
        1, np.uint64
    )
    seed64 = int(state[0] >> np.uint64(1))
    # By hand rather than by torch.random.fork_rng, which takes longer than a client of two images
    # trains; and not by torch.manual_seed, which imports torch's compiler.
    before = torch.default_generator.get_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        torch.default_generator.manual_seed(seed64)
        if devices:
            torch.cuda.manual_seed_all(seed64)
        yield
    finally:
        torch.default_generator.set_state(before)
        if devices:
            torch.cuda.set_rng_state_all(devices)
