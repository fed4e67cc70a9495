"""Probes: what is measured over clients, of whom only sums are sent. One file per probe."""

from fedloge.learning.probes.probe import Findings, Probe, ProbeTask
from fedloge.learning.probes.validation import Validation

__all__ = ["Findings", "Probe", "ProbeTask", "Validation"]
