"""The learning rate of a round: constant, or falling by a schedule, with a linear warm-up.

A schedule has a length of its own, ``lr-horizon``, and not the run's ``rounds``: a run that is resumed
for more rounds must not change what its earlier rounds were.
"""

from __future__ import annotations

import math

from fedloge.config import Config


def lr_in(config: Config, round: int) -> float:
    """The learning rate of round `round`, from 1.

    In the first w = ``warm-up-rounds`` it is lr r / w. After them, with t the rounds since then, from 0:

    - ``constant``: lr.
    - ``cosine``: lr (f + (1 - f) (1 + cos(pi t / T)) / 2), f = ``lr-floor``, T = ``lr-horizon`` - w, and
      lr f from round ``lr-horizon`` + 1 on (Loshchilov and Hutter, ICLR 2017, without restarts).
    - ``step``: lr ``lr-step-factor`` ^ floor(t / ``lr-step-rounds``).
    """
    warm_up = config.warm_up_rounds
    if round <= warm_up:
        return config.lr * round / warm_up
    since = round - 1 - warm_up
    if config.lr_schedule == "cosine":
        length = config.lr_horizon - warm_up
        share = (1 + math.cos(math.pi * min(since, length) / length)) / 2
        return config.lr * (config.lr_floor + (1 - config.lr_floor) * share)
    if config.lr_schedule == "step":
        return config.lr * config.lr_step_factor ** (since // config.lr_step_rounds)
    return config.lr


def lr_changes(config: Config) -> bool:
    """Whether the learning rate differs between rounds."""
    return config.lr_schedule != "constant" or config.warm_up_rounds > 0


def without_schedule(config: Config) -> Config:
    """The config with its ``lr`` in every round, for training outside a run's rounds."""
    if not lr_changes(config):
        return config
    keys = ("lr_schedule", "lr_horizon", "lr_floor", "lr_step_rounds", "lr_step_factor")
    neutral = {key: Config.model_fields[key].default for key in (*keys, "warm_up_rounds")}
    return config.replace(**neutral)
