"""The keys of a config that say how a client trains."""

from __future__ import annotations

from typing import Literal

import pydantic
from pydantic import Field

from fedloge.options import STRICT_AND_FROZEN


class TrainingKeys(pydantic.BaseModel):
    """How a client trains, and what it sends."""

    model_config = STRICT_AND_FROZEN

    rounds: int = Field(30, ge=1)
    local_epochs: int = Field(5, ge=1, description="passes over a client's examples per round")
    batch_size: int = Field(8, ge=1)
    optimiser: Literal["sgd", "adamw"] = Field(
        "sgd", description="of local training; fresh in every round"
    )
    lr: float = Field(0.03, gt=0, description="learning rate")
    momentum: float = Field(0.5, ge=0, lt=1, description="of sgd")
    nesterov: bool = Field(False, description="of sgd: Nesterov's momentum")
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    adam_beta2: float = Field(0.999, ge=0, lt=1)
    adam_eps: float = Field(1e-8, gt=0)
    lr_schedule: Literal["constant", "cosine", "step"] = Field(
        "constant", description="how the learning rate falls over rounds"
    )
    lr_horizon: int = Field(
        0, ge=0, description="of cosine: the round after which the rate has reached its floor"
    )
    lr_floor: float = Field(0.0, ge=0, le=1, description="of cosine: its end, as a share of lr")
    lr_step_rounds: int = Field(0, ge=0, description="of step: rounds between two steps")
    lr_step_factor: float = Field(0.1, gt=0, lt=1, description="of step: the factor of each")
    warm_up_rounds: int = Field(
        0, ge=0, description="rounds in which the learning rate rises to lr in equal steps"
    )
    weight_decay: float = Field(0.0, ge=0)
    mixup: float = Field(
        0.0,
        ge=0,
        description="mixup: alpha of the Beta distribution of the shares; 0: off. FedLoGe mixes for its "
        "fixed classifier alone",
    )
    mixup_at: Literal["inputs", "layers"] = Field(
        "inputs",
        description="with mixup: what is mixed, inputs; or the output of a layer of the backbone drawn for "
        "every batch, or inputs (manifold mixup)",
    )
    local_dp_clip: float = Field(
        0.0,
        ge=0,
        description="privacy of each example at the client (DP-SGD): L2 norm to which its gradient is clipped; "
        "0: off",
    )
    local_dp_noise: float = Field(
        1.0, ge=0, description="privacy at the client: noise multiplier of every step"
    )
    local_dp_delta: float = Field(
        1e-5, gt=0, lt=1, description="privacy at the client: delta of the recorded epsilon"
    )
    precision: Literal["float32", "tf32", "bf16"] = Field(
        "float32",
        description="of training: float32; tf32, products with 10 bits of mantissa, on GPUs only; bf16, "
        "bfloat16 autocast of forward passes, on processors and GPUs that have it",
    )
    fast: bool = Field(
        False,
        description="faster training for GPUs, not yet tried on one: steps recorded as CUDA graphs, and "
        "clients-at-once; a method that does not allow it is trained as usual, with a warning",
    )
    clients_at_once: int = Field(
        1,
        ge=1,
        description="with fast: clients whose networks an engine stacks and trains together, since a small "
        "network leaves a GPU idle; the same steps but for rounding; one by one if the method forbids it",
    )
    wire_dtype: Literal["float32", "float16"] = Field(
        "float32", description="how shared tensors are sent, both ways; float16 halves the bytes"
    )
