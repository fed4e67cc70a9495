"""The probes of a run: those of its method, and those that its config names."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from fedloge.errors import PluginError
from fedloge.learning.probes import PROBES, Probe, ProbeTask, Validation
from fedloge.plugins import load_plugin

log = logging.getLogger(__name__)


def probes_of(task: ProbeTask, of_method: Sequence[Probe]) -> list[Probe]:
    """All probes, in the order in which they are asked.

    Without a global network only those of the clients' own models, which is said: other sums would
    leave the clients for nothing.

    Raises
    ------
    ConfigError
        One asks twice, and the run has secure aggregation.
    PluginError
        One is unknown or no probe, or two have one name.
    """
    probes, whole = list(of_method), task.global_network
    if task.config.validation_share and whole:
        probes.append(Validation(task))
    for spec in filter(None, (part.strip() for part in task.config.probes.split(","))):
        found = load_plugin(spec, "fedloge.probes", PROBES, "probe")
        if not (isinstance(found, type) and issubclass(found, Probe)):
            raise PluginError(
                f"probe {spec!r}: expected a subclass of fedloge.learning.probes.Probe, got {found!r}"
            )
        probe = found(task)
        if whole or probe.personal_template():
            probes.append(probe)
        else:
            log.warning(
                "probe %r: some shared layers stay with the clients, so there is no network of all to "
                "measure; nothing is measured",
                probe.name,
            )
    names = [probe.name for probe in probes]
    if twice := {name for name in names if names.count(name) > 1}:
        raise PluginError(f"probes: {min(twice)!r} is the name of two; rename one")
    return probes
