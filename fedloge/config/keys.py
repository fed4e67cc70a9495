"""The keys of a config: one flat, typed, frozen set, and four tables of options.

Keys are kebab-case in TOML and on the command line (``num-clients``), snake_case
in Python (``config.num_clients``). The defaults here are the quick start's. They
equal those under ``[tool.flwr.app.config]`` in ``pyproject.toml``, as a test checks.
The options of a method, a partitioner, a model or a long tail are tables of their own, whose
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
from fedloge.config.private_rules import private_problem
from fedloge.config.robust_rules import answers_needed, needs_answers
from fedloge.config.running_keys import RunningKeys
from fedloge.config.secure_rules import secure_problem
from fedloge.config.server_keys import AggregationKeys, MeasurementKeys
from fedloge.config.straggler_keys import StragglerKeys, straggler_problem
from fedloge.config.tables import (
    MOVED,
    Scalar,
    check_table,
    flattened,
    refused_partitioner,
    table_text,
    without_left_options,
)
from fedloge.config.training_keys import TrainingKeys
from fedloge.digest import digest
from fedloge.errors import ConfigError, unknown_name
from fedloge.options import Table, checked_options, first_problem

TABLES = (
    "method-options",
    "model-options",
    "train-part-options",
    "partitioner-options",
    "long-tail-options",
)
"""The keys that are tables."""

BENCHMARKS = ("digits", "cifar10", "cifar100")
"""Data sets that are benchmarks: there, ``auto`` means what the paper does."""

COUNTED_BY_THE_DATA = ("natural", "explicit")
"""Partitioners for which the data say how many clients there are, unless ``num-clients`` does."""

# What must be set for others to be read.
_OF_A_SWITCH = {
    "validation-share": ("choose_by", "patience"),
    "dp-clip": ("dp_noise", "dp_delta"),
    "local-dp-clip": ("local_dp_noise", "local_dp_delta"),
    "secure-aggregation=true": ("secure_neighbours", "secure_threshold", "secure_update_norm"),
}

# Keys that say where, how fast or how long a run runs, but not what a round computes.
# They stay out of the fingerprint, so that a run may be moved, extended or resumed on
# another engine. The weights themselves are part of a federation's fingerprint, by their digest.
OPERATIONAL = frozenset(
    {
        "name",
        "runs-dir",
        "data-path",
        "table",
        "weights",
        "cache-dir",
        "rounds",
        "choose-by",
        "patience",
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
    RunningKeys,
    MeasurementKeys,
    StragglerKeys,
    AggregationKeys,
    TrainingKeys,
    ClientKeys,
    DataKeys,
    ModelKeys,
):
    """Everything that decides a run. Build it with `load` or `from_flat`, whose errors are readable."""

    @field_validator(
        "method_options",
        "model_options",
        "train_part_options",
        "partitioner_options",
        "long_tail_options",
    )
    @classmethod
    def _plain(cls, table: Table) -> Table:
        check_table(table)
        return table

    @model_validator(mode="after")
    def _across_keys(self) -> Config:
        self._check_clients()
        if self.clients_per_round < answers_needed(self.aggregation, self.byzantine_clients):
            raise ValueError(
                f"byzantine-clients is {self.byzantine_clients} of {self.clients_per_round} clients-per-round; "
                f"{needs_answers(self.aggregation, self.byzantine_clients)}"
            )
        self._refuse_unread()
        self._check_schedule()
        if self.on_node:
            self._check_on_node()
        if self.secure_aggregation and (problem := secure_problem(self.nested())):
            raise ValueError(f"secure-aggregation: {problem}")
        if problem := straggler_problem(self.nested()):
            raise ValueError(problem)
        if problem := private_problem(self.nested()):
            raise ValueError(problem)
        return self

    def _refuse_unread(self) -> None:
        # A key without effect would still change the fingerprint.
        no_step = self.server_optimiser == "none"
        adaptive = self.server_optimiser in ("fedadam", "fedyogi")
        adamw, schedule = self.optimiser == "adamw", self.lr_schedule
        unread = {
            "momentum": (adamw, "give its default 0.5, or set optimiser=sgd"),
            "nesterov": (adamw, "set optimiser=sgd"),
            "adam_beta1": (not adamw, "set optimiser=adamw"),
            "adam_beta2": (not adamw, "set optimiser=adamw"),
            "adam_eps": (not adamw, "set optimiser=adamw"),
            "lr_horizon": (schedule != "cosine", "set lr-schedule=cosine"),
            "lr_floor": (schedule != "cosine", "set lr-schedule=cosine"),
            "lr_step_rounds": (schedule != "step", "set lr-schedule=step"),
            "lr_step_factor": (schedule != "step", "set lr-schedule=step"),
            "byzantine_clients": (
                self.aggregation in ("mean", "median"),
                "set aggregation to krum or trimmed-mean",
            ),
            "max_update_norm": (
                self.aggregation != "mean" or bool(self.dp_clip) or self.secure_aggregation,
                "set aggregation=mean without dp-clip and secure-aggregation",
            ),
            "average_bits": (
                self.aggregation != "mean" or bool(self.buffer_size),
                "set aggregation=mean without buffer-size",
            ),
            "server_lr": (no_step, "set server-optimiser"),
            "server_momentum": (no_step, "set server-optimiser"),
            "server_beta2": (not adaptive, "set server-optimiser to fedadam or fedyogi"),
            "server_tau": (not adaptive, "set server-optimiser to fedadam or fedyogi"),
            "init_head_scale": (self.init_head == "none", "set init-head=closed-form"),
            "resize": (not self.image_size, "set image-size"),
            "interpolation": (not self.image_size, "set image-size"),
            "collapse_share": (not self.measures_collapse, "set probes=collapse"),
            "mixup_at": (not self.mixup, "set mixup"),
            "feature_views": (
                not self.keeps_outputs,
                "set train-part to none, adapter or last-stage",
            ),
            "augment": (self.keeps_outputs, "set feature-views=2, or another train-part"),
            "preprocessing": (not self.weights, "set weights"),
            "clients_at_once": (not self.fast, "set fast=true"),
            "imbalance_factor": (
                self.long_tail == "auto" and self.tail == "none",
                "set long-tail=exp to cut a tail from these data (auto takes them as they are)",
            ),
            "small_clients": (not self.min_client_images, "set min-client-images"),
            "test_share": (self.test_split in ("matched", "given"), "set test-split=own"),
        }
        for switch, own in _OF_A_SWITCH.items():
            off = not getattr(self, switch.removesuffix("=true").replace("-", "_"))
            unread |= dict.fromkeys(own, (off, f"set {switch}"))
        for name, (nobody_reads, remedy) in unread.items():
            value, default = getattr(self, name), type(self).model_fields[name].default
            if nobody_reads and value != default:
                raise ValueError(
                    f"{name.replace('_', '-')} is not read here, got {value!r}; leave it out, or {remedy}"
                )

    def _check_clients(self) -> None:
        if refusal := refused_partitioner(self.partitioner):
            raise ValueError(refusal)
        if not self.num_clients:
            if self.partitioner not in COUNTED_BY_THE_DATA:
                raise ValueError(
                    f"num-clients is 0, which is for partitioners {' and '.join(COUNTED_BY_THE_DATA)}; "
                    f"say how many clients {self.partitioner!r} shall make"
                )
            return
        taking_part = self.num_clients - self.held_out_clients
        if self.clients_per_round > taking_part:
            held = (
                f" less held-out-clients {self.held_out_clients}" if self.held_out_clients else ""
            )
            raise ValueError(
                f"clients-per-round is {self.clients_per_round} but num-clients is {self.num_clients}{held}; "
                "lower the one or raise the other"
            )

    @property
    def is_benchmark(self) -> bool:
        """Whether the data set is a benchmark's: then `auto` means what the paper does with it."""
        return self.dataset in BENCHMARKS

    @property
    def tail(self) -> str:
        """The long tail that is cut: ``long-tail``, where ``auto`` is ``exp`` for a benchmark, else ``none``."""
        if self.long_tail != "auto":
            return self.long_tail
        return "exp" if self.is_benchmark else "none"

    def _check_schedule(self) -> None:
        if self.lr_schedule == "cosine" and self.lr_horizon <= self.warm_up_rounds:
            raise ValueError(
                "lr-schedule=cosine needs lr-horizon, the round after which the rate has reached its floor, above "
                f"warm-up-rounds ({self.warm_up_rounds}); got {self.lr_horizon}, usual is rounds, {self.rounds} here"
            )
        if self.lr_schedule == "step" and not self.lr_step_rounds:
            raise ValueError(
                "lr-schedule=step needs lr-step-rounds, the rounds between two steps; set lr-step-rounds="
                f"{max(1, self.rounds // 3)} for two steps in {self.rounds} rounds"
            )
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0, got momentum=0")

    @property
    def keeps_outputs(self) -> bool:
        """Whether the outputs of the frozen part are computed once and kept."""
        return self.train_part in ("last-stage", "adapter", "none")

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
        asked: list[tuple[str, object, object]] = [("dataset", "image-folder", self.dataset)]
        asked.append(("long-tail", "none", self.long_tail if self.tail != "none" else "none"))
        for name in ("split_into", "min_client_images", "max_client_images"):
            asked.append((name.replace("_", "-"), 0, getattr(self, name)))
        for key, value, got in asked:
            if got != value:
                raise ValueError(
                    "partitioner 'on-node' uses the images of each client as they are: set "
                    f"{key}={value}, got {got!r}"
                )
        if self.test_split == "matched":
            raise ValueError(
                "partitioner 'on-node' has no common test set to draw from: set test-split=given or own, "
                "got 'matched'"
            )
        if len(self.class_names) < 2:
            raise ValueError(
                "partitioner 'on-node' needs the class names, the same for all: set "
                f'partitioner-options.classes=["NAME", "NAME"], got {self.partitioner_options}'
            )
        self._check_open_roster()
        if not self.image_size:
            raise ValueError("partitioner 'on-node' needs one image size for all: set image-size")

    def _check_open_roster(self) -> None:
        least, places = self.on_node_options.min_clients, self.num_clients - self.held_out_clients
        if least > places:
            raise ValueError(
                f"partitioner-options.min-clients is {least}, more than the {places} places (num-clients) of clients "
                "that train; lower the one or raise the other"
            )
        if least and self.dp_clip:
            raise ValueError(
                "partitioner-options.min-clients: central privacy counts on the same clients in every round; leave "
                "dp-clip or min-clients out"
            )

    @property
    def open_roster(self) -> bool:
        """Whether sites may come and go between rounds."""
        return self.on_node and self.on_node_options.min_clients > 0

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
        partitioner = values.get("partitioner", self.partitioner)
        if partitioner != self.partitioner and partitioner in COUNTED_BY_THE_DATA:
            values.setdefault("num-clients", 0)
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
    given = dict(values)
    if given.get("partitioner") in COUNTED_BY_THE_DATA:
        given.setdefault("num-clients", 0)
    try:
        return Config.model_validate(given)
    except pydantic.ValidationError as exc:
        raise ConfigError(f"{source}: {first_problem(exc)}") from None


def unknown_key(key: str) -> str:
    """The message for an unknown key: what has replaced it, or which known key is nearest."""
    if key in MOVED:
        return f"{key!r} is no key of a config; it is {MOVED[key]} now"
    return unknown_name("key", key, keys())
