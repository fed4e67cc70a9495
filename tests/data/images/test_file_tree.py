"""Folders and archives with what does not belong there: pipes, devices, links, bombs."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest
from image_folders import load, loaded, pictures, png, reds, write_archive, write_folder

from fedloge.data.images import file_tree, read_place
from fedloge.data.images.archives import archive_tree
from fedloge.data.images.decoding import BadImageError
from fedloge.data.images.file_tree import folder_tree, listed
from fedloge.errors import DataError


def refused(path: Path, cache: Path | None = None) -> dict[str, str]:
    tree = folder_tree(path) if path.is_dir() else archive_tree(path, cache or path.parent / "c")
    return dict(tree.refused)


def test_pipes_devices_and_links_out_of_the_folder_are_refused(tmp_path) -> None:
    root = write_folder(tmp_path / "set", pictures("cat/a.png", "dog/b.png"))
    os.mkfifo(root / "cat" / "pipe.png")
    (root / "cat" / "endless.png").symlink_to("/dev/zero")
    (root / "dog" / "secret.png").symlink_to("/etc/hostname")
    (root / "dog" / "gone.png").symlink_to("nowhere.png")
    (root / "dog" / "again").symlink_to("..", target_is_directory=True)
    assert refused(root) == {
        "cat/endless.png": "is a link out of the folder; put the file itself there",
        "cat/pipe.png": "is no regular file",
        "dog/again": "is a link to a folder that holds it",
        "dog/gone.png": "is a link to nothing",
        "dog/secret.png": "is a link out of the folder; put the file itself there",
    }
    with pytest.raises(DataError, match=r"5 entries cannot be taken: cat/endless\.png \(is a link"):
        load(root, tmp_path / "cache")
    assert reds(load(root, tmp_path / "cache", bad_files="skip").train.inputs) == [0, 10]


def test_links_inside_the_folder_are_followed(tmp_path) -> None:
    root = write_folder(tmp_path / "set", pictures("cat/a.png", "dog/b.png"))
    (root / "dog" / "c.png").symlink_to("../cat/a.png")
    (root / "eel").symlink_to(root / "cat", target_is_directory=True)
    data = load(root, tmp_path / "cache")
    assert data.classes == ("cat", "dog", "eel") and reds(data.train.inputs) == [0, 10, 0, 0]
    (tmp_path / "link").symlink_to(root)  # the folder itself may be a link
    assert reds(load(tmp_path / "link", tmp_path / "cache").train.inputs) == [0, 10, 0, 0]


def test_a_file_that_becomes_a_pipe_is_not_waited_for(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadImageError, match="is no regular file"):
        read_place.read_place(("file", str(tmp_path / "pipe")))
    with pytest.raises(BadImageError, match="cannot be read: No such file"):
        read_place.read_place(("file", str(tmp_path / "none")))


def test_names_that_are_no_text(tmp_path) -> None:
    root = write_folder(tmp_path / "set", pictures("cat/a.png"))
    try:
        (Path(os.fsdecode(os.fsencode(root) + b"/cat/\xff.png"))).write_bytes(png((1, 1, 1)))
    except OSError:
        pytest.skip("this disk takes no such name")
    assert refused(root) == {"cat/?.png": "has a name that is not UTF-8; rename it"}


def test_a_folder_and_its_tar_with_links_are_the_same_set(tmp_path) -> None:
    root = write_folder(tmp_path / "set", pictures("cat/a.png", "cat/b.png", "dog/a.png"))
    os.link(root / "cat" / "a.png", root / "dog" / "hard.png")
    (root / "dog" / "soft.png").symlink_to("../cat/b.png")
    (root / "cat" / "twice.png").symlink_to("../dog/soft.png")
    expected = reds(load(root, tmp_path / "cache").train.inputs)
    assert expected == [0, 10, 10, 20, 0, 10]
    for suffix, mode in ((".tar", "w"), (".tar.gz", "w:gz")):
        archive = tmp_path / f"set{suffix}"
        with tarfile.open(archive, mode) as tar:
            tar.add(root, "set")
        assert reds(load(archive, tmp_path / "cache").train.inputs) == expected


def tar_with(path: Path, *members: tarfile.TarInfo) -> Path:
    write_archive(path, pictures("cat/a.png", "dog/b.png"))
    with tarfile.open(path, "a") as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(bytes(member.size)))
    return path


def entry(
    name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0
) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, link, size
    return member


def test_what_leads_out_of_an_archive_is_refused(tmp_path) -> None:
    archive = tar_with(
        tmp_path / "set.tar",
        entry("../cat/z.png", size=4),
        entry("/cat/z.png", size=4),
        entry("cat/out.png", tarfile.SYMTYPE, "/etc/hostname"),
        entry("cat/up.png", tarfile.SYMTYPE, "../../cat/a.png"),
        entry("cat/hard.png", tarfile.LNKTYPE, "cat/none.png"),
        entry("cat/loop.png", tarfile.SYMTYPE, "loop.png"),
        entry("cat/pipe.png", tarfile.FIFOTYPE),
        entry("cat/zero.png", tarfile.CHRTYPE),
    )
    found = refused(archive)
    assert found["../cat/z.png"] == found["/cat/z.png"] == "leads out of the archive"
    links = ("cat/out.png", "cat/up.png", "cat/hard.png", "cat/loop.png")
    assert {found[name] for name in links} == {"is a link to no file of the archive"}
    assert found["cat/pipe.png"] == found["cat/zero.png"] == "is no regular file"
    assert len(found) == 8
    with pytest.raises(DataError, match="8 entries cannot be taken"):
        load(archive, tmp_path / "cache")
    assert len(load(archive, tmp_path / "cache", bad_files="skip").train) == 2


@pytest.mark.parametrize("kind", ["tar.xz", "zip"])
def test_a_small_archive_that_unpacks_to_much_is_refused_by_its_listing(
    tmp_path, monkeypatch, kind
) -> None:
    monkeypatch.setattr(file_tree, "MOST_BYTES", 1 << 20)
    huge = bytes((1 << 20) + 1)
    if kind == "zip":
        path = tmp_path / "set.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("cat/a.png", png((1, 1, 1)))
            archive.writestr("cat/huge.png", huge)
    else:
        path = write_archive(
            tmp_path / "set.tar.xz", {"cat/a.png": png((1, 1, 1)), "cat/huge.png": huge}
        )
    assert path.stat().st_size < 5000
    with pytest.raises(
        DataError, match=r"cat/huge\.png \(has 1,048,577 bytes, more than 1,048,576"
    ):
        load(path, tmp_path / "cache")


def test_a_member_that_grows_while_it_is_read_is_stopped(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(read_place, "MOST_BYTES", 10)
    (tmp_path / "a").write_bytes(bytes(11))
    with pytest.raises(BadImageError, match="has more than 10 bytes"):
        read_place.read_place(("file", str(tmp_path / "a")))


def test_zip_archives(tmp_path) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in pictures("set/cat/a.png", "set/dog/b.png").items():
            archive.writestr(name, data)
        link = zipfile.ZipInfo("set/dog/link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "../cat/a.png")
        archive.writestr("__MACOSX/set/cat/._a.png", b"junk")
    assert reds(load(path, tmp_path / "cache").train.inputs) == [0, 10, 0]
    content = bytearray(path.read_bytes())
    for flag in (content.find(b"PK\x01\x02") + 8, content.find(b"PK\x03\x04") + 6):
        content[flag] |= 1
    path.write_bytes(content)
    found = refused(path, tmp_path / "c")
    assert found.pop("set/cat/a.png") == "is encrypted" and [*found] == ["set/dog/link.png"]
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match="cannot be read to its end"):
        load(path, tmp_path / "cache")


def test_a_zip_whose_member_is_damaged(tmp_path) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in pictures("cat/a.png", "dog/b.png").items():
            archive.writestr(name, data)
    content = bytearray(path.read_bytes())
    content[content.find(b"IDAT") + 6] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        DataError, match=r"1 of 2 files cannot be decoded: cat/a\.png \(cannot be re"
    ):
        load(path, tmp_path / "cache")


def test_a_file_twice_in_an_archive(tmp_path) -> None:
    archive = write_archive(tmp_path / "set.tar", pictures("cat/a.png"))
    with tarfile.open(archive, "a") as tar:
        tar.addfile(entry("cat/a.png", size=4), io.BytesIO(b"junk"))
    with pytest.raises(DataError, match=r"1 files are in it twice, such as 'cat/a\.png'"):
        load(archive, tmp_path / "cache")


def test_only_the_first_refused_are_listed() -> None:
    many = [(str(i), "is empty") for i in range(1007)]
    assert listed(many, 2) == "0 (is empty), 1 (is empty), and 1,005 more"


def test_what_cannot_be_read(tmp_path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    root = write_folder(tmp_path / "set", pictures("cat/a.png"))
    (root / "cat").chmod(0)
    with pytest.raises(DataError, match="cat: cannot be read"):
        loaded(tmp_path, {})
