from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from fedloge.errors import CheckpointError, RunError
from fedloge.server.checkpoint import Checkpoint, CheckpointStore


def state(round: int) -> Checkpoint:
    shared = {
        "a.weight": torch.full((3, 4), float(round)),
        "b": torch.tensor(round, dtype=torch.int64),
    }
    return Checkpoint(round, 1, shared, {"virtual": torch.full((2,), -float(round))})


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    made = CheckpointStore(tmp_path / "checkpoint", "run-1", "f" * 16)
    for round in (0, 3, 6):
        made.save(state(round))
    return made


def manifest(store: CheckpointStore) -> dict:
    return json.loads((store.folder / "manifest.json").read_text())


def test_every_tensor_comes_back_bit_by_bit(store: CheckpointStore) -> None:
    loaded = store.load()
    assert (loaded.round, loaded.attempt) == (6, 1)
    for name, tensor in state(6).shared.items():
        assert (
            torch.equal(loaded.shared[name], tensor) and loaded.shared[name].dtype == tensor.dtype
        )
    assert loaded.shared.keys() == {"a.weight", "b"}
    assert torch.equal(loaded.server["virtual"], torch.tensor([-6.0, -6.0]))


def test_the_two_newest_are_kept(store: CheckpointStore) -> None:
    assert store.kept_rounds() == [3, 6]
    files = {path.name for path in store.folder.iterdir()}
    assert files == {"manifest.json", "round-000003.safetensors", "round-000006.safetensors"}
    assert store.load(3).shared["a.weight"][0, 0] == 3


def test_the_same_round_again_replaces_it(store: CheckpointStore) -> None:
    store.save(Checkpoint(6, 2, state(6).shared, {}))
    assert store.kept_rounds() == [3, 6]
    assert store.load().attempt == 2


def test_rewinding_forgets_what_came_after(store: CheckpointStore) -> None:
    store.rewind(6)
    assert store.kept_rounds() == [3, 6]
    store.rewind(3)
    assert store.kept_rounds() == [3] and manifest(store)["round"] == 3
    # Whoever rewinds sets the file aside first; what is left over goes with the next round.
    assert (store.folder / "round-000006.safetensors").exists()
    store.save(state(4))
    assert store.kept_rounds() == [3, 4]
    assert not (store.folder / "round-000006.safetensors").exists()


def test_rounds_not_kept_are_named(store: CheckpointStore) -> None:
    with pytest.raises(CheckpointError, match="keeps rounds 3, 6, not 5"):
        store.load(5)


@pytest.mark.parametrize("cut", [0, 10, -1])
def test_a_truncated_file_names_itself_and_the_way_back(store: CheckpointStore, cut: int) -> None:
    path = store.folder / "round-000006.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:cut])
    words = rf"{re.escape(str(path))} is damaged: {len(content[:cut])} bytes, expected {len(content)} .*--from-round 3"
    with pytest.raises(CheckpointError, match=words):
        store.load()
    assert store.load(3).round == 3


def test_a_flipped_bit_is_found(store: CheckpointStore) -> None:
    path = store.folder / "round-000003.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    # The newer one is whole, so that is the way on.
    with pytest.raises(CheckpointError, match="--from-round 6"):
        store.load(3)


def test_a_missing_file_is_a_damaged_one(store: CheckpointStore) -> None:
    for path in store.folder.glob("round-*"):
        path.unlink()
    with pytest.raises(CheckpointError, match=r"0 bytes.*restore a backup"):
        store.load()


def test_another_runs_checkpoints_are_refused(store: CheckpointStore) -> None:
    for names in (("run-2", "f" * 16), ("run-1", "0" * 16)):
        with pytest.raises(CheckpointError, match="belongs to run run-1"):
            CheckpointStore(store.folder, *names).load()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"format": 1}',
        b'{"format": 1, "run-id": "run-1", "fingerprint": "f", "round": 1, "checkpoints": []}',
        b'{"format": 1, "run-id": "run-1", "fingerprint": "f", "round": 1, "checkpoints": [{"round": 1}]}',
        b'{"format": 1, "run-id": "run-1", "fingerprint": "f", "round": 1, "checkpoints": [3]}',
    ],
)
def test_a_damaged_manifest_is_said(store: CheckpointStore, content: bytes) -> None:
    (store.folder / "manifest.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"manifest\.json is damaged; restore"):
        store.load()


def test_a_newer_format_is_said(store: CheckpointStore) -> None:
    (store.folder / "manifest.json").write_text(json.dumps(manifest(store) | {"format": 9}))
    with pytest.raises(CheckpointError, match="format 9, this version reads 1; upgrade"):
        store.load()


def test_no_checkpoint_at_all(tmp_path: Path) -> None:
    empty = CheckpointStore(tmp_path, "run-1", "f")
    assert not empty.exists() and empty.kept_rounds() == []
    with pytest.raises(CheckpointError, match=r"manifest\.json is missing"):
        empty.load()


def test_killed_between_tensors_and_manifest(store: CheckpointStore) -> None:
    (store.folder / "round-000009.safetensors").write_bytes(b"whole or not, nobody named it")
    (store.folder / "round-000012.safetensors.tmp").write_bytes(b"")
    assert store.load().round == 6
    store.save(state(9))
    assert store.kept_rounds() == [6, 9] and store.load().shared["b"] == 9
    assert len(list(store.folder.iterdir())) == 3


def test_a_refused_write_leaves_the_old_ones(store: CheckpointStore) -> None:
    before = {path: path.read_bytes() for path in store.folder.iterdir()}
    (store.folder / "round-000009.safetensors.tmp").mkdir()
    with pytest.raises(
        RunError, match=r"round-000009\.safetensors cannot be written .*fedloge resume"
    ):
        store.save(state(9))
    (store.folder / "round-000009.safetensors.tmp").rmdir()
    (store.folder / "manifest.json.tmp").mkdir()
    with pytest.raises(RunError, match=r"manifest\.json cannot be written"):
        store.save(state(9))
    assert {path: path.read_bytes() for path in before} == before
    assert store.load().round == 6
