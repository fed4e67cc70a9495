"""Tables as spreadsheets, papers and portals write them."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest

from fedloge.data import read_table
from fedloge.data.csv_tables import parse_columns
from fedloge.errors import ConfigError, DataError


def written(tmp_path: Path, text: str, name: str = "table.csv", encoding: str = "utf-8") -> Path:
    (tmp_path / name).write_bytes(text.encode(encoding))
    return tmp_path / name


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_any_delimiter_end_of_line_and_mark(tmp_path, encoding, delimiter, end) -> None:
    lines = [["Image Index", "user_id", "dx"], ["a.png", "7", "nv"], [], ["b.png", "8", "été"]]
    text = end.join(delimiter.join(line) for line in lines)
    found = read_table(written(tmp_path, text, encoding=encoding))
    assert found.column("path") == ("a.png", "b.png") == found.column("Image Index")
    assert found.column("site") == ("7", "8") == found.column("user_id")
    assert found.column("label") == ("nv", "été")


def test_gzip_is_known_by_its_content(tmp_path) -> None:
    (tmp_path / "t.csv").write_bytes(gzip.compress(b"file,class\na,1\n"))
    assert read_table(tmp_path / "t.csv").column("label") == ("1",)
    (tmp_path / "t.csv").write_bytes(gzip.compress(b"file,class\na,1\n")[:-9])
    with pytest.raises(DataError, match="cannot be read as a table"):
        read_table(tmp_path / "t.csv")


def test_quotes(tmp_path) -> None:
    text = 'file,site,note\n"a, 1.png",x,"two\nlines"\n'
    found = read_table(written(tmp_path, text))
    assert found.column("path") == ("a, 1.png",) and found.column("note") == ("two\nlines",)
    # iNaturalist's open data: tabs, quotes inside values that enclose nothing.
    text = 'file\tsite\n"a\t5" tall\n"b ""x"""\t\n'
    found = read_table(written(tmp_path, text))
    assert found.column("path") == ('"a', 'b "x"') and found.column("site") == ('5" tall', "")


def test_two_ways_to_write_a_name_are_one(tmp_path) -> None:
    composed, apart = "ch\u00e8vre", "che\u0300vre"
    assert read_table(written(tmp_path, f"file,class\na,{composed}\nb,{apart}\n")).column(
        "label"
    ) == (composed, composed)


def test_the_tables_of_hsu_have_two_labels_of_which_class_counts(tmp_path) -> None:
    found = read_table(written(tmp_path, "user_id,image_id,class,label\n5,af01,0,2017\n"))
    assert found.column("label") == ("0",) and found.column("id") == ("af01",)
    assert found.column("site") == ("5",) and "path" not in found


def test_several_candidates_are_refused_with_the_key_that_decides(tmp_path) -> None:
    table = written(tmp_path, "file,class,user_id,center\na,1,u,c\n")
    message = (
        "'user_id' and 'center' could each be the site; say which with columns = \"site = user_id\""
    )
    with pytest.raises(DataError, match=re.escape(message)):
        read_table(table)
    assert read_table(table, parse_columns("site = Center")).column("site") == ("c",)


def test_foreign_names_are_told(tmp_path) -> None:
    table = written(tmp_path, "Bild,Klinik,Befund\na,Bonn,x\n")
    chosen = parse_columns("path = bild, site=KLINIK , label = Befund")
    assert read_table(table, chosen).column("site") == ("Bonn",)
    with pytest.raises(DataError, match=r"unknown column 'hospital'.*befund, bild, klinik"):
        read_table(table, {"site": "hospital"})


@pytest.mark.parametrize("text", ["site", "site =", "= x", "place = x", "site = a, site = b"])
def test_what_columns_cannot_say(text) -> None:
    with pytest.raises(ConfigError, match="columns: "):
        parse_columns(text)


def test_splits_by_their_usual_names(tmp_path) -> None:
    found = read_table(written(tmp_path, "file,subset\na,Training\nb,val\nc,TEST\nd,fold3\n"))
    assert found.column("split") == ["train", "validation", "test", "fold3"]
    found = read_table(written(tmp_path, "file,is_valid\na,True\nb,0\n"))
    assert found.column("split") == ["validation", "train"]
    with pytest.raises(DataError, match="is_valid: expected true or false, got 'maybe'"):
        read_table(written(tmp_path, "file,is_valid\na,maybe\n"))


def test_one_hot_columns_are_a_label(tmp_path) -> None:
    text = "image,MEL,NV,center2\na,0.0,1.0,x\nb,1.0,0.0,y\n"
    assert read_table(written(tmp_path, text)).column("label") == ["nv", "mel"]
    text = "image,MEL,NV\na,1.0,1.0\nb,1.0,0.0\n"  # two at once: no label
    assert "label" not in read_table(written(tmp_path, text))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty table"),
        (b"\n\n", "an empty table"),
        (b"file,class\na,1\nb\n", "row 3 has 1 values, expected 2"),
        (b"file,File\na,b\n", "two columns are called 'file'"),
        (b"file,class\n\xe9,1\n", "byte 11 is not UTF-8; save it as UTF-8"),
        (b'file,class\n"a,1\n', "cannot be read as a table"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(tmp_path, content, message) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(DataError, match=re.escape(message)) as error:
        read_table(tmp_path / "t.csv")
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)
