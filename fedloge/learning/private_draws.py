"""Where a private client's randomness comes from: which examples are in a batch, and the noise.

At a site from the operating system's entropy, so that nobody can compute it again, and no two runs
are alike. In a simulation from the seed, so that a run can be repeated: whoever knows the seed can
take such noise off, and it protects nobody from him.
"""

from __future__ import annotations

import math
import os
import secrets
from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor

from fedloge.rng import rng

_PIECE = 2**18
_DRAWS = 4


class Draws(ABC):
    """Uniform and normal numbers, and a generator for augmentation.

    Attributes
    ----------
    augmentation : random numbers that need not be secret, but must not depend on what else is in a batch.
    """

    augmentation: np.random.Generator

    @abstractmethod
    def uniform(self, count: int) -> np.ndarray:
        """`count` numbers in [0, 1), float64."""

    @abstractmethod
    def normal(self, count: int) -> np.ndarray:
        """`count` standard normal numbers, float64."""

    def batch(self, examples: int, share: float) -> Tensor:
        """Positions of the examples of a Poisson batch: each is in it with probability `share`, by itself."""
        return torch.from_numpy(np.flatnonzero(self.uniform(examples) < share))

    def noise_like(self, tensor: Tensor) -> Tensor:
        """Standard normal numbers of the tensor's shape, float64, on its device."""
        drawn = torch.from_numpy(self.normal(tensor.numel())).view(tensor.shape)
        return drawn.to(tensor.device)


class SeededDraws(Draws):
    """NOT SECRET: draws of a simulation, which everybody who knows the seed can compute.

    Parameters
    ----------
    seed, purpose, round, client : as in `fedloge.rng.rng`.
    """

    def __init__(self, seed: int, purpose: str, round: int, client: int) -> None:
        self._generator = rng(seed, f"private/{purpose}", round, client)
        self.augmentation = self._generator

    def uniform(self, count: int) -> np.ndarray:
        """Of the seed."""
        return self._generator.random(count)

    def normal(self, count: int) -> np.ndarray:
        """Of the seed."""
        return self._generator.standard_normal(count)


class SystemDraws(Draws):
    """Draws from the operating system's entropy.

    A normal number is half the sum of four (Box and Muller's), since the last bits of a single one may
    tell what it was added to (Mironov 2012; Holohan and Braghin 2021, "Secure Random Sampling in
    Differential Privacy").
    """

    def __init__(self) -> None:
        self.augmentation = np.random.default_rng(secrets.randbits(256))

    def uniform(self, count: int) -> np.ndarray:
        """53 bits each."""
        bits = np.frombuffer(os.urandom(8 * count), np.uint64)
        return (bits >> np.uint64(11)) * 2.0**-53

    def normal(self, count: int) -> np.ndarray:
        """In pieces, because four times as many are drawn."""
        found = np.empty(count)
        for start in range(0, count, _PIECE):
            part = found[start : start + _PIECE]
            radius = np.sqrt(-2 * np.log1p(-self.uniform(2 * len(part))))
            angle = 2 * math.pi * self.uniform(2 * len(part))
            four = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
            part[:] = four.reshape(_DRAWS, len(part)).sum(axis=0) / math.sqrt(_DRAWS)
        return found
