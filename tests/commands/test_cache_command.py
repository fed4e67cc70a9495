"""``fedloge cache`` lists what is kept, finds damage, and removes what is asked."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path

import harness
from image_folders import files, load, write_archive, write_folder


def kept(folder: Path) -> Path:
    cache = folder / "cache"
    load(write_folder(folder / "set", files()), cache)
    load(write_archive(folder / "set.tar.gz", files()), cache)
    return cache


def cli(folder: Path, *args: str) -> harness.Finished:
    return harness.fedloge("cache", "--dir", str(folder / "cache"), *args, folder=folder / "cwd")


def test_it_lists_checks_and_clears(tmp_path) -> None:
    cache = kept(tmp_path)
    listed = json.loads(cli(tmp_path, "--json").out)
    assert [entry["kind"] for entry in listed] == ["images", "images", "listing"]
    assert {entry["images"] for entry in listed} == {8}
    assert {entry["source"] for entry in listed} == {
        str(tmp_path / "set"),
        str(tmp_path / "set.tar.gz"),
    }
    assert "whole" in cli(tmp_path, "--check").out
    first = listed[0]["name"]
    pixels = bytearray((cache / first / "pixels.u8").read_bytes())
    pixels[0] ^= 1
    (cache / first / "pixels.u8").write_bytes(pixels)
    damaged = cli(tmp_path, "--check")
    assert damaged.code == 1 and "1 images damaged" in damaged.out
    assert cli(tmp_path, "--clear", first).out.startswith("1 removed")
    assert not (cache / first).exists() and len(list(cache.iterdir())) == 2
    assert cli(tmp_path, "--clear", "none").code == 2
    cli(tmp_path, "--clear", "all")
    assert cli(tmp_path).out.strip() == f"{cache}: nothing"


def test_what_is_being_decoded_is_not_removed(tmp_path) -> None:
    partial = tmp_path / "cache/images-0.partial"
    partial.mkdir(parents=True)
    with (partial / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused = cli(tmp_path, "--clear", "all")
        assert refused.code == 2 and "is being written at this moment" in refused.err
    assert json.loads(cli(tmp_path, "--json").out)[0]["kind"] == "unfinished"
    assert cli(tmp_path, "--clear", "all").code == 0 and not partial.exists()


def test_features_are_listed_and_cleared(tmp_path) -> None:
    harness.run_local(harness.frozen(tmp_path, rounds=1))
    cache = tmp_path / "cache"
    listed = json.loads(cli(tmp_path, "--json").out)
    assert [entry["kind"] for entry in listed] == ["features", "features"]
    assert {entry["source"] for entry in listed} == {"resnet8 up to features"}
    assert cli(tmp_path, "--check").code == 0
    first = listed[0]["name"]
    with (cache / f"{first}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "is being written" in cli(tmp_path, "--clear", first).err
    assert cli(tmp_path, "--clear", "all").out.startswith("2 removed")
    assert not list(cache.glob("features-*"))
