"""Finding the recipes and sweeps that come with fedloge, by name.

An installed wheel has them in ``fedloge/recipes``, the source folder in ``experiments/recipes``.
There ``cifar10-lt`` means ``cifar10-lt.toml``, and ``ablation/etf`` means ``ablation/etf.toml``.
Sweeps have names of their own, in ``sweeps/``.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from fedloge.errors import ConfigError, unknown_name

Kind = Literal["recipe", "sweep"]
_SWEEPS = "sweeps"


def recipe_path(name_or_path: str | Path, kind: Kind = "recipe") -> Path:
    """The file of a recipe or sweep, given by name or by path.

    A file that exists wins over a name. The path of a missing file is returned as it is; the code
    that reads it says what is missing.

    Raises
    ------
    ConfigError
        There is no recipe or sweep of this name; the message names the nearest one.
    """
    path = Path(name_or_path).expanduser()
    if path.is_file() or path.suffix == ".toml" or path.is_absolute():
        return path
    known = known_files(kind)
    name = path.as_posix()
    if name not in known:
        raise ConfigError(f"{unknown_name(kind, name, known)}; or give the path of a TOML file")
    return known[name]


def known_files(kind: Kind = "recipe") -> Mapping[str, Path]:
    """The recipes or sweeps that come with fedloge: each file by its name, in alphabetical order."""
    folder = _folder()
    if kind == "sweep":
        folder /= _SWEEPS
    found = {
        path.relative_to(folder).with_suffix("").as_posix(): path for path in folder.rglob("*.toml")
    }
    return {
        name: found[name]
        for name in sorted(found)
        if kind == "sweep" or not name.startswith(f"{_SWEEPS}/")
    }


def first_sentence(path: Path) -> str:
    """What a recipe says of itself: the first sentence of the comment that it begins with."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comment = itertools.takewhile(lambda line: line.startswith("#"), lines)
    text = " ".join(line.removeprefix("#").strip() for line in comment)
    return re.split(r"(?<=\.) ", text, maxsplit=1)[0]


def _folder() -> Path:
    package = Path(__file__).parent
    installed, in_source = package / "recipes", package.parent / "experiments" / "recipes"
    return installed if installed.is_dir() else in_source
