"""What is decoded once: kept, found again, made anew, and never half there."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from image_folders import check_content, files, load, png, write_archive, write_folder

from fedloge.data import folder as folder_module
from fedloge.folders import cache_folder


def decodes(monkeypatch) -> list[str]:
    seen: list[str] = []
    decode = folder_module._decode

    def counted(file, image_size, path):
        seen.append(str(file))
        return decode(file, image_size, path)

    monkeypatch.setattr(folder_module, "_decode", counted)
    return seen


def test_decoded_once_until_the_source_changes(tmp_path, monkeypatch) -> None:
    seen = decodes(monkeypatch)
    cache = tmp_path / "cache"
    root = write_folder(tmp_path / "set", files())
    archive = write_archive(tmp_path / "set.tar", files())
    for path in (root, archive):
        seen.clear()
        load(path, cache)
        load(path, cache)
        assert len(seen) == 8
        load(path, cache, image_size=2)
        assert len(seen) == 16
    os.utime(archive, ns=(1, 1))
    load(archive, cache)
    assert len(seen) == 24
    (root / "train" / "dog" / "b.png").unlink()
    assert len(load(root, cache).train) == 4


@pytest.mark.parametrize("name", ["manifest.json", "train.u8", "test.u8"])
def test_a_damaged_entry_is_made_anew(tmp_path, name) -> None:
    root = write_folder(tmp_path / "set", files())
    load(root, tmp_path / "cache")
    (entry,) = (tmp_path / "cache").iterdir()
    for damage in (lambda f: f.unlink(), lambda f: f.write_bytes(f.read_bytes()[:-7])):
        damage(entry / name)
        check_content(load(root, tmp_path / "cache"))
        assert list((tmp_path / "cache").iterdir()) == [entry]


def test_an_interrupted_decode_leaves_no_entry(tmp_path, monkeypatch) -> None:
    root = write_folder(tmp_path / "set", files())

    def interrupted(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(folder_module, "write_manifest", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load(root, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())
    check_content(load(root, tmp_path / "cache"))


def test_changing_the_tensors_does_not_change_the_cache(tmp_path) -> None:
    root = write_folder(tmp_path / "set", files())
    load(root, tmp_path / "cache").train.inputs.zero_()
    load(root, tmp_path / "cache").train.inputs.zero_()
    check_content(load(root, tmp_path / "cache"))


def test_without_a_cache_images_stay_in_memory(tmp_path, caplog) -> None:
    root = write_folder(tmp_path / "set", files())
    (tmp_path / "cache").write_text("a file where the cache should be")
    with caplog.at_level(logging.WARNING):
        check_content(load(root, tmp_path / "cache"))
    (record,) = caplog.records
    assert "decoded images cannot be kept in" in record.getMessage()


def test_a_disk_that_fills_up_is_no_error(tmp_path, monkeypatch, caplog) -> None:
    root = write_folder(tmp_path / "set", files())

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder_module, "write_manifest", full)
    check_content(load(root, tmp_path / "cache"))
    assert "No space left on device" in caplog.text
    assert not list((tmp_path / "cache").iterdir())


CLIENT = """
import sys
from pathlib import Path
from fedloge.data.folder import load_image_folder
from fedloge.data.images.decoding import Decoding
print("ready", flush=True)
sys.stdin.readline()
decoded = load_image_folder(Path(sys.argv[1]), Decoding(), Path(sys.argv[2]))
print(decoded.pixels["train"][:, 0, 0, 0].tolist(), flush=True)
"""


def test_processes_that_decode_at_once_agree(tmp_path) -> None:
    content = {
        f"{split}/{label}/{i:03}.png": png((i, 1, 1), (32, 32))
        for split in ("train", "test")
        for label in ("cat", "dog")
        for i in range(150)
    }
    archive = write_archive(tmp_path / "set.tar", content)
    command = [sys.executable, "-c", CLIENT, str(archive), str(tmp_path / "cache")]
    clients = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for client in clients:
        assert client.stdout.readline() == "ready\n"
    for client in clients:
        client.stdin.write("go\n")
        client.stdin.flush()
    for client in clients:
        assert client.communicate(timeout=60)[0] == f"{[*range(150), *range(150)]}\n"
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_where_the_cache_is(monkeypatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.delenv("FEDLOGE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == Path("/home/someone/.cache/fedloge")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_folder() == Path("/xdg/fedloge")
    monkeypatch.setenv("FEDLOGE_CACHE", "/own")
    assert cache_folder() == Path("/own")
    assert cache_folder("~/said") == Path("/home/someone/said")
