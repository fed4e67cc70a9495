from __future__ import annotations

from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, model_validator

from fedloge.errors import ConfigError
from fedloge.options import (
    NotNegative,
    Options,
    Positive,
    Share,
    checked_options,
    keyword_options,
)

HERE = "method-options of 'mine'"


class Mine(Options):
    mu: float = Field(0.1, ge=0)
    steps: int = 3
    kind: Literal["a", "b"] = "a"
    on_server: bool = False
    inner_options: dict[str, Any] = Field(default_factory=dict)


class Needs(Options):
    table: str


class Nothing(Options):
    pass


class Ordered(Options):
    low: float = 0.0
    high: float = 1.0

    @model_validator(mode="after")
    def _order(self) -> Ordered:
        if self.high < self.low:
            raise ValueError(f"high is {self.high} but low is {self.low}; swap them")
        return self


def test_names_are_kebab_case_and_defaults_hold() -> None:
    assert Mine.names() == ["mu", "steps", "kind", "on-server", "inner-options"]
    options = checked_options(Mine, {"on-server": True, "mu": 2}, HERE)
    assert (options.mu, options.steps, options.on_server) == (2.0, 3, True)
    assert type(options.mu) is float
    with pytest.raises(Exception, match="frozen"):
        options.mu = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("kind", "given", "said"),
    [
        (Mine, {"mo": 1}, "unknown option 'mo' (did you mean 'mu'?); known: inner-options, kind,"),
        (Mine, {"on_server": True}, "unknown option 'on_server' (did you mean 'on-server'?)"),
        (Mine, {"mu": -1}, "mu: input should be greater than or equal to 0, got -1"),
        (Mine, {"mu": True}, "mu: input should be a valid number, got True"),
        (Mine, {"mu": "0.1"}, "mu: input should be a valid number, got '0.1'"),
        (Mine, {"mu": float("inf")}, "mu: input should be a finite number, got inf"),
        (Mine, {"steps": 2.0}, "steps: input should be a valid integer, got 2.0"),
        (Mine, {"steps": True}, "steps: input should be a valid integer, got True"),
        (Mine, {"on-server": 1}, "on-server: input should be a valid boolean, got 1"),
        (Mine, {"kind": "c"}, "kind: input should be 'a' or 'b', got 'c'"),
        (Mine, {"inner-options": 3}, "inner-options: input should be a valid dictionary, got 3"),
        (Needs, {}, "table is missing; give it a value"),
        (Nothing, {"mu": 1}, "there are no options, got 'mu'; leave it out"),
        (Ordered, {"low": 2.0}, "high is 1.0 but low is 2.0; swap them"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(kind, given, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        checked_options(kind, given, HERE)
    assert str(caught.value).startswith(f"{HERE}: {said}")
    assert "\n" not in str(caught.value)


def test_no_options_of_what_has_none() -> None:
    assert dict(checked_options(Nothing, {}, HERE)) == {}


@settings(deadline=None)
@given(
    mu=st.floats(0, 1e300),
    steps=st.integers(),
    kind=st.sampled_from(["a", "b"]),
    on=st.booleans(),
)
def test_what_fits_comes_back_as_it_was(mu, steps, kind, on) -> None:
    table = {"mu": mu, "steps": steps, "kind": kind, "on-server": on}
    given_table = dict(table)
    options = checked_options(Mine, table, HERE)
    assert (options.mu, options.steps, options.kind, options.on_server) == (mu, steps, kind, on)
    assert table == given_table


@settings(deadline=None)
@given(key=st.text(min_size=1))
def test_a_key_that_is_no_name_is_refused_by_name(key: str) -> None:
    if key in Mine.names():
        return
    with pytest.raises(ConfigError) as caught:
        checked_options(Mine, {key: 1}, HERE)
    assert f"unknown option {key!r}" in str(caught.value)


# Options by the parameters of a function or a class


def test_keyword_only_parameters_of_a_function_are_its_options() -> None:
    def split(labels, num_clients, rng, *, alpha: Positive, mix: bool = False, note=None, n=3):
        """Nothing."""

    kind = keyword_options(split)
    assert kind.names() == ["alpha", "mix", "note", "n"]
    assert dict(checked_options(kind, {"alpha": 1}, HERE)) == {
        "alpha": 1.0,
        "mix": False,
        "note": None,
        "n": 3,
    }
    for wrong in ({}, {"alpha": 0}, {"alpha": 1, "mix": 1}, {"alpha": 1, "n": 0.5}):
        with pytest.raises(ConfigError):
            checked_options(kind, wrong, HERE)
    # Neither an annotation nor a default that says what it is: anything.
    assert checked_options(kind, {"alpha": 1, "note": [1]}, HERE).note == [1]  # type: ignore[attr-defined]


def test_snake_case_parameters_are_kebab_case_options() -> None:
    def split(labels, *, classes_per_client: int = 2):
        """Nothing."""

    kind = keyword_options(split)
    assert kind.names() == ["classes-per-client"]
    options = checked_options(kind, {"classes-per-client": 4}, HERE)
    assert dict(options) == {"classes_per_client": 4}


def test_parameters_of_a_constructor() -> None:
    class Rounds:
        def __init__(self, step: int = 1, *, turn: Share = 0.5) -> None:
            self.step, self.turn = step, turn

    assert keyword_options(Rounds).names() == ["turn"]
    assert keyword_options(Rounds, positional=True).names() == ["step", "turn"]
    assert keyword_options(Rounds, positional=True, without=("step",)).names() == ["turn"]
    with pytest.raises(ConfigError, match=r"turn: .*less than or equal to 1, got 2"):
        checked_options(keyword_options(Rounds), {"turn": 2}, HERE)


def test_a_class_without_a_constructor_has_no_options() -> None:
    class Plain:
        pass

    assert keyword_options(Plain, positional=True).names() == []


def test_annotations_that_name_what_is_not_there_leave_the_defaults_to_say() -> None:
    def split(labels: NoSuchThing, *, share: AlsoNot = 0.5, keep):  # type: ignore[name-defined]  # noqa: F821
        """Nothing."""

    kind = keyword_options(split)
    assert dict(checked_options(kind, {"keep": "x"}, HERE)) == {"share": 0.5, "keep": "x"}
    with pytest.raises(ConfigError, match="share: input should be a valid number, got 'half'"):
        checked_options(kind, {"keep": "x", "share": "half"}, HERE)


def test_ranges_by_name() -> None:
    def loss(*, tau: NotNegative = 0.0, scale: Positive = 1.0, part: Share = 1.0):
        """Nothing."""

    kind = keyword_options(loss)
    checked_options(kind, {"tau": 0, "scale": 1e-9, "part": 0}, HERE)
    for wrong in ({"tau": -1e-9}, {"scale": 0}, {"part": 1.1}, {"part": -0.1}):
        with pytest.raises(ConfigError, match=f"{next(iter(wrong))}: input should be"):
            checked_options(kind, wrong, HERE)
