from __future__ import annotations

import logging
from pathlib import Path

import harness
import numpy as np
import pytest
from torch import Tensor

from fedloge.geometry.given_up import collapse_warnings
from fedloge.methods.fedloge import FedLoGe, FedLoGeNetwork


def test_classes_under_the_threshold_are_named_for_all_and_for_single_clients() -> None:
    counts = np.array([400, 100, 36, 9])
    # The law's own norms, with a threshold of 16: sqrt(n) - 4.
    norms = [*np.sqrt(np.sqrt(counts[:3]) - 4), 0.0]
    split = np.array([[390, 90, 1, 9], [10, 10, 35, 0]])
    said = collapse_warnings(
        {"norms/global-head": norms, "other": [1.0]}, counts, split, list("abcd")
    )
    assert len(said) == 2
    assert "global head, the classes d have" in said[0] and "the 16 images" in said[0]
    # N^2: client 0 with 490 of 545 has a threshold of 13, client 1 with 55 one of 0.16.
    assert "at 1 client: client 0: c, d." in said[1]


def test_norms_that_sizes_do_not_explain_and_unknown_counts_say_nothing() -> None:
    counts, norms = np.array([400, 100, 36, 9]), [1.0, 3.0, 2.0, 5.0]
    assert collapse_warnings({"norms/head": norms}, counts, None, list("abcd")) == []
    assert collapse_warnings({"norms/head": [3.0, 2.0, 1.0, 0.0]}, None, None, list("abcd")) == []


def test_a_run_says_it_once_in_its_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of_the_law(method: FedLoGe, net: FedLoGeNetwork) -> dict[str, Tensor]:
        counts = method.task.counts_for("this test").double()
        return {"global-head": (counts.sqrt() - 5).clamp(min=0).sqrt()}

    # Three rounds of training leave no such norms.
    monkeypatch.setattr(FedLoGe, "head_norms", of_the_law)
    with caplog.at_level(logging.WARNING):
        harness.run_local(harness.tiny(tmp_path, imbalance_factor=0.02))
    said = [r.message for r in caplog.records if "would give up classes" in r.message]
    assert len(said) == 1 and "at 3 clients: client 1: 9;" in said[0]
    # 124, 80, 51, 33, 21, ... images of classes 0, 1, 2, 3, 4, ...
    said = [r.message for r in caplog.records if "Minority collapse" in r.message]
    assert (
        len(said) == 1 and "the classes 4, 5, 6, 7, 8, 9 have no more than the 25 images" in said[0]
    )
