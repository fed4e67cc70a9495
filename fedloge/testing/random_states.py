"""The random states that belong to the whole process, which no plug-in may touch."""

from __future__ import annotations

import random

import numpy as np
import torch


def process_wide_states() -> dict[str, str]:
    """Each state as text, under its name for people; read, never changed."""
    # Comparing them is the only way to notice a draw.
    return {
        "Python's random module": repr(random.getstate()),
        "NumPy's global random state": repr(
            [
                item.tobytes() if isinstance(item, np.ndarray) else item
                for item in np.random.get_state()  # noqa: NPY002
            ]
        ),
        "torch's global random state": repr(torch.random.get_rng_state().numpy().tobytes()),
    }
