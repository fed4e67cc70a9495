"""When several runs can be compared: one rule for every comparison.

Runs are like for like if data, split, model, budget and measurement are the same. Every key must
be equal, unless it belongs to the method or has no influence on the figures. The runs must be
complete and have done the same rounds, and runs of one seed must hold the same images on the
same clients. Tables and plots refuse other runs; a comparison and its report name what is unequal.
"""

from __future__ import annotations

from collections.abc import Sequence

from fedloge.results.recorded_run import RecordedRun
from fedloge.results.settings import Value, known_keys, must_be_equal, settings


def differences(runs: Sequence[RecordedRun], *, over_seeds: bool = False) -> list[str]:
    """What should be equal but differs between runs: phrases that say which run has which value.

    Parameters
    ----------
    over_seeds : whether figures are averaged over seeds, so that seeds may differ.
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
            found.append(
                f"the partition of seed {seed}, which says who holds which images ({split})"
            )
    return found


def _who_has(runs: Sequence[RecordedRun], values: Sequence[Value | None]) -> str:
    """Each value and the runs that have it, in words; empty if all runs have the same."""
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
