"""A client whose own data change in the middle of a run says so, and takes no part until its site decides."""

from __future__ import annotations

import json
import logging
import stat
from pathlib import Path

import harness
import image_folders as folders
import pytest

from fedloge.client.personal_state import PersonalStore
from fedloge.client.same_data import check_same_data
from fedloge.config import Config, from_flat
from fedloge.data.content import content_of
from fedloge.errors import CheckpointError, UpdateError
from fedloge.federation import opening
from fedloge.messages import Stamp

STAMP = Stamp("run-1", "run", "f" * 16, (0,), 1, 0)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two sites with five images of each of two classes for training and two for testing."""
    files = {
        f"client-{site}/{split}/{name}/{i}.png": folders.png((100 * c + i, 40 * site, 5), (8, 8))
        for site in (0, 1)
        for split, count in (("train", 5), ("test", 2))
        for c, name in enumerate(("cat", "dog"))
        for i in range(count)
    }
    return folders.write_folder(tmp_path / "data", files)


def config(data: Path, tmp_path: Path) -> Config:
    return from_flat(
        {
            "device": "cpu",
            "dataset": "image-folder",
            "partitioner": "on-node",
            "data-path": str(data),
            "cache-dir": str(tmp_path / "cache"),
            "partitioner-options.classes": "cat, dog",
            "image-size": 8,
            "num-clients": 2,
            "clients-per-round": 2,
            "rounds": 1,
            "local-epochs": 1,
            "min-fraction": 0.4,
            "runs-dir": str(tmp_path / "runs"),
            "name": "run",
        }
    )


def exchange(site: Path) -> None:
    cat, dog, aside = (site / "train" / name for name in ("cat", "dog", "aside"))
    cat.rename(aside)
    dog.rename(cat)
    aside.rename(dog)


def test_a_site_whose_classes_are_exchanged_is_out_until_it_decides(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = harness.run_local(config(data, tmp_path))
    exchange(data / "client-1")
    opening._open.clear()
    with caplog.at_level(logging.WARNING, logger="fedloge"):
        harness.resume_local(folder, rounds=2)
    reasons = {row["reason"] for row in harness.lines(folder, "failures")}
    assert len(reasons) == 1 and "not those that it began the run with" in min(reasons)
    said = next(r.getMessage() for r in caplog.records if "began run" in r.getMessage())
    assert "those of 'cat' and 'dog' are exchanged" in said and "'cat'" not in min(reasons)
    assert harness.lines(folder, "metrics")[-1]["clients"] == 1
    # The site means it.
    (folder / "heads/client-00001/data.json").unlink()
    harness.resume_local(folder, rounds=3)
    assert harness.lines(folder, "metrics")[-1]["clients"] == 2


def test_what_is_kept_is_the_owners_alone_and_says_if_it_is_damaged(
    data: Path, tmp_path: Path
) -> None:
    content = content_of(folders.load(data / "client-0", tmp_path / "cache"))
    store = PersonalStore(tmp_path / "heads", 3)
    check_same_data(store, STAMP, content)
    check_same_data(store, STAMP, content)
    path = store.folder / "data.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text())["classes"] == ["cat", "dog"]
    path.write_text("[]")
    with pytest.raises(CheckpointError, match=r"data\.json is damaged"):
        check_same_data(store, STAMP, content)


def test_a_client_that_is_carried_to_another_machine_keeps_it(data: Path, tmp_path: Path) -> None:
    content = content_of(folders.load(data / "client-0", tmp_path / "cache"))
    other = content_of(folders.load(data / "client-1", tmp_path / "cache"))
    here, there = PersonalStore(tmp_path / "here", 3), PersonalStore(tmp_path / "there", 3)
    check_same_data(here, STAMP, content)
    there.write_files(here.read_files())
    check_same_data(there, STAMP, content)
    with pytest.raises(UpdateError, match="its data are not those"):
        check_same_data(there, STAMP, other)
