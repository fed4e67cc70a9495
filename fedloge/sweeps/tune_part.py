"""The part of a sweep file that tunes methods: ``[tune]``, and ``tune`` of each ``[[method]]``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from fedloge.config import Scalar, from_flat
from fedloge.config.tables import without_left_options
from fedloge.errors import ConfigError, unknown_name
from fedloge.results.settings import is_methods_own
from fedloge.sweeps.keys_and_names import (
    check_key,
    checked_values,
    dotted,
    run_name,
    short_method,
)
from fedloge.sweeps.plan import TRIALS_FOLDER, Choose, PlannedRun, Trial, TunedMethod

# A combination of values by key, and what of it varies within the sweep.
Combination = tuple[dict[str, Scalar], dict[str, Scalar]]
_SHARE = "validation-share"


@dataclass(frozen=True)
class TunePart:
    """What ``[tune]`` says.

    Attributes
    ----------
    trials : most combinations that are tried of each method.
    choose : global, personal or both: whose validation figure decides.
    keys : config keys of the trials.
    """

    trials: int
    choose: Choose
    keys: Mapping[str, Scalar]


def read_tune_part(
    path: Path, given: Any, grid: Mapping[str, Any], methods: Sequence[Mapping[str, Any]]
) -> TunePart | None:
    """Read ``[tune]``; None if there is none.

    Raises
    ------
    ConfigError
        A key or value is wrong, or nothing is tuned, or something is and the part is missing.
    """
    tunes = any("tune" in method for method in methods)
    if given is None:
        if tunes:
            raise ConfigError(
                f"{path}: a [[method]] has tune, but there is no part [tune]; add it, with "
                "trials = NUMBER"
            )
        return None
    if not isinstance(given, dict):
        raise ConfigError(f"{path}: tune: expected a table, got {given!r}")
    if not tunes:
        raise ConfigError(
            f"{path}: tune: no [[method]] has anything to tune; add tune.KEY = [VALUES] to one, or "
            "leave [tune] out"
        )
    own = dotted(given)
    trials, choose = own.pop("trials", 6), own.pop("choose", "both")
    if isinstance(trials, bool) or not isinstance(trials, int) or trials < 1:
        raise ConfigError(f"{path}: tune: trials: expected a number from 1, got {trials!r}")
    if choose not in get_args(Choose):
        said = unknown_name("choice", str(choose), get_args(Choose))
        raise ConfigError(f"{path}: tune: choose: {said}")
    return TunePart(trials, choose, _trial_keys(path, own, grid, methods))


def tuned_keys(
    path: Path, given: Any, method: Mapping[str, Any], grid: Mapping[str, Any]
) -> dict[str, list[Scalar]]:
    """The lists that a ``[[method]]`` is tuned over, by dotted key; `ConfigError` if they cannot be."""
    if not isinstance(given, dict) or not given:
        raise ConfigError(f"{path}: method: tune: expected tune.KEY = [VALUES], got {given!r}")
    lists = {}
    for key, values in dotted(given).items():
        check_key(path, "method: tune", key)
        if key == "method" or not is_methods_own(key):
            raise ConfigError(
                f"{path}: method: tune: {key}: expected an option of the method or of its SGD; "
                "what all methods share belongs into [grid]"
            )
        if not isinstance(values, list):
            raise ConfigError(f"{path}: method: tune: {key}: expected a list, got {values!r}")
        where = "the same [[method]]" if key in method else "[grid]" if key in grid else ""
        if where:
            raise ConfigError(f"{path}: method: tune: {key}: {where} sets it, too; choose one")
        lists[key] = checked_values(path, f"method: tune: {key}", values)
    return lists


def planned_run(
    path: Path, folder: Path, label: str, flat: Mapping[str, Any], varied: Mapping[str, Scalar]
) -> PlannedRun:
    """A run by its whole configuration, named after what varies."""
    name = run_name(label, flat, varied)
    own = {"name": name, "runs-dir": str(folder)}
    return PlannedRun(name, label, from_flat({**flat, **own}, f"{path}, {name}"))


def tuned_methods(
    path: Path,
    folder: Path,
    base: Mapping[str, Any],
    label: str,
    combinations: Sequence[Combination],
    lists: Mapping[str, list[Scalar]],
    part: TunePart,
) -> list[TunedMethod]:
    """A ``[[method]]`` with its trials, once for each of its combinations, those of seeds aside."""
    groups: dict[str, list[Combination]] = {}
    for keyed, varied in combinations:
        name = run_name(label, {**base, **keyed}, _without_seed(varied))
        groups.setdefault(name, []).append((keyed, varied))
    tuned = []
    for name, seeds in groups.items():
        keyed, varied = seeds[0]
        method = label or short_method({**base, **keyed})
        setting = _without_seed(varied)
        trials = []
        for values in drawn(method, lists, part.trials):
            start = without_left_options(base, keyed)
            tried = {**start, **_without_seed(keyed), **part.keys, **values}
            run = planned_run(path, folder / TRIALS_FOLDER, label, tried, setting | values)
            if not run.config.validation_share:
                raise ConfigError(
                    f"{path}: tune: {_SHARE}: expected more than 0, got 0; trials are judged by "
                    "what is held out"
                )
            finals = {
                run_name(label, {**base, **one}, varies): planned_run(
                    path, folder, label, {**start, **one, **values}, varies | values
                )
                for one, varies in seeds
            }
            trials.append(Trial(values, run, finals))
        tuned.append(TunedMethod(name, method, setting, tuple(trials)))
    return tuned


def waiting(tuned: TunedMethod) -> Iterator[PlannedRun]:
    """The runs of a tuned method while no trial is chosen."""
    for name, run in tuned.trials[0].finals.items():
        yield PlannedRun(name, run.label, run.config.replace(name=name), tuned.name)


def drawn(
    method: str, lists: Mapping[str, Sequence[Scalar]], trials: int
) -> list[dict[str, Scalar]]:
    """All combinations of the lists, in their order, or so many of them drawn without replacement.

    The draw depends on the method's label or name, and on nothing else.
    """
    shape = [len(values) for values in lists.values()]
    total = math.prod(shape)
    places = list(range(total))
    if total > trials:
        # For start-up time: rng needs torch.
        from fedloge.rng import rng

        chosen = rng(0, f"tune/{method}").choice(total, size=trials, replace=False)
        places = sorted(int(place) for place in chosen)
    return [_combination(place, lists) for place in places]


def _combination(place: int, lists: Mapping[str, Sequence[Scalar]]) -> dict[str, Scalar]:
    """The combination at a place in the product of the lists, the last of which varies fastest."""
    values: dict[str, Scalar] = {}
    for key, choices in reversed(list(lists.items())):
        place, index = divmod(place, len(choices))
        values[key] = choices[index]
    return {key: values[key] for key in lists}


def _trial_keys(
    path: Path,
    given: Mapping[str, Any],
    grid: Mapping[str, Any],
    methods: Sequence[Mapping[str, Any]],
) -> dict[str, Scalar]:
    for key, value in given.items():
        check_key(path, "tune", key)
        if is_methods_own(key):
            raise ConfigError(
                f"{path}: tune: {key}: it belongs to a method; put tune.{key} into its [[method]]"
            )
        if key != "seed" and (key in grid or any(key in method for method in methods)):
            raise ConfigError(
                f"{path}: tune: {key}: [grid] or a [[method]] sets it, too; choose one"
            )
        if not isinstance(value, (str, int, float, bool)):
            raise ConfigError(f"{path}: tune: {key}: expected a single value, got {value!r}")
    return {_SHARE: 0.2, **given}


def _without_seed(values: Mapping[str, Scalar]) -> dict[str, Scalar]:
    return {key: value for key, value in values.items() if key != "seed"}
