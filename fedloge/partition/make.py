"""From a config and the labels to a partition."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedloge.config import Config
from fedloge.data.manifest import Manifest
from fedloge.errors import ConfigError, FedlogeError, PartitionError
from fedloge.options import checked_options, keyword_options
from fedloge.partition.builtin import BUILTIN
from fedloge.partition.client_tests import given_tests, matched_tests, rule_of_tests
from fedloge.partition.client_wraps import held_out_clients, wrapped
from fedloge.partition.held_out import hold_out
from fedloge.partition.partition import (
    Indices,
    NamedParts,
    Partition,
    counts_by_class,
    verify_parts,
)
from fedloge.plugins import load_plugin
from fedloge.rng import rng

HeldOutFor = Literal["validation", "own-test"]
"""What a client's examples are held out for; also the purpose of the draw."""


@dataclass(frozen=True)
class BoundPartitioner:
    """A partitioner with its options filled in.

    Parameters
    ----------
    name : its name in the config.
    function : called as ``function(labels, num_clients, rng, **options)``.
    options : its keyword arguments.
    lossy : whether it may leave examples out.
    manifest : whether it has a keyword parameter ``manifest``: ``needed``, ``taken`` (it has a default) or "".
    """

    name: str
    function: Any
    options: Mapping[str, Any]
    lossy: bool = False
    manifest: str = ""

    def __call__(
        self,
        labels: NDArray[np.int64],
        num_clients: int,
        rng: np.random.Generator,
        *,
        manifest: Manifest | None = None,
    ) -> list[Indices]:
        """Split `labels` over `num_clients` clients. `PartitionError`: it needs a manifest, and there is none."""
        if not self.manifest:
            return self.function(labels, num_clients, rng, **self.options)
        if manifest is None and self.manifest == "needed":
            raise PartitionError(
                f"partitioner {self.name!r} goes by what the data say of each image, and these data say "
                "nothing; use data with a folder for each site or with a table, or another partitioner"
            )
        return self.function(labels, num_clients, rng, manifest=manifest, **self.options)


def resolve_partitioner(config: Config) -> BoundPartitioner:
    """Find the config's partitioner and fill in its options.

    Options are its keyword-only parameters but ``manifest``, or, for a class, those of its constructor.

    Raises
    ------
    PluginError
        It cannot be found or imported.
    ConfigError
        An option is unknown, missing or of the wrong type.
    """
    name = config.partitioner
    found = load_plugin(name, "fedloge.partitioners", BUILTIN, "partitioner")
    if not callable(found):
        raise ConfigError(f"partitioner {name!r}: expected a function or a class, got {found!r}")
    kind = keyword_options(found, positional=inspect.isclass(found), without=("manifest",))
    where = f"partitioner-options of {name!r}"
    options = dict(checked_options(kind, config.partitioner_options, where))
    if inspect.isclass(found):
        found, options = found(**options), {}
    lossy = bool(getattr(found, "lossy", False))
    parameter = inspect.signature(found).parameters.get("manifest")
    manifest = ""
    if parameter is not None:
        manifest = "needed" if parameter.default is inspect.Parameter.empty else "taken"
    return BoundPartitioner(name, found, options, lossy, manifest)


def partition_rng(seed: int) -> np.random.Generator:
    """The generator that partitioners draw from.

    A Mersenne Twister seeded as ``numpy.random.RandomState(seed)`` is, so that a
    partitioner can repeat the draws of code that was written for RandomState.
    """
    bits = np.random.MT19937()
    state: Any = np.random.RandomState(seed).get_state(legacy=False)
    bits.state = state
    return np.random.Generator(bits)


def make_partition(
    config: Config,
    train_labels: NDArray[np.integer],
    test_labels: NDArray[np.integer],
    num_classes: int,
    train_manifest: Manifest | None = None,
    test_manifest: Manifest | None = None,
) -> Partition:
    """Split the training set over the clients, and give each its tests and validation examples.

    Parameters
    ----------
    config : gives the partitioner, its options, num-clients, what is done to small and large clients,
        the rule of the tests and the seed. With num-clients 0 there are as many clients as the data name.
    train_labels : of the long-tailed training set, 0..num_classes-1.
    test_labels : of the test set; it may be empty where clients are tested on their own images.
    train_manifest, test_manifest : what the data say of each example besides; None: nothing.

    Raises
    ------
    PartitionError
        The partitioner refused or failed, broke the rules, left a client without examples, or made
        another number of clients than the config says.
    DataError
        The rule of the tests needs test images that are not there.
    """
    labels: NDArray[np.int64] = np.asarray(train_labels, dtype=np.int64)
    tests: NDArray[np.int64] = np.asarray(test_labels, dtype=np.int64)
    parts = _run(resolve_partitioner(config), config, labels, train_manifest)
    rule = rule_of_tests(config, len(tests), parts, test_manifest)
    counts = counts_by_class(parts, labels, num_classes)
    groups = group_numbers(train_manifest)
    train: tuple[Indices, ...] = tuple(parts)
    own: tuple[Indices, ...] = ()
    held: tuple[Indices, ...] = ()
    if rule == "matched":
        test = matched_tests(config, counts, tests)
    elif rule == "given":
        test = given_tests(config, parts, counts, tests, test_manifest)
    else:
        train, own = _divided(config, "own-test", train, labels, groups)
        test = _behind(own, len(tests))
    if config.validation_share:
        train, held = _divided(config, "validation", train, labels, groups)
    own_test = np.concatenate([np.empty(0, dtype=np.int64), *own])
    return Partition(
        train,
        test,
        counts_by_class(train, labels, num_classes),
        counts_by_class(test, np.concatenate([tests, labels[own_test]]), num_classes),
        held,
        own_test=own_test,
        test_split=rule,
        names=parts.names if isinstance(parts, NamedParts) else (),
        held_out=held_out_clients(config),
        left_out=len(labels) - sum(map(len, (*train, *held, *own))),
    )


def with_all_clients(
    config: Config, train_labels: NDArray[np.integer], manifest: Manifest | None
) -> Config:
    """The config with as many clients as there are, where the data or what is done to small clients say it.

    With ``num-clients`` 0 the data say it. With ``small-clients`` drop or merge, what is left says it, and
    ``split-into`` keeps what the partitioner made. ``clients-per-round`` is lowered to at most the
    clients that train. Any other config is returned as it is.

    Raises
    ------
    PartitionError
        The clients cannot be made, or none would train.
    """
    if not number_is_open(config):
        return config
    labels: NDArray[np.int64] = np.asarray(train_labels, dtype=np.int64)
    parts = _parts(resolve_partitioner(config), config, labels, manifest)
    left = len(wrapped(parts, config))
    training = left - config.held_out_clients
    if training < 1:
        raise PartitionError(
            f"held-out-clients is {config.held_out_clients} of {left} clients, so none would train; lower it"
        )
    return config.replace(
        num_clients=left,
        split_into=len(parts) if len(parts) != left else 0,
        clients_per_round=min(config.clients_per_round, training),
    )


def number_is_open(config: Config) -> bool:
    """Whether how many clients there are is known only when they are made."""
    changing = bool(config.min_client_images) and config.small_clients != "refuse"
    return not config.on_node and (changing or not config.num_clients)


def own_held_out(
    config: Config,
    purpose: HeldOutFor,
    client: int,
    part: Indices,
    labels: NDArray[np.integer],
    groups: NDArray[np.int64] | None = None,
) -> tuple[Indices, Indices]:
    """What a client trains on, and what of its own is held out for a purpose, as the config says.

    For ``validation`` that is `validation_share`, for ``own-test`` `test_share`, on which it is tested by the rule
    ``own``. The rest as in `fedloge.partition.held_out.hold_out`.
    """
    share = config.validation_share if purpose == "validation" else config.test_share
    return hold_out(part, labels, share, rng(config.seed, purpose, client=client), groups)


def group_numbers(manifest: Manifest | None) -> NDArray[np.int64] | None:
    """The number of each example's group, by the manifest's column ``group``; None without one.

    An example whose group is empty is a group of its own.
    """
    if manifest is None or "group" not in manifest:
        return None
    names, number = manifest.numbered("group")
    if "" in names:
        alone = np.flatnonzero(number == names.index(""))
        number = number.copy()
        number[alone] = len(names) + np.arange(len(alone))
    return number


def _divided(
    config: Config,
    purpose: HeldOutFor,
    parts: tuple[Indices, ...],
    labels: NDArray[np.int64],
    groups: NDArray[np.int64] | None,
) -> tuple[tuple[Indices, ...], tuple[Indices, ...]]:
    """For all clients what they train on, and what is held out from them."""
    pairs = [own_held_out(config, purpose, k, part, labels, groups) for k, part in enumerate(parts)]
    return tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs)


def _behind(own: tuple[Indices, ...], num_test: int) -> tuple[Indices, ...]:
    """Where each client's own test images stand, when all are put behind `num_test` others."""
    ends = num_test + np.cumsum([len(part) for part in own])
    return tuple(
        np.arange(end - len(part), end) for part, end in zip(own, ends.tolist(), strict=True)
    )


def _parts(
    partitioner: BoundPartitioner,
    config: Config,
    labels: NDArray[np.int64],
    manifest: Manifest | None,
) -> list[Indices]:
    """What the partitioner makes, checked against the rules of partitioners."""
    who = f"partitioner {partitioner.name!r}"
    asked = config.split_into or config.num_clients
    try:
        parts = partitioner(labels.copy(), asked, partition_rng(config.seed), manifest=manifest)
    except FedlogeError:
        raise
    except Exception as exc:
        raise PartitionError(f"{who} failed: {type(exc).__name__}: {exc}") from exc
    expected = asked or (len(parts) if isinstance(parts, list) else 0)
    verify_parts(parts, len(labels), expected, lossy=partitioner.lossy, who=who)
    return parts


def _run(
    partitioner: BoundPartitioner,
    config: Config,
    labels: NDArray[np.int64],
    manifest: Manifest | None,
) -> list[Indices]:
    """The clients' images: as many clients as the config says, and none without images."""
    who = f"partitioner {partitioner.name!r}"
    made = _parts(partitioner, config, labels, manifest)
    parts = wrapped(made, config)
    if config.num_clients and len(parts) != config.num_clients:
        raise PartitionError(
            f"{who}: {len(parts)} of {len(made)} clients are left, num-clients is {config.num_clients}; set "
            f"num-clients={len(parts)} and split-into={len(made)}"
        )
    for k, part in enumerate(parts):
        if not len(part):
            raise PartitionError(
                f"{who}: client {k} of {len(parts)} gets no example; {_remedy(partitioner)}"
                f"lower num-clients ({len(parts)})"
            )
    return parts


def _remedy(partitioner: BoundPartitioner) -> str:
    if partitioner.name not in BUILTIN:
        return ""
    options, said = partitioner.options, []
    if "alpha" in options:
        said.append(f"raise partitioner-options.alpha ({options['alpha']:g})")
    if "min_size" in options:
        said.append("set partitioner-options.min-size=1")
    return "".join(f"{remedy} or " for remedy in said)
