"""What a client may answer: nothing that Flower can carry ends a run, or gets past the checks."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import pytest
import wrong_answers
from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from fedloge import messages as wire
from fedloge.errors import RunError

FORGED = "out of memory\nround 99  loss 0.000  \x1b[2J\x1b]0;owned\x07 \u202eevil " + "x" * 5000


def _figures(**changes: Any) -> Callable[[RecordDict], None]:
    named = {name.replace("__", "/").replace("_", "-"): value for name, value in changes.items()}
    return lambda content: content[wire.METRICS].update(named)


def _set(name: str, record: Any) -> Callable[[RecordDict], None]:
    return lambda content: content.update({name: record})


def _forged(content: RecordDict) -> None:
    content.clear()
    content.update(wire.failure_content(FORGED))


def _no_reason(content: RecordDict) -> None:
    content.clear()
    content[wire.FAILURE] = ConfigRecord({"reason": [2**62] * 1000})


TRAIN: dict[str, tuple[Callable[[RecordDict], None], str]] = {
    "images of 1.7e308": (_figures(images=1.7e308), "'images' is 1.7e+308"),
    "images that it has not": (_figures(images=10**9), "'images' is 1000000000, expected"),
    "no images": (lambda c: c[wire.METRICS].pop("images") and None, "'images' is None"),
    "a share of an image": (_figures(images=0.5), "'images' is 0.5"),
    "a loss of 1e200": (_figures(train__loss=1e200), "'train/loss' is 1e+200"),
    "an infinite loss": (_figures(train__loss=-math.inf), "'train/loss' is -inf"),
    "a loss of 9 million": (_figures(train__loss=9_000_000), "below 1e+06"),
    "a list": (_figures(train__loss=[1.0] * 500), "a list of 500"),
    "more digits than fit": (_figures(train__loss=10**5000), "more than 64 bits"),
    "another figure": (_figures(surprise=1.0), "'surprise' is not known"),
    "a key of the record": (_figures(round=3), "'round' is not known"),
    "a figure of an evaluation": (_figures(personal__x__accuracy=1.0), "is not known"),
    "a name too long": (lambda c: c[wire.METRICS].update({"train/" + "a" * 99: 1.0}), "not known"),
    "a name with an escape": (
        lambda c: c[wire.METRICS].update({"train/\x1b[2J": 1.0}),
        "not known",
    ),
    "257 figures": (
        lambda c: c[wire.METRICS].update({f"train/{k}": 1.0 for k in range(257)}),
        "figures, expected 256 at most",
    ),
    "another record": (_set("surprise", ConfigRecord({"x": 1})), "'surprise', which is not known"),
    "a worker's sums": (_set("partial-whole", ArrayRecord()), "only workers of the Ray engine"),
    "a worker's weight": (
        _set(wire.PARTIAL, ConfigRecord({"weight": 3})),
        "only workers of the Ray engine",
    ),
    "sums that nobody asked for": (_set(wire.SUMS, ArrayRecord()), "'sums', which is not known"),
    "metrics of another kind": (_set(wire.METRICS, ConfigRecord({"images": 1})), "no metrics"),
    "a weight of 1.0": (
        lambda c: c[wire.METRICS].update({wire.NUM_EXAMPLES: 1.5}),
        "weight 1.5, expected",
    ),
    "a round that is true": (
        lambda c: c[wire.STAMP].update({"round": True}),
        "lacks a valid 'round'",
    ),
    "a forged reason": (_forged, "out of memory round 99"),
    "a reason that is none": (_no_reason, "no reason given"),
}
EVALUATE: dict[str, tuple[Callable[[RecordDict], None], str]] = {
    "accuracy 5": (_figures(personal__raw__accuracy=5.0), "is 5.0, expected a share from 0 to 1"),
    "accuracy 1e200": (_figures(personal__raw__accuracy=1e200), "1e+200"),
    "accuracy below 0": (_figures(personal__raw__few=-0.1), "-0.1"),
    "macro-f1 of NaN": (
        _figures(personal__raw__macro_f1=math.nan),
        "'personal/raw/macro-f1' is nan",
    ),
    "an unknown figure": (_figures(personal__raw__mean=0.5), "'personal/raw/mean' is not known"),
    "a name in parts": (_figures(personal__a__b__accuracy=0.5), "is not known"),
    "minus one test image": (_figures(num_test=-1), "'num-test' is -1"),
    "half a test image": (_figures(num_test=0.5), "'num-test' is 0.5"),
    "rounds not yet run": (_figures(trained_rounds=5), "trained in 5 rounds, after 1"),
    "its own client": (_figures(client=0), "'client' is not known"),
    "its own num-train": (_figures(num_train=10**6), "'num-train' is not known"),
    "another weight": (_figures(num_examples=10**6), "weight 1000000, expected"),
    "a model": (_set(wire.ARRAYS, ArrayRecord()), "'arrays', which is not known"),
    "a forged reason": (_forged, "out of memory round 99"),
}


@pytest.mark.parametrize(
    ("kind", "name"), [("train", n) for n in TRAIN] + [("evaluate", n) for n in EVALUATE]
)
def test_a_wrong_answer_costs_its_client_the_turn(
    kind: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, words = (TRAIN if kind == "train" else EVALUATE)[name]
    config = harness.tiny(tmp_path, rounds=2, evaluate_every=1, method="fedper", min_fraction=0.6)
    bad = wrong_answers.drawn(config, 1)[0]
    wrong_answers.change_answers(monkeypatch, change, {bad}, kind=kind, rounds={1})
    folder = harness.run_local(config)
    (failure,) = harness.lines(folder, "failures")
    assert (failure["round"], failure["client"]) == (1, bad)
    assert words in failure["reason"]
    assert len(failure["reason"]) <= 300 and failure["reason"].isprintable()
    first, second = harness.lines(folder, "metrics")
    assert first["failed" if kind == "train" else "evaluated-clients"] == (
        1 if kind == "train" else 3
    )
    assert second["failed"] == 0 and second["evaluated-clients"] == 4
    for row in harness.lines(folder, "clients"):
        assert set(row) >= {"round", "client", "num-train"}
        assert all(0 <= v <= 1 for k, v in row.items() if k.startswith("personal/"))


def test_what_a_client_raises_forges_no_line_of_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def raises(content: RecordDict) -> None:
        raise ValueError(FORGED)

    config = harness.tiny(tmp_path, rounds=1)
    wrong_answers.change_answers(monkeypatch, raises, {wrong_answers.drawn(config, 1)[0]})
    with caplog.at_level(logging.ERROR, logger="fedloge"):
        folder = harness.run_local(config)
    (text,) = [r.getMessage() for r in caplog.records if r.name.startswith("fedloge.engines")]
    first, *lines = text.splitlines()
    assert first == "client raised:"
    assert all(line.startswith("  ") and line.isprintable() for line in lines)
    (failure,) = harness.lines(folder, "failures")
    assert failure["reason"].isprintable() and "round 99" not in failure["reason"]


def test_a_lost_quorum_says_what_a_client_said_in_print(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong_answers.change_answers(monkeypatch, _forged, set(range(4)))
    with pytest.raises(RunError) as stopped:
        harness.run_local(harness.tiny(tmp_path, rounds=1))
    assert str(stopped.value).isprintable() and len(str(stopped.value)) < 1200


@pytest.mark.parametrize("name", ["images of 1.7e308", "another record", "a reason that is none"])
def test_under_privacy_a_wrong_answer_is_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = harness.tiny(tmp_path, rounds=1, norm="group", method="fedavg", dp_clip=1.0)
    config = config.replace(dp_noise=0.0)
    change, words = TRAIN[name]
    bad = wrong_answers.drawn(config, 1)[0]
    wrong_answers.change_answers(monkeypatch, change, {bad})
    with pytest.raises(RunError, match=f"round 1: client {bad}: .*under privacy all") as stopped:
        harness.run_local(config)
    assert words in str(stopped.value)
