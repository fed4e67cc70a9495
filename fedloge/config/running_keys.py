"""The keys of a config that say where and how a run runs."""

from __future__ import annotations

from typing import Literal

import pydantic
from pydantic import Field

from fedloge.options import STRICT_AND_FROZEN


class RunningKeys(pydantic.BaseModel):
    """Where, how fast and how safely it runs."""

    model_config = STRICT_AND_FROZEN

    seed: int = Field(0, ge=0, lt=2**32)
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    threads: int = Field(
        1, ge=1, description="torch threads per process; they change the last bits of a result"
    )
    min_fraction: float = Field(
        0.5, gt=0, le=1, description="quorum: least share of a round's clients with a usable answer"
    )
    round_timeout: float = Field(
        3600.0, gt=0, description="seconds a round may wait for its clients"
    )
    startup_timeout: float = Field(
        300.0, gt=0, description="seconds to wait for all clients to register"
    )
    whoami_timeout: float = Field(
        30.0, gt=0, description="seconds a round may wait for a new node to say who it is"
    )
    checkpoint_every: int = Field(1, ge=1, description="rounds between checkpoints")
    name: str = Field(
        "",
        pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,99})?$",
        description="name of the run; empty: chosen by fedloge",
    )
    runs_dir: str = Field("runs", description="folder that holds the runs")
    ray_workers: int = Field(
        0, ge=0, description="engine ray: worker processes; 0: as many as the cores allow"
    )
    ray_address: str = Field(
        "", description="engine ray: an existing cluster's address; empty: this machine alone"
    )
    cpus_per_worker: float = Field(
        0.0, ge=0, description="engine ray: cores reserved per worker; 0: as many as threads"
    )
    gpus_per_worker: float = Field(0.0, ge=0, description="engine ray: GPUs reserved per worker")
    ray_state: Literal["auto", "shared", "carried"] = Field(
        "auto",
        description="engine ray: personal state on a path all nodes see, or carried by the driver; auto: tries it",
    )
    log_format: Literal["text", "json"] = Field(
        "text",
        description="what a run writes to Flower's log: text for people, or json for the superlink engine",
    )
    resume: bool = Field(
        False, description="continue the run of this name from its newest checkpoint"
    )
    from_round: int = Field(
        -1, ge=-1, description="with resume: the kept round to continue from; -1: the newest"
    )
