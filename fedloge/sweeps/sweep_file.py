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
"""

from __future__ import annotations

import itertools
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedloge.config import TABLES, Config, Scalar, from_flat, keys, load, parse_overrides
from fedloge.config.keys import unknown_key
from fedloge.config.tables import flattened, without_left_options
from fedloge.digest import digest
from fedloge.errors import ConfigError, unknown_name
from fedloge.recipe_files import recipe_path
from fedloge.results.settings import is_methods_own

_PARTS = ("name", "base", "grid", "method")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
# The sweep itself decides where its runs go.
_RESERVED = ("name", "runs-dir", "resume", "from-round")


@dataclass(frozen=True)
class PlannedRun:
    """One run of a sweep.

    Attributes
    ----------
    name : the run's folder; the same whenever the sweep is read.
    label : the name of its row in tables; empty: its method and settings.
    config : the whole configuration, with name and runs-dir.
    """

    name: str
    label: str
    config: Config


@dataclass(frozen=True)
class Sweep:
    """A sweep as it is to be run.

    Attributes
    ----------
    folder : holds the runs.
    by : the grid's keys that are settings of the comparison, not of a method; tables are split by them.
    runs : in the order of the file.
    """

    name: str
    folder: Path
    by: tuple[str, ...]
    runs: list[PlannedRun]


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
    content = _read(path)
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
    root = Path(runs_dir or str(base.pop("runs-dir", "runs"))).expanduser().resolve()
    folder = root / name
    runs = [run for method in methods for run in _runs(path, folder, base, grid, method)]
    _check_distinct(path, runs)
    by = tuple(key for key in grid if key != "seed" and not is_methods_own(key))
    return Sweep(name, folder, by, runs)


def _runs(
    path: Path,
    folder: Path,
    base: Mapping[str, Any],
    grid: Mapping[str, list[Scalar]],
    method: Mapping[str, Any],
) -> Iterator[PlannedRun]:
    """A run for every combination of the grid's values and of those that a [[method]] table lists."""
    own = {key: value for key, value in method.items() if key != "label"}
    label = str(method.get("label", ""))
    choices = {key: values for key, values in grid.items() if key not in own}
    choices |= {key: _values(path, key, value) for key, value in own.items()}
    varied = [k for k in choices if len(choices[k]) > 1 or k in grid or k == "seed"]
    for chosen in itertools.product(*choices.values()):
        keyed = dict(zip(choices, chosen, strict=True))
        flat = {**without_left_options(base, keyed), **keyed}
        name = _run_name(label, flat, {key: keyed[key] for key in varied})
        flat |= {"name": name, "runs-dir": str(folder)}
        yield PlannedRun(name, label, from_flat(flat, f"{path}, {name}"))


def _overrides(
    path: Path,
    overrides: Mapping[str, Any] | Iterable[str],
    grid: Mapping[str, Any],
    methods: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    if isinstance(overrides, Mapping):
        given = _dotted({key.replace("_", "-"): value for key, value in overrides.items()})
    else:
        given = dict(parse_overrides(overrides))
    for key in given:
        if key in _RESERVED:
            raise ConfigError(f"--set {key}: a sweep says this itself; leave it out")
        if key in grid or any(key in method for method in methods):
            raise ConfigError(f"--set {key}: {path} varies it; change it there")
    return given


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as f:
            return tomllib.load(f)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such sweep; give the path of a TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: not valid TOML ({exc})") from None
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read ({exc.strerror})") from None


def _base(path: Path, given: Any) -> dict[str, Scalar]:
    if not isinstance(given, dict):
        raise ConfigError(f"{path}: base: expected a table of config keys, got {given!r}")
    own = dict(given)
    recipe = own.pop("recipe", None)
    if recipe is not None and not isinstance(recipe, str):
        raise ConfigError(f"{path}: base: recipe: expected a name or a path, got {recipe!r}")
    own = _dotted(own)
    for key in own:
        _check_key(path, "base", key)
    flat: dict[str, Scalar] = {}
    if recipe:
        # With the defaults of all its keys, as the recipe has them when it is run by itself.
        beside = path.parent / recipe
        flat = load(beside if beside.suffix == ".toml" else recipe_path(recipe)).flat()
    flat |= own
    return {k: v for k, v in flat.items() if k not in _RESERVED or k == "runs-dir"}


def _grid(path: Path, given: Any) -> dict[str, list[Scalar]]:
    if not isinstance(given, dict):
        raise ConfigError(f"{path}: grid: expected a table of lists, got {given!r}")
    grid = {}
    for key, values in _dotted(given).items():
        _check_key(path, "grid", key)
        if not isinstance(values, list):
            raise ConfigError(f"{path}: grid: {key}: expected a list of values, got {values!r}")
        grid[key] = _values(path, key, values)
    return grid


def _methods(path: Path, given: Any, grid: Mapping[str, Any]) -> list[dict[str, Any]]:
    if not isinstance(given, list) or not all(isinstance(table, dict) for table in given):
        raise ConfigError(f"{path}: method: expected [[method]] tables, got {given!r}")
    given = [_dotted(table) for table in given]
    for table in given:
        for key in table:
            if key != "label":
                _check_key(path, "method", key)
        if table and "method" not in table and "method" not in grid:
            raise ConfigError(f"{path}: a [[method]] table names no method; add method = NAME")
        if table and "method" in grid:
            raise ConfigError(f"{path}: methods stand in the grid and in [[method]]; choose one")
    return [dict(table) for table in given]


def _dotted(table: Mapping[str, Any]) -> dict[str, Any]:
    """A table's options by dotted keys, ``method-options.mu``, so that each may be varied."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        is_table = key in TABLES and isinstance(value, dict)
        flat.update(flattened(value, key) if is_table else {key: value})
    return flat


def _values(path: Path, key: str, value: Any) -> list[Scalar]:
    values = value if isinstance(value, list) else [value]
    if not values:
        raise ConfigError(f"{path}: {key}: the list is empty; give it values or leave it out")
    for one in values:
        if not isinstance(one, (str, int, float, bool)):
            raise ConfigError(f"{path}: {key}: expected single values, got {one!r}")
        if values.count(one) > 1:
            raise ConfigError(f"{path}: {key}: {one!r} stands there twice; leave one out")
    return values


def _check_key(path: Path, part: str, key: str) -> None:
    if key in _RESERVED and not (part == "base" and key == "runs-dir"):
        raise ConfigError(f"{path}: {part}: {key}: a sweep says this itself; leave it out")
    if key.partition(".")[0] not in keys():
        raise ConfigError(f"{path}: {part}: {unknown_key(key)}")


def _run_name(label: str, flat: Mapping[str, Scalar], varied: Mapping[str, Scalar]) -> str:
    """A folder's name from the label or method, and the values that vary, the seed last."""
    method = str(flat.get("method", Config().method)).rpartition(":")[2].rpartition(".")[2]
    parts = [_slug(label or method) or "run"]
    parts += [
        _slug(f"{key.rpartition('.')[2]}{value}")
        for key, value in varied.items()
        if key not in ("method", "seed")
    ]
    parts += [f"seed{varied['seed']}"] if "seed" in varied else []
    name = "-".join(part for part in parts if part)
    return name if len(name) <= 100 else f"{name[:83]}-{digest(name.encode())}"


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.").lower()


def _check_distinct(path: Path, runs: list[PlannedRun]) -> None:
    names: set[str] = set()
    configs: dict[str, str] = {}
    for run in runs:
        if run.name in names:
            raise ConfigError(
                f"{path}: two runs would be called {run.name!r}; give the [[method]] tables a "
                "label each"
            )
        names.add(run.name)
        same = configs.setdefault(run.config.fingerprint(), run.name)
        if same != run.name:
            raise ConfigError(f"{path}: {same!r} and {run.name!r} are the same run; drop one")
