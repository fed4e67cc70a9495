"""A secure sum gives the plain sum's bits, whoever drops out, or is known to be lost."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Message
from secure_table import Table, reply

from fedloge import messages as wire
from fedloge.errors import UpdateError
from fedloge.messages.cohort import (
    MASKED,
    SEALED,
    UNMASK,
    MaskedAnswer,
    MaskGraph,
    Unmasked,
)
from fedloge.server.masked_mean import SumLost


@pytest.mark.parametrize(
    ("size", "dropped", "neighbours", "threshold"),
    [
        (3, 0, 0, "two-thirds"),
        (4, 1, 0, "two-thirds"),
        (5, 1, 0, "two-thirds"),
        (8, 1, 0, "two-thirds"),
        (10, 2, 0, "two-thirds"),
        (40, 8, 0, "two-thirds"),
        (100, 20, 0, "two-thirds"),
        (100, 20, 30, "half"),
    ],
)
def test_the_bits_are_those_of_the_plain_mean(
    tmp_path: Path, size: int, dropped: int, neighbours: int, threshold: str
) -> None:
    table = Table(tmp_path, size, secure_neighbours=neighbours, secure_threshold=threshold)
    survivors = sorted(random.Random(size).sample(range(size), size - dropped))
    server = table.server(table.unmasked)
    for k in random.Random(1).sample(survivors, len(survivors)):  # in any order
        server.add(k, table.answer(k), 0)
    assert server.odd_ones() == {}
    shared, read = server.result(1), server.read
    mean, sums = table.plain(survivors)
    assert all(torch.equal(shared[name], tensor) for name, tensor in mean.items())
    assert read is not None and torch.equal(read.sums["counts"], sums["counts"])
    assert read.figures == {"train/loss": math.fsum(table.losses[k] for k in survivors)}


def test_what_a_client_sends_is_not_its_update(tmp_path: Path) -> None:
    """Its words are those of a random stream: half their bits are set, and they differ each time."""
    table, again = Table(tmp_path / "a", 3), Table(tmp_path / "b", 3)
    content = table.answer(0).content
    assert wire.ARRAYS not in content and wire.SUMS not in content
    assert list(content[wire.METRICS]) == []
    words = MaskedAnswer.from_content(content).words
    bits = np.unpackbits(words.view(np.uint8)).mean()
    assert abs(bits - 0.5) < 5 * 0.5 / math.sqrt(64 * len(words))
    other = MaskedAnswer.from_content(again.answer(0).content).words
    assert (words != other).all()  # the self-mask is of the system's entropy


@pytest.mark.parametrize("silent", [0, 1, 2])
def test_shares_are_counted(tmp_path: Path, silent: int) -> None:
    """Of 5 clients 4 must answer the second message. With fewer, a wrong mean would come out in silence."""
    table = Table(tmp_path, 5)
    server = table.server(lambda messages: table.unmasked(messages, silent=range(silent)))
    for k in range(5):
        server.add(k, table.answer(k), 0)
    if silent <= 1:
        mean, _ = table.plain(range(5))
        assert all(torch.equal(t, mean[name]) for name, t in server.result(1).items())
    else:
        with pytest.raises(SumLost, match=r"3 shares of client 0's mask came, 4 are needed"):
            server.result(1)


def test_a_survivor_that_goes_with_the_dropped_ones_masks_loses_the_sum(tmp_path: Path) -> None:
    table = Table(tmp_path, 10)
    server = table.server(lambda messages: table.unmasked(messages, silent=[3]))
    for k in range(9):
        server.add(k, table.answer(k), 0)
    with pytest.raises(SumLost, match=r"client 3 has gone .* in common with client 9"):
        server.result(1)


def lying(messages: Iterable[Message], liars: set[int]) -> Iterable[Message]:
    for message in messages:
        if (client := message.metadata.src_node_id - 2) in liars:
            opened = Unmasked.from_content(message.content)
            bit = 1 << client + 3  # unlike ones, or two lies might cancel
            wrong = {of: (int.from_bytes(s) ^ bit).to_bytes(66) for of, s in opened.shares.items()}
            message.content[UNMASK] = Unmasked(wrong, opened.seeds).to_record()
        yield message


def test_a_wrong_share_is_found_and_replaced_by_another(tmp_path: Path) -> None:
    table = Table(tmp_path, 5)
    server = table.server(lambda messages: lying(table.unmasked(messages), {0}))
    for k in range(5):
        server.add(k, table.answer(k), 0)
    mean, _ = table.plain(range(5))
    assert all(torch.equal(t, mean[name]) for name, t in server.result(1).items())


def test_too_many_wrong_shares_lose_the_sum(tmp_path: Path) -> None:
    table = Table(tmp_path, 5)
    server = table.server(lambda messages: lying(table.unmasked(messages), {0, 1}))
    for k in range(5):
        server.add(k, table.answer(k), 0)
    with pytest.raises(SumLost, match="do not fit together"):
        server.result(1)


def test_a_vector_that_is_not_a_masked_update_shows_in_the_range_of_the_sum(tmp_path: Path) -> None:
    table = Table(tmp_path, 4)
    server = table.server(table.unmasked)
    for k in range(4):
        answer = table.answer(k)
        if k == 2:
            words = answer.content[MASKED]
            vector = wire.decode(words)["words"]
            answer.content[MASKED] = wire.encode({"words": vector.flip(0)})
        server.add(k, answer, 0)
    with pytest.raises(SumLost, match="behind masks nobody can say which client"):
        server.result(1)


def test_who_masks_other_figures_than_most_is_left_out(tmp_path: Path) -> None:
    table = Table(tmp_path, 5)
    server = table.server(table.unmasked)
    for k in (4, 0, 1, 2, 3):
        answer = table.answer(k)
        if k == 4:
            masked = MaskedAnswer.from_content(answer.content)
            words = np.concatenate([masked.words, masked.words[:35]])
            names = ("train/loss", "train/zeal")
            MaskedAnswer(words, names, masked.boxes, masked.commitment).put_into(answer.content)
        server.add(k, answer, 0)
    assert list(server.odd_ones()) == [4]
    mean, _ = table.plain(range(4))
    assert all(torch.equal(t, mean[name]) for name, t in server.result(1).items())


def test_malformed_answers_are_refused(tmp_path: Path) -> None:
    table = Table(tmp_path, 4)
    server = table.server(table.unmasked)
    good = MaskedAnswer.from_content(table.answer(0).content)
    some = dict(list(good.boxes.items())[:-1])
    wrong = {
        "7 words, expected": MaskedAnswer(
            good.words[:7], good.figures, good.boxes, good.commitment
        ),
        "shares are not for": MaskedAnswer(good.words, good.figures, some, good.commitment),
        "is not known": MaskedAnswer(good.words, ("personal/x",), good.boxes, good.commitment),
    }
    for text, answer in wrong.items():
        content = table.message(0)
        answer.put_into(content)
        with pytest.raises(UpdateError, match=text):
            server.add(0, reply(0, content), 0)
    content = table.message(0)
    good.put_into(content)
    del content[SEALED]
    with pytest.raises(UpdateError, match="no shares of its mask"):
        server.add(0, reply(0, content), 0)


def test_the_graph_of_neighbours_is_mutual_and_drawn_anew_each_round(tmp_path: Path) -> None:
    config = Table(tmp_path, 30, secure_neighbours=6).config
    clients = [*range(0, 60, 2)]
    graphs = [MaskGraph.of(config, clients, round) for round in (1, 2)]
    for graph in graphs:
        assert all(len(graph.neighbours(k)) == 6 for k in clients)
        assert all(k in graph.neighbours(j) for k in clients for j in graph.neighbours(k))
        assert graph.threshold(0) == 2 * 7 // 3 + 1 == 5
    assert graphs[0] != graphs[1] and graphs[0] == MaskGraph.of(config, clients, 1)
    assert Table(tmp_path, 30, secure_neighbours=6).config == config
    # A graph of few is complete.
    assert MaskGraph.of(config, [0, 1, 2], 1).neighbours(0) == (1, 2)
