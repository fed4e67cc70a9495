"""Probes: what is measured over clients without their data leaving them. One file per probe."""

from fedloge.learning.probes.probe import Findings, Probe, ProbeTask

__all__ = ["Findings", "Probe", "ProbeTask"]
