"""The keys of a config that say how the server averages, and what is measured."""

from __future__ import annotations

from typing import Literal

import pydantic
from pydantic import Field

from fedloge.options import STRICT_AND_FROZEN


class AggregationKeys(pydantic.BaseModel):
    """How the server averages."""

    model_config = STRICT_AND_FROZEN

    aggregation: Literal["mean", "median", "trimmed-mean", "krum"] = Field(
        "mean",
        description="mean weighted by training examples, or a robust rule that counts every client alike",
    )
    byzantine_clients: int = Field(
        0,
        ge=0,
        description="misbehaving clients of a round to withstand: f; krum needs 2f + 3 clients or more, "
        "trimmed-mean 2f + 1",
    )
    max_update_norm: float = Field(
        128.0,
        ge=0,
        description="with mean: an update this many times as long as the median of its round is refused, in "
        "powers of two; 0: none is",
    )
    dp_clip: float = Field(
        0.0, ge=0, description="central privacy: L2 norm to which updates are clipped; 0: off"
    )
    dp_noise: float = Field(1.0, ge=0, description="central privacy: noise multiplier")
    dp_delta: float = Field(
        1e-5, gt=0, lt=1, description="central privacy: delta of the reported epsilon"
    )
    secure_aggregation: bool = Field(
        False,
        description="the server sees only sums over clients, of updates, losses and probes; same bits",
    )
    secure_neighbours: int = Field(
        0,
        ge=0,
        multiple_of=2,
        description="secure aggregation: with how many others a client masks; 0: with all",
    )
    secure_threshold: Literal["two-thirds", "half"] = Field(
        "two-thirds",
        description="secure aggregation: more than this share of a client's neighbours must stay to the end of "
        "a round; two-thirds withstands a server that lies about who is there",
    )


class MeasurementKeys(pydantic.BaseModel):
    """What is measured, and when."""

    model_config = STRICT_AND_FROZEN

    evaluate_every: int = Field(
        5, ge=1, description="rounds between evaluations; the last round is always one"
    )
    validation_share: float = Field(
        0.0, ge=0, lt=1, description="share of a client's examples held out, to choose settings by"
    )
    probes: str = Field(
        "",
        description="further measurements over the clients, of which only sums are sent: names or "
        "path/to/file.py:Class, separated by commas",
    )
    shot_groups: Literal["mass", "count"] = Field(
        "mass",
        description="many / medium / few: cut at 75 % and 95 % of all training examples (FedLoGe), or at "
        ">100 and <20 training examples",
    )
