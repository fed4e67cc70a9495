"""The forms in which data sets tell of their images: CSV, JSON lines, lists, iNaturalist's JSON."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import IO, Any

from fedloge.data.csv_tables import parsed_table, split_name, with_roles
from fedloge.data.manifest import Manifest, column_name
from fedloge.errors import DataError

_TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".csv.gz", ".tsv.gz")


def is_table_name(name: str) -> bool:
    """Whether a file in the root of a data set is taken for a table of its images.

    CSV files are; lists and JSON files only if their name says which split they are of.
    """
    last = name.rpartition("/")[2].lower()
    if last.endswith(_TABLE_SUFFIXES):
        return True
    return last.endswith((".txt", ".json")) and split_in_name(name) is not None


def split_in_name(name: str) -> str | None:
    """The split that a file's name says, if it says one.

    >>> split_in_name("ImageNet_LT_val.txt"), split_in_name("train2018.json"), split_in_name("a.csv")
    ('validation', 'train', None)
    """
    stem = PurePosixPath(name.lower()).name.partition(".")[0]
    words = {split_name(word) for word in re.findall("[a-z]+", stem)}
    found = words & {"train", "validation", "test"}
    return found.pop() if len(found) == 1 else None


def read_rows(name: str, stream: IO[bytes], columns: Mapping[str, str]) -> Manifest:
    """The rows of a file of any of these forms, known by its suffix; any other is a CSV table.

    ``.txt``: a list of ``path label``, whose label is what follows the last blank. ``.jsonl``: an
    object a line. ``.json``: iNaturalist's (COCO's) images, annotations and categories, with users or,
    hashed, rights holders as sites.

    Raises
    ------
    DataError
        The file does not have its form.
    """
    suffix = PurePosixPath(name.lower().removesuffix(".gz")).suffix
    if suffix not in (".txt", ".jsonl", ".json"):
        return parsed_table(name, stream, columns)
    unpacked = gzip.GzipFile(fileobj=stream) if name.lower().endswith(".gz") else stream
    text = io.TextIOWrapper(unpacked, "utf-8-sig")
    try:
        if suffix == ".txt":
            return with_roles(name, _list(name, text), columns)
        if suffix == ".json":
            return with_roles(name, _coco(name, json.load(text)), columns)
        return with_roles(name, _json_lines(name, text), columns)
    except (OSError, EOFError, ValueError) as exc:
        raise DataError(f"{name}: cannot be read as a table ({exc})") from None


def _list(name: str, lines: Iterable[str]) -> dict[str, list[str]]:
    paths, labels = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        path, _, label = line.strip().rpartition(" ")
        path, label = (path.strip(), label) if path else tuple(line.strip().rpartition("\t")[::2])
        if not path:
            raise DataError(f"{name}: line {number}: expected a path and a label, got {line!r}")
        paths.append(path)
        labels.append(label)
    return {"path": paths, "label": labels}


def _json_lines(name: str, lines: Iterable[str]) -> dict[str, list[str]]:
    rows = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            row = json.loads(line)
            if not isinstance(row, dict):
                raise DataError(f"{name}: line {number}: expected an object, got {line.strip()!r}")
            rows.append({column_name(key): value for key, value in row.items()})
    names = list(dict.fromkeys(key for row in rows for key in row))
    return {key: [_text(row.get(key)) for row in rows] for key in names}


def _coco(name: str, content: Any) -> dict[str, list[str]]:
    try:
        images = {image["id"]: image for image in content["images"]}
        labels = {note["image_id"]: note["category_id"] for note in content["annotations"]}
        classes = {kind["id"]: kind.get("name") for kind in content.get("categories", ())}
        known = [key for key in images if key in labels]
        table = {
            "path": [str(images[key]["file_name"]) for key in known],
            "id": [str(key) for key in known],
            "label": [str(classes.get(labels[key]) or labels[key]) for key in known],
        }
    except (KeyError, TypeError, AttributeError) as exc:
        raise DataError(
            f"{name}: expected images, annotations and categories as in iNaturalist's files ({exc!r})"
        ) from None
    if len(set(classes.values())) < len(classes):  # two species of one name
        table["label"] = [str(labels[key]) for key in known]
    if any("user_id" in images[key] for key in known):
        table["site"] = [_text(images[key].get("user_id")) for key in known]
    elif any("rights_holder" in images[key] for key in known):
        table["site"] = [_pseudonym(_text(images[key].get("rights_holder"))) for key in known]
    for further in ("license", "date", "latitude", "longitude"):
        if any(further in images[key] for key in known):
            table[further] = [_text(images[key].get(further)) for key in known]
    return table


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def _pseudonym(name: str) -> str:
    """A name that says nothing to a reader; who has a list of names can still find it."""
    return hashlib.sha256(f"rights holder {name}".encode()).hexdigest()[:12] if name else ""
