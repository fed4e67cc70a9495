"""Runs whose clients train at once, on the engines that have many clients in a process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import harness
import pytest
import torch

from fedloge.config import Config

OWN = '''
import torch
from fedloge.methods.fedloge import FedLoGe

class Drops(FedLoGe):
    """Draws in its loss, which no stack of networks can do for each alone."""
    name = "drops"
    uniform_step = True
    def loss(self, net, images, labels, client):
        return super().loss(net, torch.dropout(images, 0.1, True), labels, client)

class Breaks(FedLoGe):
    """Looks at a number in its loss, and fails for client 2."""
    name = "breaks"
    uniform_step = True
    def loss(self, net, images, labels, client):
        if client.client == 2 and float(images.sum()):
            raise ZeroDivisionError("a bug of the user's")
        float(images.sum())
        return super().loss(net, images, labels, client)
'''


def settings(tmp_path: Path, name: str, **changes: Any) -> Config:
    """With gamma small, so that two rounds of training magnify rounding little."""
    plain: dict[str, Any] = {"batch_size": 8, "rounds": 2}
    if "method" not in changes:
        plain["method_options"] = {"gamma": 0.1}
    return harness.tiny(tmp_path, name, **plain | changes)


def assert_alike(one: Path, other: Path) -> None:
    """The same run but for rounding: tensors close, figures within an image or two."""
    mine, theirs = harness.newest_checkpoint(one), harness.newest_checkpoint(other)
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=0.01, atol=0.002)
    heads = harness.heads(one), harness.heads(other)
    assert heads[0].keys() == heads[1].keys()
    for line, same in zip(
        harness.lines(one, "metrics"), harness.lines(other, "metrics"), strict=True
    ):
        assert line.keys() == same.keys()
        assert line["train/loss"] == pytest.approx(same["train/loss"], rel=1e-3)


def test_clients_that_train_at_once_end_where_they_end_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    alone = harness.run_local(settings(tmp_path, "alone"))
    pairs = harness.run_local(settings(tmp_path, "pairs", fast=True, clients_at_once=2))
    again = harness.run_local(settings(tmp_path, "again", fast=True, clients_at_once=2))
    assert "fast:" not in caplog.text
    assert_alike(alone, pairs)
    assert harness.differences(pairs, again) == [], "the same seed gives the same bits"


def test_it_may_be_switched_on_in_the_middle(tmp_path: Path) -> None:
    folder = harness.run_local(settings(tmp_path, "run", rounds=1))
    harness.resume_local(folder, rounds=2, fast=True, clients_at_once=3)
    assert_alike(harness.run_local(settings(tmp_path, "alone")), folder)


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("fedprox", "this method's step differs from client to client; one by one"),
        ("own.py:Drops", "RuntimeError: vmap: called random operation"),
        ("own.py:Breaks", "RuntimeError: vmap: It looks like you're calling .item()"),
    ],
)
def test_where_clients_cannot_be_stacked_they_train_one_by_one_and_that_is_said(
    method: str, words: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "own.py").write_text(OWN)
    if ":" in method:
        method = f"{tmp_path}/{method}"
    alone = harness.run_local(settings(tmp_path, "alone", method=method))
    folder = harness.run_local(
        settings(tmp_path, "run", method=method, fast=True, clients_at_once=4)
    )
    said = [text for text in caplog.messages if text.startswith("fast:")]
    assert len(said) == 1 and words in said[0]
    (alone / "heads").mkdir(exist_ok=True)  # FedProx keeps nothing personal
    (folder / "heads").mkdir(exist_ok=True)
    assert harness.differences(alone, folder) == []
    failures = harness.lines(folder, "failures")
    assert failures == harness.lines(alone, "failures")
    assert {line["client"] for line in failures} <= {2}


def test_a_client_whose_state_is_damaged_is_named_and_the_others_train(tmp_path: Path) -> None:
    folder = harness.run_local(settings(tmp_path, "run", rounds=1, clients_per_round=4))
    (state,) = (folder / "heads/client-00001").glob("*.safetensors")
    state.write_bytes(state.read_bytes()[:-7])
    harness.resume_local(folder, rounds=2, fast=True, clients_at_once=4)
    failures = [f for f in harness.lines(folder, "failures") if f["round"] == 2]
    assert {f["client"] for f in failures} == {1}
    assert all("is damaged" in f["reason"] for f in failures)
    assert harness.lines(folder, "metrics")[1]["failed"] == 1
