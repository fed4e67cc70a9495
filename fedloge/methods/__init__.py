"""All methods by name; a user's own methods by file, dotted name or entry point."""

from __future__ import annotations

from fedloge.config import Config
from fedloge.errors import ConfigError, PluginError
from fedloge.methods.apfl import APFL
from fedloge.methods.ccvr import CCVR
from fedloge.methods.centralised import Centralised
from fedloge.methods.creff import CReFF
from fedloge.methods.ditto import Ditto
from fedloge.methods.ebv import EBV
from fedloge.methods.fed3r import Fed3R
from fedloge.methods.fedavg import FedAvg
from fedloge.methods.fedbabu import FedBABU
from fedloge.methods.fedbn import FedBN
from fedloge.methods.fedetf import FedETF
from fedloge.methods.fedgrab import FedGraB
from fedloge.methods.fedloge import FedLoGe
from fedloge.methods.fednh import FedNH
from fedloge.methods.fedper import FedPer
from fedloge.methods.fedprox import FedProx
from fedloge.methods.fedrep import FedRep
from fedloge.methods.fedrod import FedROD
from fedloge.methods.fedyoyo import FedYoYo
from fedloge.methods.local_only import LocalOnly
from fedloge.methods.method import Method, Task
from fedloge.methods.rucr import RUCR
from fedloge.options import Options, checked_options
from fedloge.plugins import load_plugin

METHODS: dict[str, type[Method]] = {
    m.name: m
    for m in (
        APFL,
        CCVR,
        Centralised,
        CReFF,
        Ditto,
        EBV,
        Fed3R,
        FedAvg,
        FedBABU,
        FedBN,
        FedETF,
        FedGraB,
        FedLoGe,
        FedNH,
        FedPer,
        FedProx,
        FedRep,
        FedROD,
        FedYoYo,
        LocalOnly,
        RUCR,
    )
}


def method_class(spec: str) -> type[Method]:
    """The method called `spec`: a name, an entry point, ``module:Class`` or ``file.py:Class``.

    Raises
    ------
    PluginError
        There is none, it cannot be imported, or it is not a subclass of `Method`.
    """
    found = load_plugin(spec, "fedloge.methods", METHODS, "method")
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise PluginError(
            f"method {spec!r}: expected a subclass of fedloge.methods.method.Method, got {found!r}"
        )
    return found


def method_options(cls: type[Method], config: Config) -> Options:
    """The method's own options, checked; raises `ConfigError` for one that it does not have."""
    return checked_options(cls.Options, config.method_options, f"method-options of {cls.name!r}")


def make_method(task: Task) -> Method:
    """The configured method for a task.

    Raises
    ------
    ConfigError
        An option is unknown or wrong, or the config has mixup and the method takes no mixed labels, or
        does not wait for all clients and the method must, or has privacy at the client and the method
        does not fit it.
    PluginError
        There is no such method, or it cannot be imported.
    """
    cls = method_class(task.config.method)
    method = cls(task, method_options(cls, task.config))
    if task.config.mixup and not (method.soft_labels or method.mixes_itself):
        raise ConfigError(
            f"mixup: method {method.name!r} takes one class per example with these options, and mixed "
            "examples have two; take another method or loss, or leave mixup at 0"
        )
    if task.config.buffer_size and not (method.takes_stale or method.pooled):
        raise ConfigError(
            f"buffer-size: method {method.name!r} needs the answers of a whole round, begun from one model; leave "
            "buffer-size out (clients-drawn does not wait for the slowest, either), or take another method"
        )
    if method.pooled and (task.config.waits_selectively or task.config.speed_spread):
        raise ConfigError(
            f"method {method.name!r} trains at one place and asks no client; leave clients-drawn, buffer-size "
            "and speed-spread out"
        )
    if task.config.local_dp_clip and not method.example_by_example:
        raise ConfigError(
            f"local-dp-clip: with these options method {method.name!r} takes more from a client's examples than "
            "a mean over them (class counts, sums, terms of the whole batch), which noise in its steps does not "
            "cover; use fedloge or fedavg with loss=cross-entropy, say"
        )
    return method
