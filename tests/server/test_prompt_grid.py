"""Answers are taken as they come, whatever Flower's grid would wait."""

from __future__ import annotations

import time
from pathlib import Path

import harness
from flwr.app import Message, RecordDict
from late_answers import LateAnswers

from fedloge.engines.own_grid import partition_of
from fedloge.server.prompt_grid import PromptGrid


def asked(grid: LateAnswers, prompt: PromptGrid) -> list[Message]:
    """A message to every node; none holds a model, so each is answered with a refusal."""
    nodes = list(prompt.get_node_ids())
    assert nodes == list(grid.get_node_ids())
    return [prompt.create_message(RecordDict(), "train", node, "1") for node in nodes]


def test_answers_come_in_the_order_of_their_arrival(tmp_path: Path) -> None:
    delays = {0: 0.3, 1: 0.0, 2: 0.6, 3: 0.1}
    grid = LateAnswers(harness.tiny(tmp_path), delays)
    prompt = PromptGrid(grid)
    messages = asked(grid, prompt)
    of = {m.metadata.message_id: partition_of(m) for m in messages}
    replies = list(prompt.send_and_receive(messages, timeout=60))
    of |= {m.metadata.message_id: partition_of(m) for m in messages}
    assert [of[r.metadata.reply_to_message_id] for r in replies] == [1, 3, 0, 2]


def test_who_never_answers_is_waited_for_until_the_time_is_over(tmp_path: Path) -> None:
    grid = LateAnswers(harness.tiny(tmp_path), mute={2})
    prompt = PromptGrid(grid)
    assert len(list(prompt.send_and_receive(asked(grid, prompt), timeout=0.5))) == 3


def test_an_answer_that_comes_while_another_is_worked_on_is_not_lost(tmp_path: Path) -> None:
    grid = LateAnswers(harness.tiny(tmp_path), {3: 0.2})
    prompt = PromptGrid(grid)
    replies = iter(prompt.send_and_receive(asked(grid, prompt), timeout=0.3))
    first = [next(replies) for _ in range(3)]
    time.sleep(0.4)  # the fourth has come, and the time is over
    assert len(first + list(replies)) == 4


def test_a_run_over_a_grid_of_others_has_the_same_bits(tmp_path: Path) -> None:
    here = harness.run_local(harness.tiny(tmp_path, "here"))
    there = harness.run_local(
        harness.tiny(tmp_path, "there"), lambda c: LateAnswers(c, {0: 0.2, 2: 0.1})
    )
    assert harness.same_tensors(harness.model(here), harness.model(there))
    assert harness.lines(here, "metrics") == harness.lines(there, "metrics")
