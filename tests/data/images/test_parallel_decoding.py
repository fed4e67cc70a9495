"""Helper processes: the same pixels as one process, whatever happens to them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from image_folders import png, write_archive, write_folder

from fedloge.data.images import parallel_decoding
from fedloge.data.images.archives import archive_tree
from fedloge.data.images.decoding import Decoding
from fedloge.data.images.file_tree import FileTree, folder_tree
from fedloge.data.images.parallel_decoding import decode_files
from fedloge.data.images.pixel_sink import FileSink, MemorySink
from fedloge.errors import DataError

WHOLE = Decoding()


@pytest.fixture(autouse=True)
def helpers_at_once(monkeypatch) -> None:
    monkeypatch.setattr(parallel_decoding, "_LOOK_SECONDS", 0.0)
    monkeypatch.setattr(parallel_decoding, "_WORTH_SECONDS", 0.0)


def content(count: int = 100) -> dict[str, bytes]:
    return {f"cat/{i:03}.png": png((i % 256, 1, 1), (5, 4)) for i in range(count)}


def decoded(
    tree: FileTree,
    folder: Path,
    how: Decoding = WHOLE,
    workers: int = 2,
) -> tuple[np.ndarray, dict[int, str], FileSink]:
    folder.mkdir(exist_ok=True)
    sink = FileSink(folder)
    told: list[int] = []
    bad = decode_files(
        tree.files, tree.path, how, sink, lambda done, of: told.append(done), workers
    )
    sink.close()
    assert max(told, default=0) == len(tree.files) or not told
    shape = sink.shape or (3, 0, 0)
    return np.fromfile(folder / "pixels.u8", np.uint8).reshape(-1, *shape), bad, sink


@pytest.mark.parametrize("kind", ["folder", ".tar", ".tar.gz"])
def test_two_helpers_and_none_give_the_same_pixels(tmp_path, kind) -> None:
    if kind == "folder":
        tree = folder_tree(write_folder(tmp_path / "set", content()))
    else:
        tree = archive_tree(write_archive(tmp_path / f"set{kind}", content()), tmp_path)
    together, bad, sink = decoded(tree, tmp_path / "two")
    alone, _, _ = decoded(tree, tmp_path / "one", workers=1)
    assert np.array_equal(together, alone) and not bad
    assert alone[:, 0, 0, 0].tolist() == list(range(100))
    assert len(sink.done) == 100
    memory = MemorySink(100)
    decode_files(tree.files, tree.path, Decoding(), memory, lambda done, of: None, 2)
    assert np.array_equal(memory.pixels, alone)


def test_bad_files_and_other_sizes_are_told_by_helpers_too(tmp_path) -> None:
    files = content()
    files["cat/050.png"] = b"junk"
    files["cat/070.png"] = b""
    tree = folder_tree(write_folder(tmp_path / "set", files))
    _, bad, _ = decoded(tree, tmp_path / "out")
    assert bad == {50: "not an image", 70: "is empty"}
    (tmp_path / "set/cat/050.png").write_bytes(png((1, 1, 1), (7, 6)))
    tree = folder_tree(tmp_path / "set")
    with pytest.raises(
        DataError, match=r"cat/\d+\.png is 5x4 but cat/050\.png is 7x6; set image-si"
    ):
        decoded(tree, tmp_path / "again")


def test_a_helper_that_dies_takes_nothing_with_it(tmp_path, monkeypatch) -> None:
    # Of this file its decoder dies, as it may of a hostile one.
    worker = tmp_path / "worker.py"
    worker.write_text(
        "import os, signal, fedloge.data.images.decoding_worker as w\n"
        "decode = w.decode\n"
        "def dies(data, name, how):\n"
        "    if name == 'cat/060.png': os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return decode(data, name, how)\n"
        "w.decode = dies\n"
        "w.main()\n"
    )
    popen = subprocess.Popen

    def other(command, **options):
        return popen([*command[:2], str(worker)], **options)

    monkeypatch.setattr(parallel_decoding.subprocess, "Popen", other)
    tree = folder_tree(write_folder(tmp_path / "set", content()))
    pixels, bad, _ = decoded(tree, tmp_path / "out")
    assert bad == {60: "ends the decoder"}
    assert np.delete(pixels[:, 0, 0, 0], 60).tolist() == [i for i in range(100) if i != 60]


def test_where_no_helper_can_be_started_one_core_does_it(tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(parallel_decoding.sys, "executable", "/nowhere/python")
    tree = folder_tree(write_folder(tmp_path / "set", content()))
    pixels, _, _ = decoded(tree, tmp_path / "out")
    assert pixels[:, 0, 0, 0].tolist() == list(range(100))
    assert "no helper processes can be started" in caplog.text


def test_a_full_disk_ends_it(tmp_path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    tree = folder_tree(write_folder(tmp_path / "set", content(3)))
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "pixels.u8").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        decode_files(tree.files, tree.path, Decoding(), FileSink(folder), lambda d, o: None, 1)


def test_no_helper_outlives_an_interruption(tmp_path) -> None:
    tree = folder_tree(write_folder(tmp_path / "set", content(600)))
    (tmp_path / "out").mkdir()
    before = children()

    def interrupt(done: int, of: int) -> None:
        if done > 200:
            raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, DataError)):
        decode_files(tree.files, tree.path, Decoding(), FileSink(tmp_path / "out"), interrupt, 2)
    assert children() <= before


def children() -> set[str]:
    found = set()
    for task in Path("/proc/self/task").iterdir():
        found |= {*(task / "children").read_text().split()}
    return found


def test_helpers_import_neither_torch_nor_what_lies_in_the_users_folder(tmp_path) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('the wrong numpy')")
    code = "import sys, fedloge.data.images.decoding_worker; sys.exit('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, check=False).returncode
        == 0
    )
