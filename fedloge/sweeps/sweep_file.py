"""Reading a sweep file: every run of it, with its name and its whole configuration.

A sweep file has up to four parts, all of them optional::

    name = "loss"                    # the folder of its runs; default: the file's name

    [base]                           # config keys of all runs
    recipe = "cifar10-lt"            # read first; a name, or a path relative to this file
    rounds = 40

    [grid]                           # every combination of these
    imbalance-factor = [0.02, 0.01]
    seed = [0, 1, 2]

    [[method]]                       # each of these with every combination
    method = "fedprox"
    method-options.mu = [0.1, 1.0]   # a list adds to the grid, for this method
    label = "FedProx"                # its name in tables

A method's own keys replace the grid's, and the grid's replace the base's. So a method with
``seed = [0]`` runs with that seed only.

A fifth part tunes options, every method's by the same number of trials::

    [tune]
    trials = 6                       # of each method that has something to tune; default: 6
    choose = "both"                  # by the figure of which model: global, personal, or (default)
                                     # both, the mean of the two
    validation-share = 0.2           # default; what each client holds out in the trials
    rounds = 20                      # other config keys of the trials, seed too; default: the base's

    [[method]]
    method = "fedprox"
    tune.method-options.mu = [0.01, 0.1, 1.0]
    tune.lr = [0.01, 0.03]           # every combination, or as many of them as there are trials

The trials run first, in the folder ``tune`` within the sweep's. For each method, and for each
combination of what varies besides the seed, the trial that is best on validation examples is chosen;
of equal ones the first; one that failed loses. The test set has no say. The sweep's own runs have
the chosen values, and hold out no more than the base says. ``tuned.json`` tells what was tried, the
scores, and the choice.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedloge.config import Scalar, load, parse_overrides
from fedloge.config.reading import read_toml
from fedloge.config.tables import without_left_options
from fedloge.errors import ConfigError, unknown_name
from fedloge.recipe_files import recipe_path
from fedloge.results.settings import is_methods_own
from fedloge.sweeps.keys_and_names import (
    RESERVED,
    check_distinct,
    check_key,
    check_names,
    checked_values,
    dotted,
)
from fedloge.sweeps.plan import TRIALS_FOLDER, PlannedRun, Sweep, TunedMethod, Tuning
from fedloge.sweeps.tune_part import (
    TunePart,
    planned_run,
    read_tune_part,
    tuned_keys,
    tuned_methods,
    waiting,
)

_PARTS = ("name", "base", "grid", "method", "tune")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def load_sweep(
    path: Path, overrides: Mapping[str, Any] | Iterable[str] = (), runs_dir: str = ""
) -> Sweep:
    """Read a sweep file.

    Parameters
    ----------
    overrides : replace keys of the base: ``key=value`` items, or values by key.
    runs_dir : holds the sweep's folder; empty: the base's ``runs-dir``, or ``runs``.

    Raises
    ------
    ConfigError
        The file is missing or is not TOML, a part, key or value is wrong, or two runs would
        be the same.
    """
    content = read_toml(path, "sweep")
    for part in content:
        if part not in _PARTS:
            raise ConfigError(f"{path}: {unknown_name('part', part, _PARTS)}")
    name = content.get("name", path.stem)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(
            f"{path}: name: expected letters, digits, '.', '_' and '-', got {name!r}; "
            "it becomes a folder"
        )
    grid = _grid(path, content.get("grid", {}))
    methods = _methods(path, content.get("method", [{}]), grid)
    base = _base(path, content.get("base", {})) | _overrides(path, overrides, grid, methods)
    tune = read_tune_part(path, content.get("tune"), grid, methods)
    root = Path(runs_dir or str(base.pop("runs-dir", "runs"))).expanduser().resolve()
    folder = root / name
    runs, tuning = _read_runs(path, folder, base, grid, methods, tune)
    by = tuple(key for key in grid if key != "seed" and not is_methods_own(key))
    sweep = Sweep(name, folder, by, runs, tuning)
    _check_all(path, sweep)
    return sweep


def _read_runs(
    path: Path,
    folder: Path,
    base: Mapping[str, Any],
    grid: Mapping[str, list[Scalar]],
    methods: Sequence[Mapping[str, Any]],
    part: TunePart | None,
) -> tuple[list[PlannedRun], Tuning | None]:
    """The runs in the order of the file, and what is run before to choose some of their options."""
    runs: list[PlannedRun] = []
    tuned: list[TunedMethod] = []
    for method in methods:
        combinations = list(_combinations(path, grid, method))
        label = str(method.get("label", ""))
        if "tune" in method:
            assert part is not None
            made = tuned_methods(path, folder, base, label, combinations, method["tune"], part)
            tuned += made
            runs += [run for one in made for run in waiting(one)]
        else:
            for keyed, varied in combinations:
                flat = {**without_left_options(base, keyed), **keyed}
                runs.append(planned_run(path, folder, label, flat, varied))
    return runs, Tuning(part.choose, tuple(tuned)) if part else None


def _combinations(
    path: Path, grid: Mapping[str, list[Scalar]], method: Mapping[str, Any]
) -> Iterator[tuple[dict[str, Scalar], dict[str, Scalar]]]:
    """Every combination of the grid's values and of those that a [[method]] table lists.

    With each, what of it varies within the sweep: these keys make the run's name.
    """
    own = {key: value for key, value in method.items() if key not in ("label", "tune")}
    choices = {key: values for key, values in grid.items() if key not in own}
    choices |= {key: checked_values(path, key, value) for key, value in own.items()}
    varied = [k for k in choices if len(choices[k]) > 1 or k in grid or k == "seed"]
    for chosen in itertools.product(*choices.values()):
        keyed = dict(zip(choices, chosen, strict=True))
        yield keyed, {key: keyed[key] for key in varied}


def _check_all(path: Path, sweep: Sweep) -> None:
    """Raise `ConfigError` if two runs would have one folder, or would be the same."""
    trials = sweep.trials
    own = [run for run in sweep.runs if not run.tuned_as]
    tuned = sweep.tuning.methods if sweep.tuning else ()
    finals = [run for one in tuned for trial in one.trials for run in trial.finals.values()]
    check_names(path, sweep.runs)
    check_names(path, [*own, *finals])
    check_distinct(path, own)
    if trials is not None:
        check_names(path, trials.runs)
        check_distinct(path, trials.runs)
        if any(run.name == TRIALS_FOLDER for run in [*own, *finals]):
            raise ConfigError(
                f"{path}: a run would be called {TRIALS_FOLDER!r}, as the folder of the trials is; "
                "give it another label"
            )


def _overrides(
    path: Path,
    overrides: Mapping[str, Any] | Iterable[str],
    grid: Mapping[str, Any],
    methods: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    if isinstance(overrides, Mapping):
        given = dotted({key.replace("_", "-"): value for key, value in overrides.items()})
    else:
        given = dict(parse_overrides(overrides))
    for key in given:
        if key in RESERVED:
            raise ConfigError(f"--set {key}: a sweep says this itself; leave it out")
        tuned = {key for method in methods for key in method.get("tune", {})}
        if key in grid or key in tuned or any(key in method for method in methods):
            raise ConfigError(f"--set {key}: {path} varies it; change it there")
    return given


def _base(path: Path, given: Any) -> dict[str, Scalar]:
    if not isinstance(given, dict):
        raise ConfigError(f"{path}: base: expected a table of config keys, got {given!r}")
    own = dict(given)
    recipe = own.pop("recipe", None)
    if recipe is not None and not isinstance(recipe, str):
        raise ConfigError(f"{path}: base: recipe: expected a name or a path, got {recipe!r}")
    own = dotted(own)
    for key in own:
        check_key(path, "base", key)
    flat: dict[str, Scalar] = {}
    if recipe:
        # With the defaults of all its keys, as the recipe has them when it is run by itself.
        beside = path.parent / recipe
        flat = load(beside if beside.suffix == ".toml" else recipe_path(recipe)).flat()
    flat |= own
    return {k: v for k, v in flat.items() if k not in RESERVED or k == "runs-dir"}


def _grid(path: Path, given: Any) -> dict[str, list[Scalar]]:
    if not isinstance(given, dict):
        raise ConfigError(f"{path}: grid: expected a table of lists, got {given!r}")
    grid = {}
    for key, values in dotted(given).items():
        check_key(path, "grid", key)
        if not isinstance(values, list):
            raise ConfigError(f"{path}: grid: {key}: expected a list of values, got {values!r}")
        grid[key] = checked_values(path, key, values)
    return grid


def _methods(path: Path, given: Any, grid: Mapping[str, Any]) -> list[dict[str, Any]]:
    if not isinstance(given, list) or not all(isinstance(table, dict) for table in given):
        raise ConfigError(f"{path}: method: expected [[method]] tables, got {given!r}")
    tables = [dotted(table) for table in given]
    for table in tables:
        for key in table:
            if key not in ("label", "tune"):
                check_key(path, "method", key)
        if table and "method" not in table and "method" not in grid:
            raise ConfigError(f"{path}: a [[method]] table names no method; add method = NAME")
        if table and "method" in grid:
            raise ConfigError(f"{path}: methods stand in the grid and in [[method]]; choose one")
        if "tune" in table:
            table["tune"] = tuned_keys(path, table["tune"], table, grid)
    return tables
