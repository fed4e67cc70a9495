"""Whose answers count, where more are asked than are needed."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from fedloge.server.answer_choice import AnswerChoice


def told(choice: AnswerChoice, *answers: tuple[int, float]) -> AnswerChoice:
    for client, seconds in answers:
        if not choice.settled:
            choice.came(client, seconds)
    return choice


def test_by_the_deadline_the_order_of_the_draw_decides() -> None:
    choice = told(AnswerChoice([5, 2, 9, 4], 2, 10.0), (4, 1.0), (9, 2.0), (2, 3.0))
    assert not choice.settled, "5 may still come"
    choice.time_is(10.0)
    assert not choice.settled, "an answer just at the deadline is in time"
    choice.time_is(10.1)
    assert choice.settled and choice.taken == [2, 9]


def test_it_is_settled_before_the_deadline_where_nobody_can_change_it() -> None:
    choice = told(AnswerChoice([5, 2, 9, 4], 2, 10.0), (2, 1.0), (5, 2.0))
    assert choice.settled and choice.taken == [2, 5]


def test_one_that_fails_makes_place_for_the_next_in_the_draw() -> None:
    choice = AnswerChoice([5, 2, 9, 4], 2, 10.0)
    choice.failed(5, 0.5)
    assert told(choice, (9, 1.0), (2, 2.0)).settled and choice.taken == [2, 9]


def test_too_few_by_the_deadline_are_filled_up_by_the_next_that_come() -> None:
    choice = told(AnswerChoice([5, 2, 9, 4], 3, 10.0), (4, 1.0), (9, 20.0))
    assert not choice.settled
    choice.came(2, 30.0)
    assert choice.settled and choice.taken == [2, 4, 9]


def test_without_a_deadline_the_first_that_come_count() -> None:
    choice = told(AnswerChoice([5, 2, 9, 4], 2, 0.0), (4, 1.0), (9, 2.0), (5, 3.0))
    assert choice.settled and choice.taken == [4, 9]


def test_where_all_others_fail_it_is_settled_with_fewer() -> None:
    choice = AnswerChoice([5, 2, 9], 2, 0.0)
    choice.came(2, 1.0)
    choice.failed(5, 2.0)
    assert not choice.settled
    choice.failed(9, 3.0)
    assert choice.settled and choice.taken == [2]


@given(st.data())
def test_who_is_taken_hangs_on_who_is_in_time_and_not_on_the_order(data: st.DataObject) -> None:
    clients = data.draw(st.permutations(range(8)))
    needed = data.draw(st.integers(1, 8))
    in_time = data.draw(st.sets(st.sampled_from(clients), min_size=needed))
    came = sorted(in_time)
    results = set()
    for shuffle in range(3):
        random.Random(shuffle).shuffle(came)
        choice = AnswerChoice(clients, needed, 1.0)
        for client in came:
            if not choice.settled:
                choice.came(client, 0.5)
        choice.time_is(2.0)
        assert choice.settled
        results.add(tuple(choice.taken))
    (taken,) = results
    assert set(taken) == set([k for k in clients if k in in_time][:needed])
