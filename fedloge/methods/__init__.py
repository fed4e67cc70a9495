"""The methods, by name; a user's own by file, dotted name or entry point."""

from __future__ import annotations

import pydantic

from fedloge.config import Config, from_flat, parse_options
from fedloge.errors import ConfigError, PluginError, unknown_name
from fedloge.methods.apfl import APFL
from fedloge.methods.ccvr import CCVR
from fedloge.methods.creff import CReFF
from fedloge.methods.ditto import Ditto
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
from fedloge.methods.method import Method, MethodOptions, Task
from fedloge.methods.rucr import RUCR
from fedloge.plugins import load_plugin

METHODS: dict[str, type[Method]] = {
    m.name: m
    for m in (
        APFL,
        CCVR,
        CReFF,
        Ditto,
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
        RUCR,
    )
}

# Config keys that only some methods read; see `Method.reads`.
OPTIONAL_KEYS = ("local-loss", "local-loss-options", "post-hoc")


def method_class(spec: str) -> type[Method]:
    """The method called `spec`: a name, an entry point, ``module:Class`` or ``file.py:Class``."""
    found = load_plugin(spec, "fedloge.methods", METHODS, "method")
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise PluginError(
            f"method {spec!r}: expected a subclass of fedloge.methods.method.Method, got {found!r}"
        )
    return found


def method_options(cls: type[Method], config: Config) -> MethodOptions:
    """The method's own parameters from ``method-options``, checked."""
    where = f"method-options of {cls.name!r}"
    given = parse_options(config.method_options, where)
    known = [str(field.alias) for field in cls.Options.model_fields.values()]
    for key in given:
        if key not in known:
            raise ConfigError(f"{where}: {unknown_name('option', key, known)}")
    try:
        return cls.Options.model_validate(given)
    except pydantic.ValidationError as exc:
        first = exc.errors()[0]
        raise ConfigError(
            f"{where}: {first['loc'][0]}: {first['msg']}, got {first['input']!r}"
        ) from None


def make_method(task: Task) -> Method:
    """The configured method for a task."""
    cls = method_class(task.config.method)
    given, default = task.config.flat(), from_flat({}).flat()
    for key in OPTIONAL_KEYS:
        if given[key] != default[key] and key not in cls.reads:
            others = ", ".join(sorted(m.name for m in METHODS.values() if key in m.reads))
            raise ConfigError(
                f"{key}: method {cls.name!r} does not read it, got {given[key]!r}; "
                f"leave it out, or use one of {others}"
            )
    return cls(task, method_options(cls, task.config))
