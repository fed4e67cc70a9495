"""Probes: what is measured over clients, of whom only sums are sent. One file per probe."""

from fedloge.learning.probes.probe import Findings, Probe, ProbeTask
from fedloge.learning.probes.reliability import Calibration
from fedloge.learning.probes.sensitivity import Sensitivity
from fedloge.learning.probes.validation import Validation

PROBES: dict[str, type[Probe]] = {probe.name: probe for probe in (Calibration, Sensitivity)}
"""Those that the key ``probes`` knows by name."""

__all__ = ["PROBES", "Calibration", "Findings", "Probe", "ProbeTask", "Sensitivity", "Validation"]
