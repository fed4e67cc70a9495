"""Probes: what is measured over clients, of whom only sums are sent. One file per probe."""

from fedloge.learning.probes.closed_form_heads import BalancedClosedForm, ClosedForm
from fedloge.learning.probes.collapse_probe import CollapseOnTest, CollapseProbe
from fedloge.learning.probes.mixup_channel import MixupChannel
from fedloge.learning.probes.probe import Findings, Probe, ProbeTask, TwoPassProbe, of_probe
from fedloge.learning.probes.reliability import Calibration
from fedloge.learning.probes.sensitivity import Sensitivity
from fedloge.learning.probes.validation import Validation

_NAMED = (
    BalancedClosedForm,
    Calibration,
    ClosedForm,
    CollapseOnTest,
    CollapseProbe,
    MixupChannel,
    Sensitivity,
)
PROBES: dict[str, type[Probe]] = {probe.name: probe for probe in _NAMED}
"""Those that the key ``probes`` knows by name."""

__all__ = [
    "PROBES",
    "BalancedClosedForm",
    "Calibration",
    "ClosedForm",
    "CollapseOnTest",
    "CollapseProbe",
    "Findings",
    "MixupChannel",
    "Probe",
    "ProbeTask",
    "Sensitivity",
    "TwoPassProbe",
    "Validation",
    "of_probe",
]
