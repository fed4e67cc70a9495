"""The keys of a config: one flat, typed, frozen set, and three tables of options.

Keys are kebab-case in TOML and on the command line (``num-clients``), snake_case
in Python (``config.num_clients``). The defaults here are the quick start's. They
equal those under ``[tool.flwr.app.config]`` in ``pyproject.toml``, as a test checks.
The options of a method, a partitioner or a model are tables of their own, whose
defaults are declared where the options are read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal

import pydantic
from pydantic import Field, field_validator, model_validator

from fedloge.config.on_node import OnNodeOptions
from fedloge.config.robust_rules import answers_needed, needs_answers
from fedloge.config.tables import (
    MOVED,
    Scalar,
    check_table,
    flattened,
    table_text,
    without_left_options,
)
from fedloge.digest import digest
from fedloge.errors import ConfigError, unknown_name
from fedloge.options import STRICT_AND_FROZEN, Table, checked_options, first_problem

TABLES = ("method-options", "model-options", "partitioner-options")
"""The keys that are tables."""

# Keys that say where, how fast or how long a run runs, but not what a round computes.
# They stay out of the fingerprint, so that a run may be moved, extended or resumed on
# another engine.
OPERATIONAL = frozenset(
    {
        "name",
        "runs-dir",
        "data-path",
        "cache-dir",
        "rounds",
        "device",
        "fast",
        "clients-at-once",
        "checkpoint-every",
        "round-timeout",
        "startup-timeout",
        "whoami-timeout",
        "resume",
        "from-round",
        "ray-workers",
        "ray-address",
        "cpus-per-worker",
        "gpus-per-worker",
        "ray-state",
        "log-format",
    }
)


class Config(pydantic.BaseModel):
    """Everything that decides a run. Build it with `load` or `from_flat`, whose errors are readable."""

    model_config = STRICT_AND_FROZEN

    # What is trained
    method: str = Field(
        "fedloge", description="a method's name, a dotted name or path/to/file.py:Class"
    )
    method_options: Table = Field(
        default_factory=dict, description="the method's own options, as a table"
    )
    model: str = Field(
        "cnn",
        description="backbone: cnn, resnet8, resnet18, resnet34, resnet50, or a torchvision model",
    )
    model_options: Table = Field(
        default_factory=dict, description="the model's own options, as a table"
    )
    norm: Literal["batch", "group"] = Field(
        "batch", description="normalisation layers of the backbone"
    )
    norm_sharing: Literal["all", "affine", "none"] = Field(
        "all",
        description="what of the norm layers is averaged: all; affine (running statistics stay with "
        "each client); none (FedBN: the layers stay with each client)",
    )

    # Data
    dataset: str = Field("digits", description="digits, cifar10, cifar100 or image-folder")
    data_path: str = Field("", description="folder or archive of the data set")
    cache_dir: str = Field(
        "",
        description="where downloads and decoded images are kept; empty: the user's cache folder",
    )
    image_size: int = Field(
        0, ge=0, le=1024, description="image-folder: resize to squares of this side; 0: do not"
    )
    long_tail: Literal["exp", "step", "none"] = Field("exp", description="shape of the long tail")
    imbalance_factor: float = Field(0.02, gt=0, le=1, description="smallest over largest class")
    augment: Literal["auto", "crop-flip", "crop", "none"] = Field(
        "auto", description="training augmentation; auto: what suits the data set"
    )

    # Clients
    partitioner: str = Field(
        "dirichlet", description="a partitioner's name, a dotted name or path/to/file.py:function"
    )
    partitioner_options: Table = Field(
        default_factory=dict, description="the partitioner's own options, as a table"
    )
    num_clients: int = Field(20, ge=1, description="clients in the federation")
    clients_per_round: int = Field(8, ge=1, description="clients drawn per round")

    # Training
    rounds: int = Field(30, ge=1)
    local_epochs: int = Field(5, ge=1, description="passes over a client's examples per round")
    batch_size: int = Field(8, ge=1)
    lr: float = Field(0.03, gt=0, description="SGD learning rate")
    momentum: float = Field(0.5, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
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

    # Aggregation
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
    dp_clip: float = Field(
        0.0, ge=0, description="central privacy: L2 norm to which updates are clipped; 0: off"
    )
    dp_noise: float = Field(1.0, ge=0, description="central privacy: noise multiplier")
    dp_delta: float = Field(
        1e-5, gt=0, lt=1, description="central privacy: delta of the reported epsilon"
    )

    # Measurement
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

    # How it runs
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

    @field_validator("method_options", "model_options", "partitioner_options")
    @classmethod
    def _plain(cls, table: Table) -> Table:
        check_table(table)
        return table

    @model_validator(mode="after")
    def _across_keys(self) -> Config:
        if self.clients_per_round > self.num_clients:
            raise ValueError(
                f"clients-per-round is {self.clients_per_round} but num-clients is {self.num_clients}; "
                "lower the one or raise the other"
            )
        if self.clients_per_round < answers_needed(self.aggregation, self.byzantine_clients):
            raise ValueError(
                f"byzantine-clients is {self.byzantine_clients} of {self.clients_per_round} clients-per-round; "
                f"{needs_answers(self.aggregation, self.byzantine_clients)}"
            )
        self._refuse_unread()
        if self.on_node:
            self._check_on_node()
        if self.dp_clip and self.wire_dtype != "float32":
            raise ValueError("dp-clip measures updates exactly: set wire-dtype=float32")
        if self.dp_clip and self.aggregation != "mean":
            raise ValueError(
                f"dp-clip: the noise is made for aggregation=mean, got {self.aggregation!r}"
            )
        return self

    def _refuse_unread(self) -> None:
        # A key without effect would still change the fingerprint.
        unread = {
            "byzantine_clients": (
                self.aggregation in ("mean", "median"),
                "set aggregation to krum or trimmed-mean",
            ),
            "dp_noise": (not self.dp_clip, "set dp-clip"),
            "dp_delta": (not self.dp_clip, "set dp-clip"),
            "clients_at_once": (not self.fast, "set fast=true"),
        }
        for name, (nobody_reads, remedy) in unread.items():
            value, default = getattr(self, name), type(self).model_fields[name].default
            if nobody_reads and value != default:
                raise ValueError(
                    f"{name.replace('_', '-')} is not read here, got {value!r}; leave it out, or {remedy}"
                )

    @property
    def on_node(self) -> bool:
        """Whether the clients hold their own examples already, so that nothing is split."""
        return self.partitioner == "on-node"

    @property
    def on_node_options(self) -> OnNodeOptions:
        """The options of partitioner ``on-node``."""
        return checked_options(
            OnNodeOptions, self.partitioner_options, "partitioner-options of 'on-node'"
        )

    @property
    def class_names(self) -> tuple[str, ...]:
        """The class names of partitioner ``on-node``, in alphabetical order as in an image folder."""
        return self.on_node_options.class_names

    @property
    def shares_class_counts(self) -> bool:
        """Whether clients tell the server how many examples of each class they hold."""
        return self.on_node and self.on_node_options.share_class_counts

    def _check_on_node(self) -> None:
        expected = {"dataset": "image-folder", "long-tail": "none"}
        for key, value in expected.items():
            if self.flat()[key] != value:
                raise ValueError(
                    f"partitioner 'on-node' uses the images of each client as they are: set {key}={value}, "
                    f"got {self.flat()[key]!r}"
                )
        if len(self.class_names) < 2:
            raise ValueError(
                "partitioner 'on-node' needs the class names, the same for all: set "
                f'partitioner-options.classes=["NAME", "NAME"], got {self.partitioner_options}'
            )
        if not self.image_size:
            raise ValueError("partitioner 'on-node' needs one image size for all: set image-size")

    def nested(self) -> dict[str, Any]:
        """The config in the form of a recipe: kebab-case keys, options as tables."""
        return self.model_dump(by_alias=True)

    def flat(self) -> dict[str, Any]:
        """Kebab-case keys in the order of the fields; options have dotted keys, ``method-options.mu``.

        A table without options has no key here.
        """
        flat: dict[str, Any] = {}
        for key, value in self.nested().items():
            flat.update(flattened(value, key) if key in TABLES else {key: value})
        return flat

    def for_flower(self) -> dict[str, Scalar]:
        """The config in scalars only, each table as a string, which `fedloge.config.from_flat` reads."""
        return {k: table_text(v) if k in TABLES else v for k, v in self.nested().items()}

    def fingerprint(self) -> str:
        """Hash of the keys that decide what a round computes (see `OPERATIONAL`)."""
        decisive = {k: v for k, v in self.nested().items() if k not in OPERATIONAL}
        return digest(json.dumps(decisive, sort_keys=True).encode())

    def replace(self, **changes: Any) -> Config:
        """A copy with some fields changed (snake_case), checked again; a table is replaced as a whole.

        Options belong to what they are options of: with another method, model or partitioner they
        are left behind.

        Raises
        ------
        ConfigError
            A key is unknown or a value wrong.
        """
        values = {k.replace("_", "-"): v for k, v in changes.items()}
        return checked(without_left_options(self.nested(), values) | values, "config")

    def __hash__(self) -> int:
        return self.hashed

    @cached_property
    def hashed(self) -> int:
        """The hash, computed once: every message of a round looks its federation up by it."""
        return hash(json.dumps(self.nested(), sort_keys=True))


def keys() -> list[str]:
    """All known keys, kebab-case."""
    return [name.replace("_", "-") for name in Config.model_fields]


def checked(values: Mapping[str, Any], source: str) -> Config:
    """The config of kebab-case keys, in which tables are mappings.

    Raises
    ------
    ConfigError
        One line naming the first wrong key or value, what was expected and what came.
    """
    for key in values:
        if key not in keys():
            raise ConfigError(f"{source}: {unknown_key(key)}")
    try:
        return Config.model_validate(dict(values))
    except pydantic.ValidationError as exc:
        raise ConfigError(f"{source}: {first_problem(exc)}") from None


def unknown_key(key: str) -> str:
    """The message for an unknown key: what has replaced it, or which known key is nearest."""
    if key in MOVED:
        return f"{key!r} is no key of a config; it is {MOVED[key]} now"
    return unknown_name("key", key, keys())
