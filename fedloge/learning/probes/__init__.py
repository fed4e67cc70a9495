"""Probes: what is measured over clients without their data leaving them. One file per probe."""

from fedloge.learning.probes.probe import Findings, Probe, ProbeTask
from fedloge.learning.probes.validation import Validation

__all__ = ["Findings", "Probe", "ProbeTask", "Validation"]
