"""When the figures of several runs say something of their methods: one rule for every comparison.

Runs are compared like for like where data, split, model, budget and measure are the same:
every key that is neither the method's own nor without weight must be equal, the runs must
have come as far as each other and be complete, and runs of one seed must hold the same
images on the same clients. Tables and plots refuse other runs; a comparison and its report
name what is unequal.
"""

from __future__ import annotations

from collections.abc import Sequence

from fedloge.results.recorded_run import RecordedRun
from fedloge.results.settings import Value, known_keys, must_be_equal, settings


def differences(runs: Sequence[RecordedRun], *, over_seeds: bool = False) -> list[str]:
    """In what runs differ that must be equal, a phrase each with who has which value.

    Parameters
    ----------
    over_seeds : figures are averaged over seeds, which may differ then.
    """
    flats = [settings(run) for run in runs]
    keys = [key for key in known_keys(runs) if must_be_equal(key)]
    keys += [] if over_seeds else ["seed"]
    found = [
        f"{key} ({who})" for key in keys if (who := _who_has(runs, [f.get(key) for f in flats]))
    ]
    progress = _who_has(runs, [run.rounds_done for run in runs])
    unfinished = [run for run in runs if not run.complete]
    if progress and not any(phrase.startswith("rounds (") for phrase in found):
        found.append(f"rounds done ({progress})")
    elif unfinished:
        first = unfinished[0]
        found.append(f"rounds done ({first.name}: {first.rounds_done} of {first.config.rounds})")
    for seed in sorted({run.config.seed for run in runs}):
        same = [run for run in runs if run.config.seed == seed]
        split = _who_has(same, [str(run.info.get("partition")) for run in same])
        if split:
            found.append(f"the partition of seed {seed}, so which images lie where ({split})")
    return found


def _who_has(runs: Sequence[RecordedRun], values: Sequence[Value | None]) -> str:
    """Each value and the runs that have it, in words; empty when all have the same."""
    names: dict[Value | None, list[str]] = {}
    for run, value in zip(runs, values, strict=True):
        names.setdefault(value, []).append(run.name)
    if len(names) == 1:
        return ""
    return ", ".join(
        f"{'not set' if value is None else repr(value)}: {some[0]}"
        + (f" and {len(some) - 1} more" if len(some) > 1 else "")
        for value, some in names.items()
    )
