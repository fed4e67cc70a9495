"""What a client refuses to a server that deviates. Each is a way to learn a single update."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from secure_table import Table

from fedloge.client.masking_keys import (
    MaskingKeys,
    read_peers,
    simulated_key,
    simulated_keys,
    site_keys,
)
from fedloge.commands.site_keys import make_masking_key
from fedloge.errors import CheckpointError, InputError, UpdateError
from fedloge.messages.cohort import MASKED, Cohort, MaskedAnswer, Unmasking, context_of, subject_of


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return Table(tmp_path, 5)


def context(table: Table, stamp: object = None, kind: str = "train") -> str:
    stamp = stamp or table.stamp
    return context_of(subject_of(kind, stamp, table.model), stamp, table.cohort)


def asking(table: Table, survivors: tuple, dropped: tuple, boxes: dict | None = None) -> Unmasking:
    return Unmasking("train", context(table), survivors, dropped, boxes or {})


def test_both_seeds_of_one_client_are_refused(table: Table) -> None:
    table.answer(0)
    with pytest.raises(
        UpdateError, match="client 2 is said both to have answered and to have dropped"
    ):
        table.client(0).unmask(asking(table, (0, 1, 2, 3), (2, 4)))


def test_the_other_seed_of_a_client_is_refused_after_the_one(table: Table) -> None:
    """Asked twice, once with client 4 alive and once without; the client's memory is on disk."""
    answers = {k: MaskedAnswer.from_content(table.answer(k).content) for k in range(5)}
    boxes = {k: answer.boxes[0] for k, answer in answers.items()}
    first = asking(table, (0, 1, 2, 3, 4), (), boxes)
    assert set(table.client(0).unmask(first).shares) == {0, 1, 2, 3, 4}
    with pytest.raises(UpdateError, match="opened over 5 clients before, and now over 4"):
        table.client(0).unmask(asking(table, (0, 1, 2, 3), (4,), boxes))
    again = table.client(0).unmask(first)  # the same once more says nothing new
    assert len(again.shares) == 5 and not again.seeds


def test_a_client_gives_the_dropped_ones_seed_and_not_their_share(table: Table) -> None:
    answers = {k: MaskedAnswer.from_content(table.answer(k).content) for k in range(5)}
    boxes = {k: answer.boxes[0] for k, answer in answers.items()}
    opened = table.client(0).unmask(asking(table, (0, 1, 2, 3), (4,), boxes))
    assert set(opened.shares) == {0, 1, 2, 3} and set(opened.seeds) == {4}


def test_a_repeated_round_over_other_clients_is_refused_in_every_attempt(table: Table) -> None:
    """A resumed run sends the same model for the same round: the difference would be one update."""
    table.answer(0)
    table.client(0).unmask(asking(table, (0, 1, 2, 3, 4), ()))
    later = dataclasses.replace(table.stamp, bases=(0, 0))
    table.answer(0, stamp=later)
    over_four = Unmasking("train", context(table, later), (0, 1, 2, 3), (4,), {})
    with pytest.raises(UpdateError, match="the difference would show single updates"):
        table.client(0).unmask(over_four)
    over_all = Unmasking("train", context(table, later), (0, 1, 2, 3, 4), (), {})
    assert table.client(0).unmask(over_all).seeds == {}


def test_a_replayed_message_is_refused(table: Table) -> None:
    table.answer(0)
    with pytest.raises(UpdateError, match="has answered this very message before"):
        table.answer(0)


def test_a_context_of_another_round_or_kind_is_refused(table: Table) -> None:
    table.answer(0)
    other = dataclasses.replace(table.stamp, round=2)
    for wrong in (context(table, other), context(table, kind="evaluate"), "0" * 64, ""):
        with pytest.raises(UpdateError, match="has masked no vector in this context"):
            table.client(0).unmask(Unmasking("train", wrong, (0, 1, 2, 3, 4), (), {}))


@pytest.mark.parametrize("clients", [(0, 1), (0,), ()])
def test_a_shrunk_roster_is_refused(table: Table, clients: tuple) -> None:
    with pytest.raises(UpdateError, match=r"would say too much of each; expected 3 or more"):
        Cohort(clients, tuple(1 for _ in clients))


def test_a_roster_smaller_than_the_site_asks_for_is_refused(table: Table) -> None:
    small = Cohort((0, 1, 2, 3), tuple(table.weights[k] for k in range(4)))
    with pytest.raises(UpdateError, match="a cohort of 4 clients, expected 5 or more"):
        table.answer(0, table.message(0, small), fewest=5)


@pytest.mark.parametrize(
    ("survivors", "dropped", "words"),
    [
        ((0, 1, 2), (3, 4), "3 of the 5 clients that mask with client 0 are left"),
        ((0, 1), (2, 3, 4), "the sum would be over 2 clients, expected 3"),
        ((0, 1, 2, 3), (), "are not the clients of the cohort"),
        ((0, 1, 2, 3, 3), (4,), "are not the clients of the cohort"),
        ((0, 1, 2, 3, 9), (4,), "are not the clients of the cohort"),
        ((1, 2, 3, 4), (0,), "client 0 has answered, and is said to have dropped"),
    ],
)
def test_survivors_too_few_or_wrong_are_refused(
    table: Table, survivors: tuple, dropped: tuple, words: str
) -> None:
    table.answer(0)
    with pytest.raises(UpdateError, match=words):
        table.client(0).unmask(asking(table, survivors, dropped))


def test_a_sum_over_fewer_than_the_site_asks_for_is_refused(table: Table) -> None:
    table.answer(0)
    with pytest.raises(UpdateError, match="over 4 clients, expected 5 or more"):
        table.client(0, fewest=5).unmask(asking(table, (0, 1, 2, 3), (4,)))


def test_a_client_that_the_site_does_not_know_is_refused(table: Table) -> None:
    keys = simulated_keys(0, 5, 0)
    known = MaskingKeys(keys.private, {k: key for k, key in keys.public.items() if k != 3})
    with pytest.raises(UpdateError, match="client 3 is not in this site's list of peers"):
        table.answer(0, keys=known)


def test_a_weight_that_is_not_the_clients_is_refused(table: Table) -> None:
    """With a large weight of its own, and small ones for all others, the mean would be one update."""
    with pytest.raises(UpdateError, match="gives client 0 the weight"):
        table.answer(0, images=0)
    asked = table.message(0)
    asked["plan"] = table.message(1)["plan"]
    with pytest.raises(UpdateError, match="its plan"):
        table.answer(0, asked)


def test_two_models_give_masks_that_do_not_cancel(table: Table) -> None:
    """Sent another model than the rest, a client's update would stand out in the sum."""
    from fedloge import messages as wire

    asked = table.message(1)
    asked[wire.ARRAYS] = wire.encode({k: t + 1 for k, t in table.shared[1].items()})
    table.answer(1, asked)
    with pytest.raises(UpdateError, match="masked no vector in this context"):
        table.client(1).unmask(asking(table, (0, 1, 2, 3, 4), ()))


def test_a_box_of_another_client_is_refused(table: Table) -> None:
    answers = {k: MaskedAnswer.from_content(table.answer(k).content) for k in range(3)}
    swapped = {1: answers[2].boxes[0], 2: answers[1].boxes[0]}
    with pytest.raises(UpdateError, match="was not sealed by it"):
        table.client(0).unmask(asking(table, (0, 1, 2, 3, 4), (), swapped))


def test_the_memory_survives_a_line_cut_off_but_no_damage(table: Table) -> None:
    table.answer(0)
    path = table.folder / "0" / "secure-sums.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])  # killed while it wrote: that answer never left
    table.answer(0)
    assert [json.loads(line)["clients"] for line in path.read_text().splitlines()] == [[*range(5)]]
    path.write_bytes(b"\0" + whole)
    with pytest.raises(CheckpointError, match="is damaged"):
        table.client(0)


def test_an_update_out_of_bounds_is_not_masked(table: Table) -> None:
    table.shared[0]["bias"][0] = 1e5
    with pytest.raises(UpdateError, match="a value of 32768 or more"):
        table.answer(0)
    assert not (table.folder / "0" / "secure-sums.jsonl").exists()
    table.shared[0]["bias"][0] = 0
    assert MASKED in table.answer(0).content


# Keys


def test_a_site_uses_no_key_that_everybody_can_compute(tmp_path: Path) -> None:
    assert simulated_keys(0, 3, 1).public.keys() == {0, 1, 2}
    with pytest.raises(UpdateError, match="needs this site's own masking key"):
        site_keys({}, tmp_path, 1)


def test_a_site_makes_its_key_and_the_others_pin_it(tmp_path: Path) -> None:
    site = {k: tmp_path / str(k) for k in range(3)}
    lines = [make_masking_key(folder / "masking.key", k) for k, folder in site.items()]
    for folder in site.values():
        (folder / "peers.toml").write_text("\n".join(lines))
        assert (folder / "masking.key").stat().st_mode & 0o777 == 0o600
    keys = {k: site_keys({}, folder, k) for k, folder in site.items()}
    assert keys[0].public == keys[2].public and len(keys[0].public) == 3
    with pytest.raises(InputError, match="exists already and keys are not overwritten"):
        make_masking_key(site[0] / "masking.key", 0)
    (site[1] / "peers.toml").write_text("\n".join([lines[0], lines[2]]))
    with pytest.raises(UpdateError, match="the list of peers says none"):
        site_keys({}, site[1], 1)
    named = {"masking-key": str(site[0] / "masking.key")}
    peers = {"peers": str(site[0] / "peers.toml")}
    assert site_keys(named | peers, Path("/nowhere"), 0).public == keys[0].public


def test_simulated_keys_hang_on_seed_and_client() -> None:
    keys = {simulated_key(seed, k).private_bytes_raw() for seed in (0, 1) for k in range(3)}
    assert len(keys) == 6


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0 = ", "no TOML"),
        ('0 = "abc"', "expected lines such as"),
        (f'x = "{"0" * 64}"', "expected lines such as"),
        (f'0 = "{"0" * 64}"\n1 = "{"0" * 64}"', "two clients have the same key"),
    ],
)
def test_a_wrong_list_of_peers_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "peers.toml").write_text(text)
    with pytest.raises(UpdateError, match=words):
        read_peers(tmp_path / "peers.toml")
