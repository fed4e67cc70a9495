"""Data sets in the forms in which people have them, each loaded as it is."""

from __future__ import annotations

import re
import tarfile
import zipfile
from pathlib import Path

import pytest
from image_folders import columns, load, loaded, pictures, reds, write_archive

from fedloge.data.layouts import common_root, layout_of
from fedloge.errors import DataError

PHOTOS = Path(__file__).parents[3] / "shared" / "data" / "photos.tar"


def test_a_class_folder_without_a_split_is_all_for_training(tmp_path) -> None:
    data = loaded(tmp_path, pictures("cat/b.png", "cat/a.png", "dog/a.png"))
    assert reds(data.train.inputs) == [10, 0, 20] and len(data.test) == 0
    assert columns(data, "path", "label") == [
        ("cat/a.png", "cat"),
        ("cat/b.png", "cat"),
        ("dog/a.png", "dog"),
    ]


def test_a_folder_for_each_site(tmp_path) -> None:
    data = loaded(
        tmp_path, pictures("Bonn/cat/a.png", "Bonn/dog/a.png", "Köln/cat/a.png", "Köln/cat/b.png")
    )
    assert data.classes == ("cat", "dog")
    assert columns(data, "label", "site") == [
        ("cat", "Bonn"),
        ("cat", "Köln"),
        ("cat", "Köln"),
        ("dog", "Bonn"),
    ]


def test_sites_with_a_split_each(tmp_path) -> None:
    content = pictures(
        *("A/train/cat/1.png", "A/test/cat/2.png"),
        *("B/train/cat/3.png", "B/train/dog/4.png", "B/val/dog/5.png"),
    )
    data = loaded(tmp_path, {f"inner/{name}": data for name, data in content.items()})
    assert columns(data, "label", "site", "path") == [
        ("cat", "A", "A/train/cat/1.png"),
        ("cat", "B", "B/train/cat/3.png"),
        ("dog", "B", "B/train/dog/4.png"),
    ]
    assert columns(data, "site", "split", split="test") == [("A", "test")]


def test_a_split_called_validation_is_the_test_set_where_there_is_no_other(tmp_path) -> None:
    data = loaded(tmp_path, pictures("training/cat/a.png", "valid/cat/b.png"))
    assert (reds(data.train.inputs), reds(data.test.inputs)) == ([0], [10])


def test_a_split_of_validation_beside_a_test_set_is_left_out_with_a_word(tmp_path, caplog) -> None:
    data = loaded(tmp_path, pictures("train/cat/a.png", "val/cat/b.png", "test/cat/c.png"))
    assert (reds(data.train.inputs), reds(data.test.inputs)) == ([0], [20])
    assert "1 images of the split of validation are left out" in caplog.text


def test_folders_of_kinds_of_classes_are_not_taken_for_sites(tmp_path) -> None:
    content = pictures("Birds/kite/a.png", "Birds/owl/a.png", "Fish/eel/a.png")
    with pytest.raises(DataError, match=r'whether \'Birds\' is a site \(layout = "sites"\)'):
        loaded(tmp_path, content)
    assert loaded(tmp_path, content, layout="classes").classes == ("eel", "kite", "owl")
    data = loaded(tmp_path, content, layout="sites")
    assert columns(data, "site") == [("Fish",), ("Birds",), ("Birds",)]


def test_layouts_as_asked(tmp_path) -> None:
    content = pictures("train/big/cat/a.png", "train/dog/a.png", "test/dog/b.png", "a.png")
    data = loaded(tmp_path, content, layout="splits", missing="skip")
    assert data.classes == ("cat", "dog") and len(data.test) == 1
    content = pictures("A/train/x/cat/a.png", "A/test/cat/b.png", "B/cat/c.png")
    data = loaded(tmp_path / "b", content, layout="sites")
    assert columns(data, "site", "label") == [("A", "cat"), ("B", "cat")]
    assert len(data.test) == 1


def test_images_beside_the_splits_are_counted(tmp_path, caplog) -> None:
    content = pictures("train/cat/a.png", "test/cat/b.png", "more/cat/c.png", "d.png")
    with pytest.raises(DataError, match=r"2 images that are not in the folder of a class as in "):
        loaded(tmp_path, content)
    data = loaded(tmp_path, content, missing="skip")
    assert len(data.train) == len(data.test) == 1
    assert "left out: 2 images that are not in" in caplog.text


def test_system_files_and_notes_are_passed_over(tmp_path) -> None:
    content = pictures("cat/a.png", "dog/a.png")
    for junk in ("Thumbs.db", "cat/Thumbs.db", "cat/desktop.ini", "dog/.DS_Store", ".git/x.png"):
        content[junk] = b"junk"
    content |= {"__MACOSX/cat/._a.png": b"junk", "README.md": b"words", "notes/a.txt": b"words"}
    assert reds(loaded(tmp_path, content).train.inputs) == [0, 10]


def test_two_ways_to_write_a_name_are_one_class(tmp_path) -> None:
    composed, apart = "ch\u00e8vre", "che\u0300vre"
    content = pictures(f"train/{composed}/a.png", f"test/{apart}/b.png", f"train/{apart}/c.png")
    data = loaded(tmp_path, content)
    assert data.classes == (composed,) and reds(data.train.inputs) == [0, 20]
    content = pictures(f"{composed}/a.png", f"{apart}/a.png")
    with pytest.raises(DataError, match=r"1 files are in it twice, such as 'chèvre/a\.png'"):
        loaded(tmp_path / "b", content)


def test_a_class_of_one_image_and_a_class_in_test_alone(tmp_path) -> None:
    data = loaded(tmp_path, pictures("cat/a.png", "cat/b.png", "dog/a.png"))
    assert data.train.labels.tolist() == [0, 0, 1]
    # Told before anything is decoded: no image of this set is one.
    content = {"train/cat/a.png": b"junk", "test/cat/b.png": b"junk", "test/dog/c.png": b"junk"}
    message = "class 'dog' is in test but not in train, so nobody can learn it"
    with pytest.raises(DataError, match=message):
        loaded(tmp_path / "b", content)


def test_what_folders_do_not_say(tmp_path) -> None:
    with pytest.raises(DataError, match=re.escape("'cat.png' does not say what is its class")):
        loaded(tmp_path, pictures("cat.png", "dog.png"))
    with pytest.raises(DataError, match="no images in it"):
        loaded(tmp_path / "b", {".hidden/a.png": b""})
    with pytest.raises(DataError, match=r"2 images without a class"):
        loaded(tmp_path / "c", pictures("train/a.png", "test/b.png"))


def test_the_root_of_all_images() -> None:
    assert common_root(["a/b/cat/1.png", "a/b/dog/1.png"]) == "a/b/"
    assert common_root(["a/train/cat/1.png"]) == "a/"
    assert common_root(["cat/1.png", "dog/1.png"]) == "" == common_root([])
    layout = layout_of(Path("x"), ["p/A/cat/1.png", "p/B/cat/1.png"], "auto")
    assert layout.root == "p/" and {told.site for told in layout.told.values()} == {"A", "B"}


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_archives_of_sites(tmp_path, kind) -> None:
    content = pictures("set/A/cat/1.png", "set/B/cat/2.png", "set/B/dog/3.png")
    if kind == "tar":
        path = write_archive(tmp_path / "set.tar", content)
    else:
        path = tmp_path / "set.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in content.items():
                archive.writestr(name, data)
    data = load(path, tmp_path / "cache")
    assert columns(data, "site", "label") == [("A", "cat"), ("B", "cat"), ("B", "dog")]
    assert reds(data.train.inputs) == [0, 10, 20]


@pytest.mark.slow
@pytest.mark.skipif(not PHOTOS.exists(), reason=f"{PHOTOS.name} is not here")
def test_the_real_photos_of_four_sites(tmp_path) -> None:
    data = load(PHOTOS, tmp_path / "cache", image_size=16)
    assert len(data.train) == 5004 and data.num_classes == 7 and len(data.test) == 0
    assert data.train_manifest is not None
    assert {*data.train_manifest.column("site")} == {"photo", "art_painting", "cartoon", "sketch"}
    with tarfile.open(PHOTOS) as tar:
        members = {m.name.split("/", 1)[1] for m in tar if m.isreg() and m.name.endswith(".jpg")}
    assert members == {*data.train_origins}
