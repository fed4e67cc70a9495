"""Which images a data set has, and what is known of each, from folders and tables; nothing is decoded."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fedloge.data.images.archives import archive_tree, tar_stream
from fedloge.data.images.file_tree import FileTree, StoredFile, composed, folder_tree, listed
from fedloge.data.images.read_place import read_place
from fedloge.data.joining import LeftOut, Names, Table, fits, joined
from fedloge.data.layouts import (
    FORMS,
    Layout,
    LayoutName,
    Told,
    common_root,
    empty_classes,
    is_image_name,
    layout_of,
)
from fedloge.data.manifest import Manifest, in_order
from fedloge.data.row_files import is_table_name, read_rows, split_in_name
from fedloge.errors import DataError, unknown_name

log = logging.getLogger(__name__)

NO_TABLE = "none"
"""The value of the key ``table`` with which tables beside the images are not looked for."""


@dataclass(frozen=True)
class InputOptions:
    """How a data set is to be read, where it does not say so itself.

    Parameters
    ----------
    table : the tables of its images, separated by commas; "": those in it are found; ``none``: no table.
    columns : for some roles the column to take (`fedloge.data.csv_tables.parse_columns`).
    layout : what its folders mean (`fedloge.data.layouts.layout_of`).
    missing : ``skip``: what does not fit together is left out, with a warning; else it is refused.
    bad_files : ``skip``: what cannot be decoded or read is left out, with a warning; else it is refused.
    classes : all class names, if this is one site's part of a data set; it may lack some. None: those
        that are found.
    """

    table: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    layout: LayoutName = "auto"
    missing: Literal["refuse", "skip"] = "refuse"
    bad_files: Literal["refuse", "skip"] = "refuse"
    classes: Sequence[str] | None = None


@dataclass(frozen=True)
class Catalogue:
    """The images of a data set in their order: those for training, then those for testing.

    Parameters
    ----------
    tree : the folder or archive.
    classes : names; in ascending order, as numbers if a table gives whole numbers.
    rows : of each image path, label, split, and what else is known.
    files : where each image is.
    num_train : how many are for training.
    """

    tree: FileTree
    classes: tuple[str, ...]
    rows: Manifest
    files: Sequence[StoredFile]
    num_train: int


def catalogue(path: Path, cache: Path, options: InputOptions) -> Catalogue:
    """Find the images of a folder or an archive, and join them with the tables that tell of them.

    Parameters
    ----------
    path : a folder, a tar or zip archive, or a table whose images lie beside it.
    cache : where listings of archives are kept.

    Raises
    ------
    DataError
        There is no such thing, or it does not fit together: one line with counts and examples.
    """
    tree, tables = _opened(path, cache, options)
    _refuse_entries(tree, options)
    names = [file.name for file in tree.files]
    _refuse_doubles(path, names)
    images = [name for name in names if is_image_name(name)]
    root = common_root(images)
    found = tables or _tables(tree, names, images, root, options)
    told_of = {table.name for table in found}
    layout = _layout(path, [n for n in names if n not in told_of], options, needed=not found)
    left = LeftOut()
    if found:
        rows = _from_tables(found, Names([n for n in names if n not in told_of], root), left)
        _note_images_without_row(found, images, rows, left)
        # The root of what tables speak of, so that paths are those of the whole set.
        complete = _completed(rows, layout, left)
    else:
        assert layout is not None
        complete = _from_folders(path, tree, layout, options, left)
    classes = _classes(complete, options, as_numbers=bool(found))
    _check_classes(path, complete, classes, options, left)
    left.settle(path, options.missing)
    return _in_order(tree, root if layout is None else layout.root, complete, classes)


def _opened(path: Path, cache: Path, options: InputOptions) -> tuple[FileTree, list[Table]]:
    try:
        if path.is_dir():
            return folder_tree(path), []
        if path.is_file() and is_table_name(path.name) and not options.table:
            with path.open("rb") as stream:
                rows = read_rows(path.name, stream, options.columns)
            return folder_tree(path.parent), [Table(path.name, "", _with_split(path.name, rows))]
        if path.is_file():
            return archive_tree(path, cache), []
    except OSError as exc:
        raise DataError(f"{exc.filename or path}: cannot be read ({exc.strerror})") from None
    raise DataError(f"data-path {str(path)!r}: no such folder or archive; expected {FORMS} in it")


def _refuse_entries(tree: FileTree, options: InputOptions) -> None:
    if not tree.refused:
        return
    said = f"{tree.path}: {len(tree.refused):,} entries cannot be taken: {listed(tree.refused)}"
    if options.bad_files != "skip":
        raise DataError(f'{said}; mend or remove them, or leave them out with bad-files = "skip"')
    log.warning("%s; left out", said)


def _refuse_doubles(path: Path, names: Sequence[str]) -> None:
    seen: set[str] = set()
    doubles = [name for name in names if name in seen or seen.add(name)]  # type: ignore[func-returns-value]
    if doubles:
        raise DataError(
            f"{path}: {len(doubles):,} files are in it twice, such as {min(doubles)!r}; make the archive "
            "anew, or rename one"
        )


def _tables(
    tree: FileTree, names: Sequence[str], images: Sequence[str], root: str, options: InputOptions
) -> list[Table]:
    if options.table == NO_TABLE:
        return []
    by_name = {file.name: file for file in tree.files}
    asked = [part.strip() for part in options.table.split(",") if part.strip()]
    if asked:
        return [_asked_table(tree, by_name, root, name, options) for name in asked]
    found, by_any_name = [], None
    for file in tree.files:
        folder, _, last = file.name.rpartition("/")
        base = f"{folder}/" if folder else ""
        beside = last.lower() in ("metadata.csv", "metadata.jsonl")
        of_all = is_table_name(last) and all(name.startswith(base) for name in images)
        if not beside and not of_all:
            continue
        rows = _read(tree, file, options)
        table = Table(file.name, base, _with_split(last, rows), beside)
        by_any_name = by_any_name or Names(names, root)
        if fits(table, by_any_name):
            found.append(table)
        else:
            log.warning("%s: %s names none of the images; passed over", tree.path, file.name)
    in_root = [table for table in found if not table.beside]
    splits = [tuple(set(table.rows.columns.get("split", ()))) for table in in_root]
    if len(in_root) > 1 and (len(set(splits)) < len(splits) or () in splits):
        raise DataError(
            f"{tree.path}: {' and '.join(table.name for table in in_root)} could each say what its images are; "
            f'name one with table = "{in_root[0].name}"'
        )
    return found


def _asked_table(
    tree: FileTree, by_name: Mapping[str, StoredFile], root: str, name: str, options: InputOptions
) -> Table:
    for inside in (root + name, name):
        if inside in by_name:
            folder = inside.rpartition("/")[0]
            rows = _read(tree, by_name[inside], options)
            return Table(inside, f"{folder}/" if folder else "", _with_split(name, rows))
    # At a site the server's config must not name files outside the site's folder.
    elsewhere = (Path(name).expanduser(), tree.path.parent / name)
    for outside in elsewhere if options.classes is None else ():
        if outside.is_file():
            try:
                with outside.open("rb") as stream:
                    rows = read_rows(str(outside), stream, options.columns)
            except OSError as exc:
                raise DataError(f"table: {outside} cannot be read ({exc.strerror})") from None
            return Table(str(outside), "", _with_split(outside.name, rows))
    raise DataError(f"table: there is no {name!r}, neither in {tree.path} nor here; give its path")


def _read(tree: FileTree, file: StoredFile, options: InputOptions) -> Manifest:
    if file.place:
        data = read_place(file.place)
    else:
        data = next((data for _, data in tar_stream(tree.path, {file.member: None})), b"")
    return read_rows(f"{tree.path}/{file.name}", io.BytesIO(data), options.columns)


def _with_split(name: str, rows: Manifest) -> Manifest:
    split = split_in_name(name)
    if "split" in rows or split is None:
        return rows
    return rows.with_column("split", [split] * len(rows))


def _layout(
    path: Path, names: Sequence[str], options: InputOptions, *, needed: bool
) -> Layout | None:
    try:
        return layout_of(path, names, options.layout)
    except DataError:
        # With a table, folders need not say anything; where it has no labels, that is said below.
        if needed or options.layout != "auto":
            raise
        return None


def _from_tables(tables: Sequence[Table], names: Names, left: LeftOut) -> dict[str, dict[str, str]]:
    return {name: dict(row) for name, row in joined(tables, names, left).items()}


def _note_images_without_row(
    tables: Sequence[Table], images: Sequence[str], rows: Mapping[str, object], left: LeftOut
) -> None:
    whole = any(not table.beside for table in tables)
    bases = tuple(table.base for table in tables)
    for name in images:
        if name not in rows and (whole or name.startswith(bases)):
            left.add("images without a row", name)


def _completed(
    rows: dict[str, dict[str, str]], layout: Layout | None, left: LeftOut
) -> dict[str, dict[str, str]]:
    """What the folders say, where the tables do not."""
    told = layout.told if layout is not None else {}
    in_table = {row["label"] for row in rows.values() if row.get("label")}
    in_folders = {told[name].label for name in rows if name in told}
    comparable = bool(in_table) and in_table <= in_folders
    complete = {}
    for name, row in rows.items():
        place = told.get(name, Told())
        if comparable and row.get("label") and row["label"] != place.label:
            left.add("rows of another class than their image's folder", name)
            continue
        row["label"] = row.get("label") or place.label
        row["split"] = row.get("split") or place.split or "train"
        if place.site and "site" not in row:
            row["site"] = place.site
        if not row["label"]:
            left.add("images without a class", name)
            continue
        complete[name] = row
    return complete


def _from_folders(
    path: Path, tree: FileTree, layout: Layout, options: InputOptions, left: LeftOut
) -> dict[str, dict[str, str]]:
    for stray in layout.strays:
        left.add(f"images that are not in the folder of a class as in {FORMS}", stray)
    _refuse_empty_classes(path, tree, layout, options)
    rows = {}
    for name, place in layout.told.items():
        row = {"label": place.label, "split": place.split or "train"}
        if place.site:
            row["site"] = place.site
        if place.label:
            rows[name] = row
        else:
            left.add("images without a class", name)
    return rows


def _refuse_empty_classes(
    path: Path, tree: FileTree, layout: Layout, options: InputOptions
) -> None:
    if options.layout != "auto" or options.classes is not None:
        return
    empty = empty_classes(layout, tree.folders)
    holding = {parent for file in tree.files for parent in _parents(file.name)}
    for folder in empty:
        inner = folder.removeprefix(layout.root)
        if folder not in holding:
            raise DataError(f"{path}: {inner} holds no images; add some or remove it")
        log.warning("%s: %s holds no images, and is passed over", path, inner)


def _parents(name: str) -> list[str]:
    parts = name.split("/")[:-1]
    return ["/".join(parts[: i + 1]) for i in range(len(parts))]


def _classes(
    rows: Mapping[str, Mapping[str, str]], options: InputOptions, *, as_numbers: bool
) -> tuple[str, ...]:
    if options.classes is not None:
        return tuple(composed(name) for name in options.classes)
    labels = {row["label"] for row in rows.values()}
    return in_order(labels) if as_numbers else tuple(sorted(labels))


def _check_classes(
    path: Path,
    rows: dict[str, dict[str, str]],
    classes: Sequence[str],
    options: InputOptions,
    left: LeftOut,
) -> None:
    """Settle which splits and classes there are; rows of others are taken out."""
    _check_splits(path, rows)
    trained = {row["label"] for row in rows.values() if row["split"] == "train"}
    known = set(classes)
    for name, row in list(rows.items()):
        label = row["label"]
        if label not in known:
            if options.missing != "skip":
                raise DataError(f"{path}: {row['split']}: {unknown_name('class', label, classes)}")
            left.add(f"images of class {label!r}, which is none of the federation's", name)
            del rows[name]
        elif options.classes is None and label not in trained:
            if options.missing != "skip":
                raise DataError(
                    f"{path}: class {label!r} is in {row['split']} but not in train, so nobody can learn it; "
                    'add images, or leave it out with missing = "skip"'
                )
            left.add(f"images of class {label!r}, of which none is for training", name)
            del rows[name]


def _check_splits(path: Path, rows: dict[str, dict[str, str]]) -> None:
    splits = {row["split"] for row in rows.values()}
    if unknown := splits - {"train", "validation", "test"}:
        raise DataError(
            f"{path}: split: expected train, validation or test, got {min(unknown)!r}; name another column "
            'with columns = "split = COLUMN"'
        )
    held = [name for name, row in rows.items() if row["split"] == "validation"]
    if held and "test" not in splits:
        log.info("%s: the split of validation is the test set, as there is no other", path)
        for name in held:
            rows[name]["split"] = "test"
    elif held:
        log.warning(
            "%s: %s images of the split of validation are left out; validation-share holds some out of each "
            "client's",
            path,
            f"{len(held):,}",
        )
        for name in held:
            del rows[name]


def _in_order(
    tree: FileTree, root: str, rows: Mapping[str, Mapping[str, str]], classes: tuple[str, ...]
) -> Catalogue:
    number = {name: i for i, name in enumerate(classes)}
    classes_found = {row["label"] for row in rows.values()}
    files = {file.name: file for file in tree.files if file.name in rows}
    order = sorted(
        rows, key=lambda name: (rows[name]["split"] != "train", number[rows[name]["label"]], name)
    )
    names = list(dict.fromkeys(key for row in rows.values() for key in row))
    # A table's own path is how it names an image; the manifest's is where that was found.
    columns = {
        name: [rows[image].get(name, "") for image in order] for name in names if name != "path"
    }
    columns = {"path": [image.removeprefix(root) for image in order], **columns}
    num_train = sum(rows[image]["split"] == "train" for image in order)
    log.info("%s: %d images of %d classes", tree.path, len(order), len(classes_found))
    return Catalogue(tree, classes, Manifest(columns), [files[image] for image in order], num_train)
