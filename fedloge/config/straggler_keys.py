"""The keys of a config that say what a run does about clients of unlike speed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pydantic
from pydantic import Field, field_validator

from fedloge.options import STRICT_AND_FROZEN


class StragglerKeys(pydantic.BaseModel):
    """For whom a step of the model waits, and the simulated clock."""

    model_config = STRICT_AND_FROZEN

    clients_drawn: int = Field(
        0,
        ge=0,
        description="clients asked in a round, more than clients-per-round, of whose good answers as many count; "
        "0: as many are asked as count",
    )
    round_deadline: float = Field(
        0.0,
        ge=0,
        description="with clients-drawn: of the good answers within so many seconds the first in the order of the "
        "draw count, and if they are too few the next that come; 0: the first that come",
    )
    buffer_size: int = Field(
        0,
        ge=0,
        description="asynchronous: so many answers make a step, while the other clients train on (FedBuff); "
        "clients-per-round train at a time; 0: in rounds",
    )
    speed_spread: float = Field(
        0.0,
        ge=0,
        description="simulated clock: how many times as long an example takes on the slowest client as on the "
        "fastest; 0: the real clock, and in a simulation clients of one speed",
    )
    example_seconds: float = Field(
        0.01,
        gt=0,
        description="simulated clock: seconds that an example takes on the fastest client",
    )

    @field_validator("speed_spread")
    @classmethod
    def _no_share(cls, spread: float) -> float:
        if 0 < spread < 1:
            raise ValueError(f"expected 0, or 1 and more, got {spread:g}")
        return spread

    @property
    def waits_selectively(self) -> bool:
        """Whether a step waits for some of those who were asked only."""
        return bool(self.clients_drawn or self.buffer_size)


def straggler_problem(config: Mapping[str, Any]) -> str | None:
    """Why what a config says about stragglers is refused, in a line; None: it is not.

    Parameters
    ----------
    config : kebab-case keys.
    """
    drawn, buffer, counted = (
        config["clients-drawn"],
        config["buffer-size"],
        config["clients-per-round"],
    )
    taking_part = config["num-clients"] - config["held-out-clients"]
    if problem := _unread(config):
        return problem
    if drawn and buffer:
        return (
            "clients-drawn is for rounds, and buffer-size for a run without rounds: set one of them"
        )
    if drawn and drawn <= counted:
        return f"clients-drawn is {drawn}; expected more than clients-per-round, {counted}, or 0"
    if drawn and config["num-clients"] and drawn > taking_part:
        return f"clients-drawn is {drawn}, but {taking_part} clients train; lower it"
    if buffer > counted:
        return (
            f"buffer-size is {buffer}, more than the {counted} clients (clients-per-round) that train at a time; "
            "lower the one or raise the other"
        )
    name = "buffer-size" if buffer else "clients-drawn"
    if not (drawn or buffer):
        return None
    if config["secure-aggregation"]:
        return f"{name}: masks cancel only in the sum over all who were asked; leave secure-aggregation out"
    if config["dp-clip"]:
        return (
            f"{name}: central privacy counts on the answers of all who were drawn, whoever is fast; leave "
            "dp-clip out"
        )
    if buffer and config["aggregation"] != "mean":
        return (
            f"buffer-size: aggregation={config['aggregation']} compares answers that began from one model; set "
            "aggregation=mean"
        )
    return None


def _unread(config: Mapping[str, Any]) -> str | None:
    unlike = config["clients-drawn"] or config["buffer-size"] or config["speed-spread"]
    needs = {
        "round-deadline": (config["clients-drawn"], "set clients-drawn"),
        "example-seconds": (unlike, "set clients-drawn, buffer-size or speed-spread"),
    }
    for key, (read, remedy) in needs.items():
        field = StragglerKeys.model_fields[key.replace("-", "_")]
        if not read and config[key] != field.default:
            return f"{key} is not read here, got {config[key]}; leave it out, or {remedy}"
    return None
