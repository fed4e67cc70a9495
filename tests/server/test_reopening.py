"""A run is resumed on the data it was started with, or says in one line what has changed."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import harness
import image_folders as folders
import pytest

from fedloge import config as configs
from fedloge.config import Config
from fedloge.errors import RunDirError
from fedloge.federation import Federation, opening
from fedloge.results.export import global_model
from fedloge.results.run import open_run


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Twelve images of each of two classes for training, four for testing."""
    files = {
        f"{split}/{name}/{i}.png": folders.png((100 * c + i, 5, 5), (8, 8))
        for split, count in (("train", 12), ("test", 4))
        for c, name in enumerate(("cat", "dog"))
        for i in range(count)
    }
    return folders.write_folder(tmp_path / "data", files)


def config(data: Path, tmp_path: Path, **changes: Any) -> Config:
    named = {
        "dataset": "image-folder",
        "data_path": str(data),
        "cache_dir": str(tmp_path / "cache"),
    }
    smaller = {"num_clients": 2, "clients_per_round": 2, "long_tail": "exp", "rounds": 1}
    return harness.tiny(tmp_path / "runs", **named, **smaller, **changes)


def again(folder: Path, **changes: Any) -> Path:
    opening._open.clear()  # as in a new process: the data are read anew
    return harness.resume_local(folder, rounds=2, **changes)


def exchange(one: Path, other: Path) -> None:
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def test_exchanged_class_folders_stop_a_resume(data: Path, tmp_path: Path) -> None:
    folder = harness.run_local(config(data, tmp_path))
    before = (folder / "metrics.jsonl").read_bytes()
    for split in ("train", "test"):
        exchange(data / split / "cat", data / split / "dog")
    with pytest.raises(RunDirError) as stopped:
        again(folder)
    said = str(stopped.value)
    assert (
        "was started with other data: of its training examples those of 'cat' and 'dog' are exchanged"
        in said
    )
    assert (
        "of its test examples those of 'cat' and 'dog' are exchanged" in said and "\n" not in said
    )
    assert (folder / "metrics.jsonl").read_bytes() == before
    for split in ("train", "test"):
        exchange(data / split / "cat", data / split / "dog")
    again(folder)
    assert len(harness.lines(folder, "metrics")) == 2


def test_a_replaced_image_stops_a_resume(data: Path, tmp_path: Path) -> None:
    folder = harness.run_local(config(data, tmp_path))
    (data / "train/dog/3.png").write_bytes(folders.png((7, 7, 7), (8, 8)))
    with pytest.raises(RunDirError, match="of its training examples those of 'dog' are others"):
        again(folder)


def test_a_run_of_before_goes_on_by_its_own_fingerprint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As fedloge wrote it before the fingerprint covered the data: all of its files bear the older one."""
    small = harness.tiny(tmp_path, rounds=2)
    whole = harness.run_local(small.replace(name="whole"))
    with pytest.MonkeyPatch.context() as patch:
        older = property(lambda self: self.fingerprint_without_data)
        patch.setattr(Federation, "fingerprint", older)
        folder = harness.run_local(small.replace(rounds=1))
    info = json.loads((folder / "run.json").read_text())
    del info["content"], info["fingerprint-version"]
    (folder / "run.json").write_text(json.dumps(info))
    with caplog.at_level(logging.WARNING, logger="fedloge"):
        harness.resume_local(folder, rounds=2)
    said = [r.getMessage() for r in caplog.records if "before the fingerprint" in r.getMessage()]
    assert len(said) == 1 and harness.differences(whole, folder) == []


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("partition", "0" * 16, "the partition is not what it was started with"),
        ("prototypes", "0" * 16, "the fixed classifier is not what it was started with"),
        ("weights", {"digest": "x"}, "the pretrained weights are not what it was started with"),
    ],
)
def test_what_else_has_changed_is_named(key: str, value: object, said: str, tmp_path: Path) -> None:
    folder = harness.run_local(harness.tiny(tmp_path, rounds=1))
    info = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(info | {key: value, "fingerprint": "0" * 16}))
    with pytest.raises(RunDirError, match=said):
        harness.resume_local(folder, rounds=2)


@pytest.mark.parametrize("content", [None, [], {"classes": 3}, {"classes": ["a"]}])
def test_digests_that_are_none_are_said_in_one_line(content: object, tmp_path: Path) -> None:
    folder = harness.run_local(harness.tiny(tmp_path, rounds=1))
    info = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(info | {"content": content}))
    with pytest.raises(RunDirError, match=r"run\.json is damaged"):
        harness.resume_local(folder, rounds=2)


def test_a_newer_fingerprint_is_refused(tmp_path: Path) -> None:
    folder = harness.run_local(harness.tiny(tmp_path, rounds=1))
    info = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(info | {"fingerprint-version": 3}))
    with pytest.raises(RunDirError, match="expected a fingerprint of version 1 or 2, got 3"):
        harness.resume_local(folder, rounds=2)


def test_a_model_of_a_run_whose_data_are_others_comes_with_a_warning(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = harness.run_local(config(data, tmp_path))
    exchange(data / "test/cat", data / "test/dog")
    opening._open.clear()
    with caplog.at_level(logging.WARNING, logger="fedloge"):
        global_model(open_run(folder))
    assert any(
        "was trained on other data: of its test examples" in r.getMessage() for r in caplog.records
    )
    assert configs.load(folder / "config.toml").data_path == str(data)
