from __future__ import annotations

import stat
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloge.client.personal_state import PersonalStore
from fedloge.errors import CheckpointError, RunError
from fedloge.messages import Stamp

INITIAL = {"head.weight": torch.zeros(2, 3), "head.bias": torch.zeros(2)}


def stamp(round: int, *, bases: tuple[int, ...] = (0,), keep: int = 0, **changes: str) -> Stamp:
    names = {"run_id": "run-1", "run_name": "run", "fingerprint": "f" * 16} | changes
    return Stamp(**names, bases=bases, round=round, keep_round=keep)


def state(value: float) -> dict[str, torch.Tensor]:
    return {name: torch.full_like(t, value) for name, t in INITIAL.items()}


def value(store: PersonalStore, at: Stamp) -> float:
    return store.load(at, INITIAL, before=at.round).tensors["head.bias"][0].item()


@pytest.fixture
def store(tmp_path: Path) -> PersonalStore:
    return PersonalStore(tmp_path / "heads", 3)


def test_a_client_that_never_trained_has_the_initial_state(store: PersonalStore) -> None:
    loaded = store.load(stamp(1), INITIAL, before=1)
    assert (loaded.round, loaded.rounds_trained) == (0, 0)
    assert torch.equal(loaded.tensors["head.weight"], INITIAL["head.weight"])
    assert not store.folder.exists()


def test_what_is_saved_is_loaded_by_later_rounds_only(store: PersonalStore) -> None:
    store.save(stamp(2), state(2.0), 1)
    assert value(store, stamp(2)) == 0.0
    loaded = store.load(stamp(3), INITIAL, before=3)
    assert (loaded.round, loaded.rounds_trained) == (2, 1)
    assert torch.equal(loaded.tensors["head.weight"], torch.full((2, 3), 2.0))


@pytest.mark.parametrize(
    "other", [{"run_id": "run-2"}, {"fingerprint": "0" * 16}], ids=["run", "fingerprint"]
)
def test_another_runs_state_is_refused(store: PersonalStore, other: dict[str, str]) -> None:
    store.save(stamp(1, **other), state(9.0), 1)
    with pytest.raises(CheckpointError, match="belongs to client 3 of run"):
        store.load(stamp(2), INITIAL, before=2)
    with pytest.raises(CheckpointError, match="belongs to client 3 of run"):
        store.save(stamp(2), state(1.0), 1)


def test_another_clients_state_is_refused(store: PersonalStore, tmp_path: Path) -> None:
    PersonalStore(tmp_path / "heads", 4).save(stamp(1), state(9.0), 1)
    (tmp_path / "heads/client-00004").rename(store.folder)
    with pytest.raises(CheckpointError, match="belongs to client 4"):
        store.load(stamp(2), INITIAL, before=2)


def test_a_straggler_cannot_overwrite_a_newer_round(store: PersonalStore) -> None:
    store.save(stamp(1), state(1.0), 1)
    store.save(stamp(4), state(4.0), 2)
    with pytest.raises(CheckpointError, match="round 4 of attempt 1 is stored already"):
        store.save(stamp(2), state(2.0), 2)
    assert value(store, stamp(5)) == 4.0
    assert sorted(p.name for p in store.folder.iterdir()) == [
        "round-000001.safetensors",
        "round-000004.safetensors",
    ]


def test_a_straggler_of_an_earlier_attempt_cannot_overwrite(store: PersonalStore) -> None:
    store.save(stamp(3, bases=(0, 2)), state(32.0), 2)
    with pytest.raises(CheckpointError, match="round 3 of attempt 2 is stored already"):
        store.save(stamp(5, bases=(0,)), state(51.0), 2)


def test_the_same_message_twice_is_harmless(store: PersonalStore) -> None:
    store.save(stamp(3), state(3.0), 1)
    store.save(stamp(3), state(3.0), 1)
    assert value(store, stamp(4)) == 3.0


def test_an_attempt_ignores_what_was_made_after_its_base(store: PersonalStore) -> None:
    store.save(stamp(2), state(2.0), 1)
    store.save(stamp(5), state(5.0), 2)
    resumed = (0, 3)
    assert value(store, stamp(6, bases=resumed)) == 2.0
    store.save(stamp(4, bases=resumed), state(42.0), 2)
    assert value(store, stamp(6, bases=resumed)) == 42.0
    assert not (store.folder / "round-000005.safetensors").exists()


def test_what_an_attempt_does_again_is_kept_beside(
    store: PersonalStore, caplog: pytest.LogCaptureFixture
) -> None:
    """At a site no server moves them; the round that is done again must not be written over the old one."""
    for round in (2, 4, 5):
        store.save(stamp(round), state(round), 1)
    before = {path.name: path.read_bytes() for path in store.folder.iterdir()}
    store.save(stamp(4, bases=(0, 3)), state(42.0), 2)
    aside = store.folder / "set-aside/attempt-00002"
    assert {path.name: path.read_bytes() for path in aside.iterdir()} == {
        name: content for name, content in before.items() if "000002" not in name
    }
    assert stat.S_IMODE(aside.stat().st_mode) == stat.S_IMODE(aside.parent.stat().st_mode) == 0o700
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2 and all(str(aside) in text for text in said)
    store.save(stamp(5, bases=(0, 3)), state(52.0), 3)
    assert len(caplog.records) == 2 and value(store, stamp(6, bases=(0, 3))) == 52.0


def test_asking_who_is_not_drawn_again_loses_nothing_either(store: PersonalStore) -> None:
    for round in (2, 5):
        store.save(stamp(round), state(round), 1)
    store.drop_old(stamp(4, bases=(0, 3), keep=3))
    assert [p.name for p in (store.folder / "set-aside/attempt-00002").iterdir()] == [
        "round-000005.safetensors"
    ]
    assert value(store, stamp(5, bases=(0, 3))) == 2.0


def test_what_an_attempt_did_not_inherit_no_later_one_does(store: PersonalStore) -> None:
    """Round 5 of attempt 1 was not part of attempt 2, which began from 3, nor is it of attempt 3."""
    store.save(stamp(2), state(2.0), 1)
    store.save(stamp(5), state(5.0), 2)
    assert value(store, stamp(10, bases=(0, 3, 9))) == 2.0
    assert value(store, stamp(10, bases=(0, 9, 9))) == 5.0


def test_only_versions_that_a_kept_checkpoint_needs_stay(store: PersonalStore) -> None:
    for round in (1, 2, 5, 6, 9):
        # The older of the two kept checkpoints is two rounds back.
        store.save(stamp(round, keep=max(0, round - 2)), state(round), round)
    kept = [int(p.stem.removeprefix("round-")) for p in sorted(store.folder.iterdir())]
    assert kept == [6, 9]  # 6 is what a run resumed from round 7 or 8 needs
    assert value(store, stamp(8)) == 6.0


def test_a_client_that_is_not_drawn_again_keeps_one_version_in_the_end(
    store: PersonalStore,
) -> None:
    store.save(stamp(3), state(3.0), 1)
    store.save(stamp(5, keep=4), state(5.0), 2)
    store.drop_old(stamp(6, keep=4))  # a run resumed from round 4 needs that of round 3
    assert len(list(store.folder.iterdir())) == 2
    store.drop_old(stamp(9, keep=8))
    assert [p.stem for p in store.folder.iterdir()] == ["round-000005"]
    assert value(store, stamp(10, keep=8)) == 5.0


@settings(max_examples=40, deadline=None)
@given(
    trained=st.sets(st.integers(1, 30), min_size=1),
    every=st.integers(1, 4),
    resumed=st.integers(1, 30),
)
def test_every_kept_checkpoint_finds_the_state_it_had(
    tmp_path_factory: pytest.TempPathFactory, trained: set[int], every: int, resumed: int
) -> None:
    """Whatever rounds a client trains in: what a checkpoint's round needs is never pruned."""
    store = PersonalStore(tmp_path_factory.mktemp("heads"), 0)
    for round in sorted(trained):
        kept = [r for r in range(round) if r % every == 0][-2:]
        store.save(stamp(round, keep=min(kept)), state(round), 1)
        for base in kept:
            expected = max((r for r in trained if r <= base), default=0)
            assert value(store, stamp(base + 1, bases=(0, base))) == expected


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content[:20],
        lambda content: b"",
        lambda content: b"\xff" * len(content),
        lambda content: content[:-3] + b"\x01\x02\x03",
        lambda content: content.replace(b"rounds-trained", b"rounds-painted"),
        lambda content: content.replace(b'attempt\\": 1', b'attempt\\": 2'),
        lambda content: content.replace(b'round\\": 1', b'round\\": 2'),
    ],
    ids=["short", "header only", "empty", "garbage", "flipped", "header", "attempt", "round"],
)
def test_a_damaged_file_is_named_and_sized(store: PersonalStore, damage) -> None:
    store.save(stamp(1), state(1.0), 1)
    path = store.folder / "round-000001.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(
        CheckpointError, match=r"round-000001\.safetensors is damaged \(\d+ bytes\)"
    ):
        store.load(stamp(2), INITIAL, before=2)


def test_another_models_state_is_refused(store: PersonalStore) -> None:
    store.save(stamp(1), {"head.weight": torch.zeros(5, 3), "head.bias": torch.zeros(2)}, 1)
    with pytest.raises(CheckpointError, match=r"'head.weight' is \(\(5, 3\).*expected \(\(2, 3\)"):
        store.load(stamp(2), INITIAL, before=2)


def test_a_refused_write_leaves_the_older_version(store: PersonalStore) -> None:
    store.save(stamp(1), state(1.0), 1)
    (store.folder / "round-000002.tmp").mkdir()  # nothing can be written under this name
    with pytest.raises(RunError, match=r"client 3: personal state cannot be written"):
        store.save(stamp(2), state(2.0), 2)
    assert value(store, stamp(3)) == 1.0


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = PersonalStore(tmp_path / "file/heads", 0)
    with pytest.raises(RunError, match="cannot be written"):
        store.save(stamp(1), state(1.0), 1)


def test_carried_files_replace_what_is_there(store: PersonalStore, tmp_path: Path) -> None:
    store.save(stamp(1), state(1.0), 1)
    store.save(stamp(2), state(2.0), 2)
    away = PersonalStore(tmp_path / "away", 3)
    away.save(stamp(9), state(9.0), 1)
    away.write_files(store.read_files())
    assert away.read_files() == store.read_files()
    assert value(away, stamp(3)) == 2.0


@pytest.mark.parametrize("name", ["../../etc/passwd", "round-1.safetensors", "/abs", "x"])
def test_carried_files_cannot_climb_out(store: PersonalStore, name: str) -> None:
    with pytest.raises(CheckpointError, match="is not the file name of a personal state"):
        store.write_files({name: b""})


def test_nothing_is_pickled(store: PersonalStore) -> None:
    store.save(stamp(1), state(1.0), 1)
    assert [path.suffix for path in store.folder.iterdir()] == [".safetensors"]
