"""Tables beside images: joined by name or path, never by position; what does not fit is counted."""

from __future__ import annotations

import gzip
import json
import re

import pytest
from image_folders import columns, load, loaded, pictures, reds, write_archive, write_folder

from fedloge.config import from_flat
from fedloge.data import load_dataset
from fedloge.errors import ConfigError, DataError


def text(*lines: str) -> bytes:
    return "\n".join(lines).encode() + b"\n"


def test_ids_without_the_suffix_where_order_would_mislead(tmp_path) -> None:
    # "IMG_0 (2).png" sorts before "IMG_0.png", and "IMG_0" before "IMG_0 (2)".
    content = pictures("cat/IMG_0 (2).png", "cat/IMG_0.png", "cat/IMG_1.png")
    table = text("user_id,image_id", "ann,IMG_0", "bob,IMG_0 (2)", "ann,IMG_1")
    data = loaded(tmp_path, content | {"2017": b"\xef\xbb\xbf" + table}, table="2017")
    assert columns(data, "path", "site", "label") == [
        ("cat/IMG_0 (2).png", "bob", "cat"),
        ("cat/IMG_0.png", "ann", "cat"),
        ("cat/IMG_1.png", "ann", "cat"),
    ]


def test_a_csv_beside_the_images_says_all(tmp_path) -> None:
    content = pictures("images/a.png", "images/b.png", "images/c.png")
    content["labels.csv"] = text(
        "Bild;Befund;Klinik;Alter;Teil",
        "c.png;10;Bonn;50;test",
        "images/a.png;10;Bonn;61;train",
        "b;9;Köln;;train",
    )
    chosen = "path = bild, label = Befund, site = Klinik, split = Teil"
    data = loaded(tmp_path, content, columns=chosen)
    assert data.classes == ("9", "10"), "whole numbers in their order"
    assert columns(data, "path", "label", "site", "alter") == [
        ("images/b.png", "9", "Köln", ""),
        ("images/a.png", "10", "Bonn", "61"),
    ]
    assert columns(data, "path", split="test") == [("images/c.png",)]
    assert reds(data.train.inputs) == [10, 0] and reds(data.test.inputs) == [20]
    with pytest.raises(DataError, match="no column says which image a row is of, only bild"):
        loaded(tmp_path, content, columns="label = Befund", table="labels.csv")


def test_the_table_may_lie_elsewhere_or_be_what_is_named(tmp_path, monkeypatch) -> None:
    root = write_folder(tmp_path / "set", pictures("cat/a.png", "dog/b.png"))
    (tmp_path / "users.csv").write_bytes(text("file,user", "a.png,ann", "b.png,bob"))
    data = load(root, tmp_path / "cache", table=str(tmp_path / "users.csv"))
    assert columns(data, "label", "site") == [("cat", "ann"), ("dog", "bob")]
    beside = load(root, tmp_path / "cache", table="users.csv")  # beside the folder
    assert columns(beside, "site") == [("ann",), ("bob",)]
    with pytest.raises(DataError, match=r"table: there is no 'nowhere\.csv', neither in .*set nor"):
        load(root, tmp_path / "cache", table="nowhere.csv")
    (root / "all.csv").write_bytes(text("file_name,label", "cat/a.png,x", "b.png,y"))
    assert load(root / "all.csv", tmp_path / "cache").classes == ("x", "y")
    assert load(root, tmp_path / "cache", table="none").classes == ("cat", "dog")


def test_what_does_not_fit_is_counted_and_shown(tmp_path, caplog) -> None:
    content = pictures("cat/a.png", "cat/b.png", "cat/c.png", "dog/c.png", "dog/d.png", "dog/e.png")
    content["users.csv"] = text(
        *("file,user", "a.png,ann", "a.png,bob", "zebra.png,ann", "c,ann", "d.png,bob", "d.png,bob")
    )
    message = (
        "set: 2 rows of an image that has a row already ('a.png', 'd.png'); 1 rows without an image "
        "('zebra.png'); 1 rows that several files fit ('c'); 5 images without a row ("
    )
    with pytest.raises(DataError, match=re.escape(message)) as error:
        loaded(tmp_path, content)
    assert str(error.value).endswith('or leave these out with missing = "skip"')
    data = loaded(tmp_path, content, missing="skip")
    # Two rows for a.png contradict each other, so neither is believed; those of d.png are the same.
    assert columns(data, "path", "site") == [("dog/d.png", "bob")]
    assert "left out: 2 rows of an image" in caplog.text


def test_a_table_of_another_data_set_is_not_taken(tmp_path, caplog) -> None:
    content = pictures("cat/a.png", "dog/b.png")
    content["results.csv"] = text("file,score", "x.png,1", "y.png,2")
    content["other.csv"] = text("epoch,loss", "1,2.5")
    assert loaded(tmp_path, content).classes == ("cat", "dog")
    assert "results.csv names none of the images; passed over" in caplog.text
    with pytest.raises(
        DataError, match=r"2 rows without an image \('x\.png', 'y\.png'\); 2 images"
    ):
        loaded(tmp_path, content, table="results.csv")


def test_foreign_classes(tmp_path) -> None:
    content = pictures("cat/a.png", "dog/b.png")
    content["users.csv"] = text("file,class,user", "a.png,dog,ann", "b.png,dog,bob")
    with pytest.raises(
        DataError, match=r"1 rows of another class than their image's folder \('cat/a"
    ):
        loaded(tmp_path, content)
    content["users.csv"] = text("file,class,user", "a.png,7,ann", "b.png,7,bob")
    assert loaded(tmp_path, content).classes == ("7",), "classes of its own are the table's"


def test_one_of_several_tables_is_named(tmp_path) -> None:
    content = pictures("cat/a.png", "cat/b.png")
    for name in ("one.csv", "two.csv"):
        content[name] = text("file,user", "a.png,ann", "b.png,bob")
    with pytest.raises(
        DataError, match=r'one\.csv and two\.csv could each say .* table = "one\.csv"'
    ):
        loaded(tmp_path, content)
    assert columns(loaded(tmp_path, content, table="two.csv"), "site") == [("ann",), ("bob",)]


def test_lists_of_paths_and_labels(tmp_path) -> None:
    content = pictures("train/n01/x y.JPEG", "train/n02/z.JPEG", "val/w.JPEG")
    content["ImageNet_LT_train.txt"] = text("train/n01/x y.JPEG 10", "train/n02/z.JPEG 9")
    content["ImageNet_LT_test.txt"] = text("val/w.JPEG\t9")
    data = loaded(tmp_path, content)
    assert data.classes == ("9", "10")
    assert reds(data.train.inputs) == [10, 0] and reds(data.test.inputs) == [20]
    content["ImageNet_LT_test.txt"] = text("alone")
    with pytest.raises(DataError, match=r"line 1: expected a path and a label, got 'alone\\n'"):
        loaded(tmp_path, content)


@pytest.mark.parametrize("packed", [False, True])
def test_inaturalist_user_as_hsu_and_others_split_it(tmp_path, packed) -> None:
    tree = "train_val_images/{}.jpg"
    kinds = (
        "Aves/Milvus milvus/af01",
        "Aves/Milvus milvus/af02",
        "Fungi/Amanita/b0",
        "Fungi/Boletus/c7",
    )
    content = pictures(*map(tree.format, kinds))
    content["federated_train_user_120k.csv"] = text(
        *("user_id,image_id,class,label", "5,af02,0,2017", "17,b0,1,44", "5,af01,0,2017")
    )
    content["test.csv"] = text("image_id,class,label", "c7,1,44")
    if packed:
        data = load(write_archive(tmp_path / "inat.tar.gz", content), tmp_path / "cache")
    else:
        data = loaded(tmp_path, content)
    assert data.classes == ("0", "1")
    assert columns(data, "id", "label", "site") == [
        ("af01", "0", "5"),
        ("af02", "0", "5"),
        ("b0", "1", "17"),
    ]
    assert columns(data, "id", "label", "site", split="test") == [("c7", "1", "")]
    assert reds(data.train.inputs) == [0, 10, 20] and reds(data.test.inputs) == [30]


def test_the_geographic_split_is_the_same_with_cells_for_users(tmp_path) -> None:
    content = pictures("img/a.jpg", "img/b.jpg")
    content["federated_train_geo_100.csv.gz"] = gzip.compress(
        text("user_id,image_id,class,label", "0_11,a,0,3", "0_12,b,1,4")
    )
    assert columns(loaded(tmp_path, content), "site") == [("0_11",), ("0_12",)]


def coco(**further: str) -> dict[str, object]:
    return {
        "images": [
            {"id": 1, "file_name": "train2018/Aves/1/a.jpg", "license": 3, **further},
            {"id": 2, "file_name": "train2018/Aves/2/b.jpg", "license": 3, "rights_holder": "Bob"},
        ],
        "annotations": [{"image_id": 1, "category_id": 7}, {"image_id": 2, "category_id": 8}],
        "categories": [{"id": 7, "name": "kite"}, {"id": 8, "name": "owl"}],
    }


def test_inaturalists_json_with_rights_holders_hashed(tmp_path) -> None:
    content = pictures("train2018/Aves/1/a.jpg", "train2018/Aves/2/b.jpg")
    content["train2018.json"] = json.dumps(coco(rights_holder="Ann Observer")).encode()
    data = loaded(tmp_path, content)
    assert data.classes == ("kite", "owl")
    sites = [site for (site,) in columns(data, "site")]
    assert len({*sites}) == 2 and all(re.fullmatch("[0-9a-f]{12}", site) for site in sites)
    assert (
        "Ann" not in str(data.train_manifest.columns) and columns(data, "license") == [("3",)] * 2
    )
    content["train2018.json"] = json.dumps(coco(user_id="ann")).encode()
    assert columns(loaded(tmp_path / "b", content), "site") == [("ann",), ("",)]
    content["train2018.json"] = b'{"images": []}'
    with pytest.raises(DataError, match="expected images, annotations and categories"):
        loaded(tmp_path / "c", content)


def test_an_export_of_observations_has_observers_for_clients(tmp_path) -> None:
    content = pictures("photos/11/medium.jpg", "photos/12/medium.jpg")
    head = "id,user_id,image_url,taxon_id,scientific_name,observed_on"
    url = "https://inaturalist-open-data.s3.amazonaws.com/photos/{}/medium.jpg"
    content["observations.csv"] = text(
        head,
        f"901,77,{url.format(11)},5,Milvus milvus,2020",
        f"902,78,{url.format(12)},6,Amanita,2021",
    )
    data = loaded(tmp_path, content)
    assert columns(data, "path", "site", "label") == [
        ("11/medium.jpg", "77", "5"),
        ("12/medium.jpg", "78", "6"),
    ]
    named = loaded(tmp_path, content, columns="label = scientific_name")
    assert named.classes == ("Amanita", "Milvus milvus")


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_hugging_faces_image_folder_with_metadata(tmp_path, kind) -> None:
    content = pictures("train/a.png", "train/b.png", "test/a.png")
    for split, rows in (("train", [("a.png", "x"), ("b.png", "y")]), ("test", [("a.png", "y")])):
        if kind == "csv":
            lines = ["file_name,label", *(",".join(row) for row in rows)]
        else:
            lines = [json.dumps({"file_name": name, "label": label}) for name, label in rows]
        content[f"{split}/metadata.{kind}"] = text(*lines)
    data = loaded(tmp_path, content)
    assert reds(data.train.inputs) == [0, 10] and reds(data.test.inputs) == [20]
    assert data.test.labels.tolist() == [1]


def test_a_table_in_an_archive(tmp_path) -> None:
    content = pictures("set/a.png", "set/b.png")
    content["set/all.csv"] = text("file,class,site", "a.png,x,1", "b.png,y,2")
    for suffix in (".tar", ".tar.xz"):
        data = load(write_archive(tmp_path / f"set{suffix}", content), tmp_path / "cache")
        assert columns(data, "label", "site") == [("x", "1"), ("y", "2")]


def test_a_site_may_lack_classes_and_have_none_of_its_own(tmp_path) -> None:
    config = {
        "dataset": "image-folder",
        "image-size": 4,
        "long-tail": "none",
        "partitioner": "on-node",
        "partitioner-options": {"classes": ["ape", "cat", "dog"]},
        "cache-dir": str(tmp_path / "cache"),
    }
    from fedloge.data.sources import load_own_images  # what only sites need

    root = write_folder(tmp_path / "site", pictures("dog/a.png", "cat/b.png"))
    data = load_own_images(from_flat(config), root)
    assert data.classes == ("ape", "cat", "dog") and data.train.labels.tolist() == [1, 2]
    write_folder(root, pictures("cow/c.png"))
    with pytest.raises(DataError, match=r"train: unknown class 'cow'"):
        load_own_images(from_flat(config), root)
    data = load_own_images(from_flat(config | {"missing": "skip"}), root)
    assert data.train.labels.tolist() == [1, 2]
    # The server's config names no file outside the site's folder.
    (tmp_path / "own.csv").write_bytes(text("file,class", "a.png,dog"))
    for table in ("own.csv", str(tmp_path / "own.csv")):
        with pytest.raises(DataError, match="table: there is no"):
            load_own_images(from_flat(config | {"table": table}), root)


def test_keys_of_folders_are_refused_elsewhere() -> None:
    for key, value in (("columns", "site = x"), ("missing", "skip"), ("table", "a.csv")):
        with pytest.raises(ConfigError, match=f"^{key}: dataset 'digits'"):
            load_dataset(from_flat({key: value}))


def test_tables_of_a_hundred_thousand_rows_are_joined_by_name(tmp_path) -> None:
    from fedloge.data.joining import LeftOut, Names, Table, joined
    from fedloge.data.manifest import Manifest

    names = [f"img/{i % 100}/{i}.jpg" for i in range(100_000)]
    rows = Manifest({"id": [str(i) for i in reversed(range(100_000))], "site": ["x"] * 100_000})
    left = LeftOut()
    assert len(joined([Table("t", "", rows)], Names(names, ""), left)) == 100_000
    assert not left.kinds
