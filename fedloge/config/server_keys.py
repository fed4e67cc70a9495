"""The keys of a config that say how the server averages, and what is measured."""

from __future__ import annotations

from typing import Literal

import pydantic
from pydantic import Field, field_validator

from fedloge.errors import unknown_name
from fedloge.options import STRICT_AND_FROZEN

PERSONAL_HEADS = ("own-prior", "own-prior-tuned")
"""What `MeasurementKeys.personal_heads` may name."""


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
    average_bits: Literal[64, 32] = Field(
        64,
        description="of the integers in which the mean is summed; 32: of what tensors moved by, each less than 4 in a "
        "round, with which secure aggregation sends 4 bytes a parameter instead of 8",
    )
    server_optimiser: Literal["none", "fedavgm", "fedadam", "fedyogi"] = Field(
        "none",
        description="what the server makes of the average: itself, or an optimiser's step towards it",
    )
    server_lr: float = Field(
        0.0,
        ge=0,
        description="of the server's optimiser; 0: 1 for fedavgm, 0.1 for fedadam, 0.01 for fedyogi",
    )
    server_momentum: float = Field(
        0.9, ge=0, lt=1, description="of the server's optimiser; beta 1 of fedadam and fedyogi"
    )
    server_beta2: float = Field(0.99, ge=0, lt=1, description="of fedadam and fedyogi")
    server_tau: float = Field(
        1e-3,
        gt=0,
        description="of fedadam and fedyogi: what is added to the root of the second moment",
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
    secure_update_norm: float = Field(
        0.0,
        ge=0,
        description="secure aggregation: an update of a larger L2 norm is not sent by its own client, since nobody "
        "else can see it; 0: any is",
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
    choose_by: Literal["auto", "global", "personal"] = Field(
        "auto",
        description="the validation figure that chooses a round: the global model's mean over classes, or the mean "
        "over clients of the personal models'; auto: global if there is one",
    )
    patience: int = Field(
        0,
        ge=0,
        description="evaluations in a row without a better validation figure after which the run ends; 0: all rounds",
    )
    probes: str = Field(
        "",
        description="further measurements over the clients, of which only sums are sent: names or "
        "path/to/file.py:Class, separated by commas",
    )
    collapse_share: float = Field(
        1.0,
        gt=0,
        le=1,
        description="probe collapse: share of each client's training examples that it looks at, drawn anew each time",
    )
    personal_heads: str = Field(
        "",
        description="further personal heads of every method with a global model, separated by commas: own-prior, the "
        "averaged head plus the client's log class shares; own-prior-tuned, that head tuned on its examples",
    )
    shot_groups: Literal["mass", "count"] = Field(
        "mass",
        description="many / medium / few: cut at 75 % and 95 % of all training examples (FedLoGe), or at "
        ">100 and <20 training examples",
    )

    @field_validator("personal_heads")
    @classmethod
    def _known_heads(cls, text: str) -> str:
        for name in _names(text):
            if name not in PERSONAL_HEADS:
                raise ValueError(unknown_name("head", name, PERSONAL_HEADS))
        return text

    @property
    def measures_collapse(self) -> bool:
        """Whether ``probes`` names the probe that reads ``collapse-share``, or one that may inherit from it."""
        return any(name == "collapse" or ":" in name for name in _names(self.probes))

    @property
    def further_heads(self) -> tuple[str, ...]:
        """The names in ``personal-heads``."""
        return _names(self.personal_heads)


def _names(text: str) -> tuple[str, ...]:
    parts = (part.strip() for part in text.split(","))
    return tuple(dict.fromkeys(part for part in parts if part))
