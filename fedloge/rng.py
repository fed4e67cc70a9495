"""Randomness, always named: every draw comes from (seed, purpose, round, client).

No function in fedloge reads or writes a process-wide generator, so a result does
not depend on which process computed it, or on what ran there before.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator

import numpy as np


def _entropy(seed: int, purpose: str, round: int, client: int) -> list[int]:
    # -1 (no round, no client) must differ from 0, and SeedSequence takes no negatives.
    tag = int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "little")
    return [seed, tag, round + 1, client + 1]


def rng(seed: int, purpose: str, round: int = -1, client: int = -1) -> np.random.Generator:
    """The generator of one purpose, in one round, on one client: always the same draws.

    Parameters
    ----------
    seed : the run's seed, >= 0.
    purpose : what is drawn, for example ``"augment"``; different purposes have independent draws.
    round, client : where it is drawn, >= 0; -1 where there is none.
    """
    return np.random.Generator(
        np.random.Philox(np.random.SeedSequence(_entropy(seed, purpose, round, client)))
    )


@contextlib.contextmanager
def torch_seeded(seed: int, purpose: str, round: int = -1, client: int = -1) -> Iterator[None]:
    """Run a block in which torch's own generators are seeded, and restore them afterwards.

    For code that cannot be given a generator: layer initialisation, dropout.
    """
    # Imported here: numpy's draws need no torch, whose import takes seconds ('fedloge partition').
    import torch

    state = np.random.SeedSequence(_entropy(seed, purpose, round, client)).generate_state(
        1, np.uint64
    )
    seed64 = int(state[0] >> np.uint64(1))
    # torch.random.fork_rng takes longer than a client with two examples trains, and
    # torch.manual_seed imports torch's compiler, which takes seconds.
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
