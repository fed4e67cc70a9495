from __future__ import annotations

from pathlib import Path

import harness
import pytest
import wrong_answers

from fedloge import messages as wire
from fedloge.errors import RunError


def _refuse(content: object) -> None:
    content.clear()  # type: ignore[attr-defined]
    content.update(wire.failure_content("no"))  # type: ignore[attr-defined]


def test_krum_does_not_choose_among_too_few_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = harness.tiny(
        tmp_path,
        num_clients=6,
        clients_per_round=6,
        rounds=1,
        aggregation="krum",
        byzantine_clients=1,
        min_fraction=0.1,
    )
    with monkeypatch.context() as patch:
        wrong_answers.change_answers(patch, _refuse, {0, 1})
        with pytest.raises(RunError) as stopped:
            harness.run_local(config)
    said = str(stopped.value)
    assert "4 of 6 clients gave a usable answer, the quorum is 5 (krum needs 5 or more" in said
    assert "byzantine-clients=1" in said and "client 0: no" in said
    with monkeypatch.context() as patch:
        wrong_answers.change_answers(patch, _refuse, {0})
        folder = harness.resume_local(tmp_path / "run")
    assert [row["clients"] for row in harness.lines(folder, "metrics")] == [5]


@pytest.mark.parametrize(("liars", "lost"), [(1, False), (2, True)])
def test_the_trimmed_mean_needs_more_good_answers_than_bad(
    liars: int, lost: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = harness.tiny(
        tmp_path,
        clients_per_round=4,
        rounds=1,
        aggregation="trimmed-mean",
        byzantine_clients=1,
        min_fraction=0.1,
    )
    wrong_answers.change_answers(monkeypatch, _refuse, set(range(liars)))
    if lost:
        with pytest.raises(RunError, match=r"the quorum is 3 \(trimmed-mean needs 3 or more"):
            harness.run_local(config)
    else:
        assert len(harness.lines(harness.run_local(config), "metrics")) == 1
