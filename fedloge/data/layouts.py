"""What the folders of a data set say of an image: its class, its split, its site."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from posixpath import splitext
from typing import Literal

from PIL import Image

from fedloge.data.csv_tables import split_name
from fedloge.errors import DataError

LayoutName = Literal["auto", "classes", "splits", "sites"]

FORMS = (
    "<class>/<image>, train/<class>/<image> and test/<class>/<image>, SITE/<class>/<image>, or "
    "SITE/train/<class>/<image>"
)

_SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Told:
    """What an image's folders say. An empty text means: nothing."""

    label: str = ""
    split: str = ""
    site: str = ""


@dataclass(frozen=True)
class Layout:
    """How a tree is laid out.

    Parameters
    ----------
    root : the folder within the tree that holds it all, "" or with ``/`` at its end.
    told : for each image, by its name in the tree, what its folders say.
    strays : images where the layout has none.
    """

    root: str
    told: Mapping[str, Told]
    strays: Sequence[str]


def is_image_name(name: str) -> bool:
    """Whether a file's suffix is that of an image."""
    suffix = splitext(name)[1].lower()
    return suffix in Image.registered_extensions() or suffix in (".dcm", ".dicom")


def is_split(name: str) -> bool:
    """Whether a folder is called like a split."""
    return split_name(name) in _SPLITS


def common_root(names: Sequence[str]) -> str:
    """The folder, with ``/`` at its end, that all images lie in beside their class, site and split.

    >>> common_root(["photos/cat/a.png", "photos/dog/b.png"])
    'photos/'
    """
    parts = [name.split("/") for name in names]
    depth = 0
    shortest = min((len(p) for p in parts), default=0)
    while shortest - depth > 2:
        first = parts[0][depth]
        if is_split(first) or any(p[depth] != first for p in parts):
            break
        depth += 1
    return "".join(f"{part}/" for part in parts[0][:depth]) if parts else ""


def layout_of(path: Path, names: Sequence[str], asked: LayoutName) -> Layout:
    """Find out how a tree is laid out, or take it as `asked`.

    Parameters
    ----------
    path : the data set, for messages.
    names : the files that may be images, by their names in the tree.
    asked : ``auto``: by the depth of the folders. ``classes``: the folder that an image lies in is its
        class, whatever is above. ``splits``: the first folder is a split. ``sites``: the first is a site.

    Raises
    ------
    DataError
        There are no images, or their places do not say what is a class and what a site.
    """
    images = [name for name in names if is_image_name(name)] or list(names)
    if not images:
        raise DataError(f"{path}: no images in it; expected {FORMS}")
    root = common_root(images)
    inner = {name: name.removeprefix(root).split("/") for name in names if name.startswith(root)}
    depths = Counter(len(inner[name]) for name in images)
    told = _found(path, {name: inner[name] for name in images}, depths) if asked == "auto" else {}
    of_folder = {name.rpartition("/")[0]: place for name, place in told.items()}
    strays = []
    for name, parts in inner.items():
        if asked != "auto":
            place = _as_asked(path, parts, asked)
        else:
            # Whatever lies in a class's folder is meant as its image.
            place = told.get(name) or of_folder.get(name.rpartition("/")[0])
        if place is not None:
            told[name] = place
        elif is_image_name(name):
            strays.append(name)
    return Layout(root, told, strays)


def _found(path: Path, inner: Mapping[str, Sequence[str]], depths: Counter[int]) -> dict[str, Told]:
    depth = depths.most_common(1)[0][0]
    there = {name: parts for name, parts in inner.items() if len(parts) == depth}
    tops = {parts[0] for parts in there.values()}
    split_tops = {top for top in tops if is_split(top)}
    if depth == 3 and split_tops:
        # Folders beside train and test are none of it; their images are strays.
        return {name: _place(parts) for name, parts in there.items() if parts[0] in split_tops}
    if depth not in (2, 3, 4) or (depth == 4 and not all(is_split(p[1]) for p in there.values())):
        raise DataError(
            f"{path}: {next(iter(there))!r} does not say what is its class; expected {FORMS}, or say that "
            'it is the folder of the image with layout = "classes"'
        )
    if depth == 2 and split_tops == tops:  # no folders for classes: a table has to say them
        return {n: Told(split=split_name(parts[0])) for n, parts in there.items()}
    told = {name: _place(parts) for name, parts in there.items()}
    if depth == 3:
        _check_sites(path, told)
    return told


def _check_sites(path: Path, told: Mapping[str, Told]) -> None:
    """Raise where sites that have no class in common may be kinds of classes."""
    sites_of = defaultdict(set)
    for place in told.values():
        sites_of[place.label].add(place.site)
    sites = {place.site for place in told.values()}
    if len(sites) > 1 and all(len(found) == 1 for found in sites_of.values()):
        one = next(iter(told.values()))
        raise DataError(
            f"{path}: no two of the folders {', '.join(sorted(sites)[:3])}, ... hold the same class; say "
            f'whether {one.site!r} is a site (layout = "sites"), or only the folder {one.label!r} in it '
            'counts, as a class (layout = "classes")'
        )


def _place(parts: Sequence[str]) -> Told:
    if len(parts) == 2:
        return Told(label=parts[0])
    if len(parts) == 3 and is_split(parts[0]):
        return Told(label=parts[1], split=split_name(parts[0]))
    if len(parts) == 3:
        return Told(label=parts[1], site=parts[0])
    return Told(label=parts[2], split=split_name(parts[1]), site=parts[0])


def _as_asked(path: Path, parts: Sequence[str], asked: LayoutName) -> Told | None:
    if len(parts) < (2 if asked == "classes" else 3):
        return None
    if asked == "classes":
        return Told(label=parts[-2])
    if asked == "splits":
        if not is_split(parts[0]):
            return None
        return Told(label=parts[-2], split=split_name(parts[0]))
    split = split_name(parts[1]) if len(parts) > 3 and is_split(parts[1]) else ""
    return Told(label=parts[-2], split=split, site=parts[0])


def empty_classes(layout: Layout, folders: Sequence[str]) -> list[str]:
    """Folders in the place of a class, but without an image; not those of sites, which may lack classes."""
    with_images = {name.rsplit("/", 1)[0] for name in layout.told}
    splits = any(place.split for place in layout.told.values())
    if any(place.site for place in layout.told.values()):
        return []
    found = []
    for folder in folders:
        if not folder.startswith(layout.root):
            continue
        parts = folder.removeprefix(layout.root).split("/")
        in_place = len(parts) == 2 and is_split(parts[0]) if splits else len(parts) == 1
        if in_place and folder not in with_images:
            found.append(folder)
    return found
