"""Claims of the papers behind fedloge, each reproduced in seconds, and what a federation does to them."""

from fedloge.labs.ebv_lab import EBV
from fedloge.labs.finding import Finding, Lab
from fedloge.labs.frame_lab import FRAME
from fedloge.labs.language_lab import LANGUAGE
from fedloge.labs.law_lab import LAW
from fedloge.labs.mixup_lab import MIXUP

LABS: dict[str, Lab] = {lab.name: lab for lab in (FRAME, LAW, MIXUP, EBV, LANGUAGE)}
"""All of them by name."""

__all__ = ["LABS", "Finding", "Lab"]
