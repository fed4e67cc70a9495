"""Reading the files of a run, with one-line errors.

A run may be read while it is still being written. A torn last line, as a kill leaves it, is
left out and its file named. Anything else that a run does not write so raises `RunDirError`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from fedloge.config import Config, load
from fedloge.errors import ConfigError, RunDirError
from fedloge.run_files import FORMAT

Line = dict[str, Any]
"""A line of a JSON-lines file: values by name, its round among them."""

NUMBER: tuple[type, ...] = (int, float, type(None))
NUMBER_OR_LIST: tuple[type, ...] = (*NUMBER, list)
ANYTHING: tuple[type, ...] = (object,)

_REQUIRED: dict[str, type] = {
    "name": str,
    "fingerprint": str,
    "method": str,
    "classes": list,
    "train-counts": list,
    "groups": list,
}


def read_info(path: Path) -> dict[str, Any]:
    """``run.json``, checked for the keys that every reader needs; `RunDirError` if it is damaged."""
    try:
        info = json.loads(path.read_bytes())
    except (OSError, ValueError) as exc:
        raise RunDirError(
            f"{path}: damaged, expected a JSON object, got {_one_line(exc)}; copy the run again"
        ) from None
    if not isinstance(info, dict):
        raise RunDirError(
            f"{path}: damaged, expected a JSON object, got {type(info).__name__}; "
            "copy the run again"
        )
    if info.get("format") != FORMAT:
        raise RunDirError(
            f"{path}: expected run format {FORMAT}, got {info.get('format')!r}; "
            "read it with the version of fedloge that wrote it"
        )
    for key, kind in _REQUIRED.items():
        if not isinstance(info.get(key), kind):
            raise RunDirError(
                f"{path}: damaged, expected {key!r} to be a {kind.__name__}, "
                f"got {info.get(key)!r}; copy the run again"
            )
    for key in ("train-counts", "groups"):
        if len(info[key]) != len(info["classes"]):
            raise RunDirError(
                f"{path}: damaged, expected {len(info['classes'])} {key}, one per class, "
                f"got {len(info[key])}; copy the run again"
            )
    return info


def read_config(path: Path) -> Config:
    """``config.toml``, checked as a recipe is; `RunDirError` if it is missing or damaged."""
    if not path.is_file():
        raise RunDirError(
            f"{path}: missing, expected the configuration of the run; copy the run again"
        )
    try:
        return load(path)
    except ConfigError as exc:
        raise RunDirError(f"damaged run: {exc}") from None


def read_lines(path: Path, torn: list[str], kinds: tuple[type, ...] = NUMBER) -> Iterator[Line]:
    """Yield the lines of a JSON-lines file, whose values must be of `kinds`; none without a file.

    Figures that are null or not finite are left out of their line. If the last line is torn, the
    file's name is added to `torn`.

    Raises
    ------
    RunDirError
        The file cannot be read, or another line than the last is damaged.
    """
    if not path.exists():
        return
    try:
        file = path.open("rb")
    except OSError as exc:
        raise RunDirError(f"{path}: cannot be read ({exc.strerror})") from None
    with file:
        for number, raw in enumerate(file, start=1):
            line, problem = _parse_line(raw, kinds)
            if problem is None:
                yield line
            elif not raw.endswith(b"\n"):
                torn.append(path.name)
            else:
                raise RunDirError(
                    f"{path}: line {number} is damaged, expected a JSON object with its round, "
                    f"got {problem}; copy the run again"
                )


def check_order(path: Path, lines: Sequence[Line]) -> None:
    """`RunDirError` if the rounds of the lines do not rise."""
    for number, (before, line) in enumerate(pairwise(lines), start=2):
        if line["round"] <= before["round"]:
            raise RunDirError(
                f"{path}: line {number} is out of order, expected a round after "
                f"{before['round']}, got {line['round']}; copy the run again"
            )


def read_tensors(path: Path, *wanted: str) -> dict[str, NDArray[Any]] | None:
    """The `wanted` tensors of a safetensors file; None without a file, `RunDirError` if it is damaged."""
    if not path.exists():
        return None
    try:
        tensors = safetensors.numpy.load_file(path)
    except (OSError, safetensors.SafetensorError) as exc:
        raise RunDirError(
            f"{path}: damaged, expected a safetensors file, got {_one_line(exc)}; "
            "copy the run again"
        ) from None
    missing = [key for key in wanted if key not in tensors]
    if missing:
        raise RunDirError(
            f"{path}: expected a tensor {missing[0]!r}, got {', '.join(tensors) or 'none'}; "
            "copy the run again"
        )
    return {key: tensors[key] for key in wanted}


def _parse_line(raw: bytes, kinds: tuple[type, ...]) -> tuple[Line, str | None]:
    text = _one_line(raw.decode("utf-8", "replace").strip()) or "nothing"
    try:
        line = json.loads(raw)
    except ValueError:
        return {}, text
    if not isinstance(line, dict) or not isinstance(line.get("round"), int):
        return {}, text
    for key, value in line.items():
        if not isinstance(value, kinds) or ("/" in key and isinstance(value, bool)):
            return {}, f"{key} = {value!r}"
    return {key: value for key, value in line.items() if _is_known(value)}, None


def _is_known(value: object) -> bool:
    return value is not None and not (isinstance(value, float) and not math.isfinite(value))


def _one_line(problem: object) -> str:
    text = " ".join(str(problem).split())
    return text if len(text) <= 100 else f"{text[:97]}..."
