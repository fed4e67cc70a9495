"""The keys of a config: one flat, typed, frozen set, and three tables of options.

Keys are kebab-case in TOML and on the command line (``num-clients``), snake_case
in Python (``config.num_clients``). The defaults here are the quick start's. They
equal those under ``[tool.flwr.app.config]`` in ``pyproject.toml``, as a test checks.
The options of a method, a partitioner or a model are tables of their own, whose
defaults are declared where the options are read. The keys themselves stand in the files
beside this one, by what they are about.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import pydantic
from pydantic import field_validator, model_validator

from fedloge.config.data_keys import ClientKeys, DataKeys
from fedloge.config.model_keys import ModelKeys
from fedloge.config.on_node import OnNodeOptions
from fedloge.config.robust_rules import answers_needed, needs_answers
from fedloge.config.running_keys import RunningKeys
from fedloge.config.server_keys import AggregationKeys, MeasurementKeys
from fedloge.config.tables import (
    MOVED,
    Scalar,
    check_table,
    flattened,
    table_text,
    without_left_options,
)
from fedloge.config.training_keys import TrainingKeys
from fedloge.digest import digest
from fedloge.errors import ConfigError, unknown_name
from fedloge.options import Table, checked_options, first_problem

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


# The order of the fields is that of the bases from the last to the first.
class Config(
    RunningKeys, MeasurementKeys, AggregationKeys, TrainingKeys, ClientKeys, DataKeys, ModelKeys
):
    """Everything that decides a run. Build it with `load` or `from_flat`, whose errors are readable."""

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
            "resize": (not self.image_size, "set image-size"),
            "interpolation": (not self.image_size, "set image-size"),
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
