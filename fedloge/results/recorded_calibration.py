"""Bins of confidence, as a run has recorded them."""

from __future__ import annotations

import torch

from fedloge.errors import RunDirError
from fedloge.learning.calibration import Reliability
from fedloge.results.read_files import ANYTHING, read_lines
from fedloge.results.recorded_run import RecordedRun

_SUMS = ("examples", "confidence", "right")


def last_reliability(run: RecordedRun) -> dict[str, Reliability]:
    """Those of the last evaluated round, by model, such as ``global/realigned``; empty if none are recorded.

    `RunDirError`: the file is damaged.
    """
    path = run.files.calibration
    if not run.evaluated:
        return {}
    last, found = run.evaluated_rounds[-1], {}
    for line in read_lines(path, [], ANYTHING):
        if line["round"] == last:
            try:
                sums = torch.tensor([line[key] for key in _SUMS], dtype=torch.float64)
                found[str(line["model"])] = Reliability(sums)
            except (KeyError, TypeError, ValueError):
                raise RunDirError(
                    f"{path}: damaged, expected {', '.join(_SUMS)} as lists of one length in each line of "
                    f"round {last}; copy the run again"
                ) from None
    return found
