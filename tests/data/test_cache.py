"""What is decoded once: kept, found again, continued after a kill, made anew, and never half there."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from image_folders import check_content, files, load, png, reds, write_archive, write_folder

from fedloge.data.images import parallel_decoding, pixel_store
from fedloge.data.images.pixel_store import damaged_images, open_entry
from fedloge.errors import DataError
from fedloge.folders import cache_folder


def decodes(monkeypatch) -> list[str]:
    seen: list[str] = []
    decode = parallel_decoding.decode

    def counted(data, name, how):
        seen.append(name)
        return decode(data, name, how)

    monkeypatch.setattr(parallel_decoding, "decode", counted)
    return seen


def entries(cache: Path) -> list[Path]:
    return sorted(cache.glob("images-*"))


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
        load(path, cache, image_size=2, resize="crop")
        assert len(seen) == 24
    os.utime(archive, ns=(1, 1))
    load(archive, cache)
    assert len(seen) == 32
    (root / "train" / "dog" / "b.png").unlink()
    assert len(load(root, cache).train) == 4


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("name", ["entry.json", "pixels.u8"])
@pytest.mark.parametrize("damage", [Path.unlink, cut, flip])
def test_a_damaged_entry_is_made_anew(tmp_path, name, damage) -> None:
    root = write_folder(tmp_path / "set", files())
    load(root, tmp_path / "cache")
    (entry,) = entries(tmp_path / "cache")
    assert sorted(p.name for p in entry.iterdir()) == ["entry.json", "pixels.u8"]
    damage(entry / name)
    assert open_entry(entry) is None
    check_content(load(root, tmp_path / "cache"))
    assert entries(tmp_path / "cache") == [entry]


def test_damage_between_the_images_that_opening_looks_at_is_found_by_the_whole_check(
    tmp_path,
) -> None:
    content = {f"train/cat/{i:03}.png": png((i, 1, 1), (2, 2)) for i in range(200)}
    load(write_folder(tmp_path / "set", content), tmp_path / "cache")
    (entry,) = entries(tmp_path / "cache")
    assert damaged_images(entry) == []
    pixels = bytearray((entry / "pixels.u8").read_bytes())
    pixels[12 * 101] ^= 1
    (entry / "pixels.u8").write_bytes(pixels)
    assert damaged_images(entry) == [101]


def test_an_interrupted_decode_goes_on_where_it_was(tmp_path, monkeypatch) -> None:
    root = write_folder(tmp_path / "set", files())
    decode, left = parallel_decoding.decode, [5]

    def interrupted(*args):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return decode(*args)

    with monkeypatch.context() as patch:
        patch.setattr(parallel_decoding, "decode", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load(root, tmp_path / "cache")
    (partial,) = entries(tmp_path / "cache")
    assert partial.suffix == ".partial" and open_entry(partial) is None
    # One of the five was lost on its way to the disk, and the journal's last line is cut.
    flip(partial / "pixels.u8")
    with (partial / "journal").open("a") as journal:
        journal.write("7 12")
    seen = decodes(monkeypatch)
    check_content(load(root, tmp_path / "cache"))
    assert len(seen) == 4
    (entry,) = entries(tmp_path / "cache")
    assert entry.suffix == "" and damaged_images(entry) == []


def test_changing_the_tensors_does_not_change_the_cache(tmp_path) -> None:
    root = write_folder(tmp_path / "set", files())
    load(root, tmp_path / "cache").train.inputs.zero_()
    load(root, tmp_path / "cache").train.inputs.zero_()
    check_content(load(root, tmp_path / "cache"))


def test_all_training_images_in_their_order_are_the_mapped_file(tmp_path) -> None:
    data = load(write_folder(tmp_path / "set", files()), tmp_path / "cache")
    train = data.train
    assert (
        train.take(train.labels.new_tensor(range(5))).inputs.data_ptr() == train.inputs.data_ptr()
    )
    assert reds(train.take(train.labels.new_tensor([4, 3, 2, 1, 0])).inputs) == [21, 20, 12, 11, 10]


def test_without_a_cache_images_stay_in_memory(tmp_path, caplog) -> None:
    root = write_folder(tmp_path / "set", files())
    (tmp_path / "cache").write_text("a file where the cache should be")
    with caplog.at_level(logging.WARNING):
        check_content(load(root, tmp_path / "cache"))
    (record,) = caplog.records
    assert "decoded images cannot be kept in" in record.getMessage()


def full(*args):
    raise OSError(28, "No space left on device")


def test_a_disk_that_fills_up_is_no_error(tmp_path, monkeypatch, caplog) -> None:
    root = write_folder(tmp_path / "set", files())
    monkeypatch.setattr(pixel_store, "_write_entry", full)
    check_content(load(root, tmp_path / "cache"))
    assert "No space left on device" in caplog.text


def test_too_much_for_memory_is_refused(tmp_path, monkeypatch) -> None:
    root = write_folder(tmp_path / "set", files())
    monkeypatch.setattr(pixel_store, "_write_entry", full)
    monkeypatch.setattr(pixel_store.os, "sysconf", lambda name: 10)
    with pytest.raises(DataError, match=r"No space left.* are too many for memory; set cache-dir"):
        load(root, tmp_path / "cache", image_size=8)


CLIENT = """
import sys
from pathlib import Path
from fedloge.data.catalogue import InputOptions
from fedloge.data.folder import load_images
from fedloge.data.images import parallel_decoding
from fedloge.data.images.decoding import Decoding
parallel_decoding._LOOK_SECONDS = parallel_decoding._WORTH_SECONDS = float(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
images = load_images(Path(sys.argv[1]), Decoding(), InputOptions(), Path(sys.argv[2]))
print(images.train.pixels[:, 0, 0, 0].tolist(), flush=True)
"""


def many(count: int, size: int = 32) -> dict[str, bytes]:
    return {
        f"{split}/{label}/{i:03}.png": png((i % 256, 1, 1), (size, size))
        for split in ("train", "test")
        for label in ("cat", "dog")
        for i in range(count)
    }


def client(path: Path, cache: Path, alone: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CLIENT, str(path), str(cache), str(alone)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_processes_that_decode_at_once_agree(tmp_path) -> None:
    archive = write_archive(tmp_path / "set.tar", many(150))
    clients = [client(archive, tmp_path / "cache", 60.0) for _ in range(2)]
    for one in clients:
        assert one.stdout.readline() == "ready\n"
    for one in clients:
        one.stdin.write("go\n")
        one.stdin.flush()
    for one in clients:
        assert one.communicate(timeout=250)[0] == f"{[*range(150), *range(150)]}\n"
    assert len(entries(tmp_path / "cache")) == 1


@pytest.mark.slow
def test_killed_in_the_middle_with_its_helpers_it_goes_on(tmp_path) -> None:
    root = write_folder(tmp_path / "set", many(250, 300))
    cache = tmp_path / "cache"
    killed = client(root, cache, 0.0)
    assert killed.stdout.readline() == "ready\n"
    killed.stdin.write("go\n")
    killed.stdin.flush()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        journals = list(cache.glob("*.partial/journal"))
        done = len(journals[0].read_text().splitlines()) if journals else 0
        if done > 100:
            break
        time.sleep(0.002)
    killed.kill()
    killed.wait()
    assert done > 100
    (partial,) = entries(cache)
    assert partial.suffix == ".partial"
    again = client(root, cache, 60.0)
    assert again.communicate("go\n", timeout=250)[0].endswith(f"{[*range(250), *range(250)]}\n")
    (entry,) = entries(cache)
    assert damaged_images(entry) == []


def test_every_bad_file_is_named_at_once_and_may_be_left_out(tmp_path, caplog) -> None:
    content = files()
    content["train/cat/b.png"] = b"junk"
    content["train/dog/a.png"] = png((1, 1, 1))[:40]
    root = write_folder(tmp_path / "set", content)
    with pytest.raises(DataError) as error:
        load(root, tmp_path / "cache")
    assert "2 of 8 files cannot be decoded: train/cat/b.png (not an image), train/dog/a" in str(
        error.value
    )
    assert str(error.value).endswith('or leave them out with bad-files = "skip"')
    for _ in range(2):
        caplog.clear()
        data = load(root, tmp_path / "cache", bad_files="skip")
        assert reds(data.train.inputs) == [10, 12, 21] and data.train.labels.tolist() == [0, 0, 1]
        assert data.train_origins == ["train/cat/a.png", "train/cat/c.png", "train/dog/b.png"]
        assert reds(data.test.inputs) == [30, 31, 40]
        assert "2 files that cannot be decoded are left out: train/cat/b.png" in caplog.text
    with pytest.raises(DataError, match="2 of 8 files"):
        load(root, tmp_path / "cache")
    (root / "train" / "dog" / "b.png").write_bytes(b"junk")
    with pytest.raises(DataError, match="no image of class 'dog' for training can be decoded"):
        load(root, tmp_path / "cache", bad_files="skip")


def test_many_bad_files_are_listed_in_a_file(tmp_path) -> None:
    content = {**files(), **{f"train/cat/{i}.png": b"junk" for i in range(30)}}
    with pytest.raises(DataError, match=r"and 10 more \(all of them in (.*)\); mend") as error:
        load(write_folder(tmp_path / "set", content), tmp_path / "cache")
    path = str(error.value).rpartition("all of them in ")[2].partition(")")[0]
    assert len(Path(path).read_text().splitlines()) == 30


def test_listings_of_archives_are_kept_and_checked(tmp_path) -> None:
    archive = write_archive(tmp_path / "set.tar.xz", files())
    load(archive, tmp_path / "cache")
    (listing,) = (tmp_path / "cache").glob("listing-*.json")
    content = json.loads(listing.read_text())
    assert len(content["tree"]["files"]) == 8
    content["tree"]["files"].pop()
    listing.write_text(json.dumps(content))  # another tree than the digest says
    check_content(load(archive, tmp_path / "cache"))
    assert len(json.loads(listing.read_text())["tree"]["files"]) == 8


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
