"""``fedloge cache``: what is kept of decoded images, listings and features, checked and cleared."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedloge.commands.arguments import Json
from fedloge.console import print_json, stdout
from fedloge.errors import InputError
from fedloge.folders import cache_folder

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Entry:
    """One thing that is kept: decoded images, the listing of an archive, or a frozen network's outputs."""

    name: str
    kind: str
    size: int
    images: int
    source: str
    state: str = ""


def cache(
    folder: Annotated[
        str, typer.Option("--dir", help="The cache; the user's, if not given (cache-dir).")
    ] = "",
    check: Annotated[bool, typer.Option("--check", help="Check every image's checksum.")] = False,
    clear: Annotated[
        str, typer.Option(help="Remove the entry whose name begins so; all: every one.")
    ] = "",
    json_: Json = False,
) -> None:
    """List decoded images and features that are kept, check or clear them."""
    place = cache_folder(folder)
    found = entries(place)
    if clear:
        gone = [entry for entry in found if clear == "all" or entry.name.startswith(clear)]
        if not gone and clear != "all":
            raise InputError(f"cache: nothing in {place} begins with {clear!r}")
        busy = [entry.name for entry in gone if _in_use(place / entry.name)]
        if busy:
            raise InputError(
                f"cache: {busy[0]} is being written at this moment; nothing is removed"
            )
        for entry in gone:
            _remove(place / entry.name)
        freed = sum(entry.size for entry in gone)
        stdout().print(f"{len(gone)} removed, {freed / 2**20:,.1f} MiB", markup=False)
        return
    if check:
        found = [_checked(place, entry) for entry in found]
    if json_:
        print_json([asdict(entry) for entry in found])
    elif found:
        stdout().print(_table(found, checked=check))
        total = sum(entry.size for entry in found) / 2**20
        stdout().print(f"{place}: {total:,.1f} MiB", soft_wrap=True, markup=False)
    else:
        stdout().print(f"{place}: nothing", soft_wrap=True, markup=False)
    if any(entry.state not in ("", "whole") for entry in found):
        raise typer.Exit(1)


def entries(place: Path) -> list[Entry]:
    """What a cache folder holds of images, listings and features, by name."""
    if not place.is_dir():
        return []
    found = []
    for path in sorted(place.iterdir()):
        if path.name.startswith("images-") and path.is_dir():
            found.append(_images(path))
        elif path.name.startswith("features-") and path.is_dir():
            found.append(_features(path))
        elif path.name.startswith("listing-") and path.suffix == ".json":
            about = _json(path)
            count = len(about.get("tree", {}).get("files", ()))
            source = str((about.get("identity") or ["?"])[0])
            found.append(Entry(path.name, "listing", path.stat().st_size, count, source))
    return found


def _images(path: Path) -> Entry:
    unfinished = path.suffix == ".partial"
    about = _json(path / ("about.json" if unfinished else "entry.json"))
    # Bytes on the disk: of what is not finished, parts are holes.
    size = sum(512 * file.stat().st_blocks for file in path.iterdir() if file.is_file())
    images = about.get("images", len(about.get("crc32", ())))
    kind = "unfinished" if unfinished else "images" if about else "unreadable, or older"
    return Entry(path.name, kind, size, int(images), str(about.get("source", "?")))


def _features(path: Path) -> Entry:
    about = _json(path / "manifest.json")
    shape = about.get("shape", [0])
    kind = "unfinished" if path.suffix == ".partial" else "features" if about else "unreadable"
    size = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
    return Entry(path.name, kind, size, int(shape[0]), str(about.get("name", "?")))


def _json(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text("utf-8")
        content = json.loads(text if text.startswith("{") else text.partition("\n")[2])
        return content if isinstance(content, dict) else {}
    except (OSError, ValueError):
        return {}


def _checked(place: Path, entry: Entry) -> Entry:
    if entry.kind in ("unfinished", "listing") or entry.name.startswith("features-"):
        return entry
    # NumPy, which listing needs not.
    from fedloge.data.images.pixel_store import damaged_images

    try:
        damaged = damaged_images(place / entry.name)
    except (OSError, ValueError, KeyError, TypeError) as exc:
        state = f"damaged: {exc}"
    else:
        state = f"{len(damaged):,} images damaged" if damaged else "whole"
    return Entry(**{**asdict(entry), "state": state})


def _in_use(path: Path) -> bool:
    """Whether a process is writing into an unfinished entry."""
    lock = _lock(path)
    if not lock.exists():
        return False
    # Not there on Windows, where nothing is locked.
    try:
        import fcntl
    except ImportError:
        return False
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def _lock(path: Path) -> Path:
    if path.name.startswith("features-"):
        return path.with_name(path.name.removesuffix(".partial") + ".lock")
    return path / "lock"


def _remove(path: Path) -> None:
    if path.is_dir():
        _lock(path).unlink(missing_ok=True)
        shutil.rmtree(path)
    else:
        path.unlink()


def _table(found: list[Entry], *, checked: bool) -> Table:
    from rich.table import Table  # for start-up time

    table = Table(box=None, pad_edge=False)
    table.add_column("entry")
    table.add_column("MiB", justify="right")
    table.add_column("images", justify="right")
    table.add_column("state" if checked else "kind")
    table.add_column("from", overflow="fold")
    for entry in found:
        state = (entry.state or "-") if checked else entry.kind
        size = f"{entry.size / 2**20:,.1f}"
        table.add_row(entry.name, size, f"{entry.images:,}", state, entry.source)
    return table
