from __future__ import annotations

import numpy as np
import pytest
import torch
from image_folders import files, load, write_folder

from fedloge.config import from_flat
from fedloge.data import AsTheyAre, DataSet, Examples, Manifest, load_dataset
from fedloge.errors import DataError


def table() -> Manifest:
    return Manifest({"path": ("a", "b", "c"), "site": ("10", "9", "10")})


def test_columns_are_found_by_name_and_taken_in_any_order() -> None:
    assert len(table()) == 3 and "Site" in table() and "group" not in table()
    assert table().take(np.array([2, 0, 0])).column("path") == ["c", "a", "a"]
    assert table().take(torch.tensor([1])).column("site") == ["9"]
    more = table().with_column("Eye Colour", ("x", "y", "z"))
    assert more.names == ("path", "site", "eye_colour") and more.column("eye colour")[1] == "y"


def test_a_column_as_numbers_is_in_the_order_of_its_values() -> None:
    names, numbers = table().numbered("site")
    assert names == ("9", "10") and numbers.tolist() == [1, 0, 1] and numbers.dtype == np.int64


def test_a_column_that_is_missing_is_named_with_those_there_are() -> None:
    with pytest.raises(DataError, match=r"says no 'group' of its examples, only path, site; .*"):
        table().column("group")


def test_rows_and_examples_are_as_many() -> None:
    with pytest.raises(DataError, match="columns of one length"):
        Manifest({"path": ("a", "b"), "site": ("x",)})
    two = Examples(torch.zeros(2, 1), torch.tensor([0, 1]))
    with pytest.raises(DataError, match=r"'mine': the manifest of test has 3 rows for 2 examples"):
        DataSet("mine", two, two, ("a", "b"), AsTheyAre(), test_manifest=table())


def test_the_manifest_of_an_image_folder(tmp_path) -> None:
    data = load(write_folder(tmp_path / "set", files()), tmp_path / "cache")
    assert data.train_manifest is not None and data.test_manifest is not None
    assert data.train_manifest.column("label") == ["cat", "cat", "cat", "dog", "dog"]
    assert data.test_manifest.column("path") == data.test_origins
    assert data.test_manifest.column("split") == ["test"] * 3


def test_a_source_without_files_names_its_rows() -> None:
    digits = load_dataset(from_flat({}))
    assert digits.train_manifest is not None and len(digits.train_manifest) == len(digits.train)
