from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import groups
import history
import measure
import pytest
import show
import work
from measure import Case, Group, Ratio
from paced import Paced
from round_profile import where_the_time_goes
from run import bench

from fedloge.engines import local
from fedloge.errors import InputError, RunDirError


def fixed(*seconds: float) -> Any:
    left = iter(seconds)
    return lambda: next(left)


def silent(_: str) -> None:
    return None


def test_figures_by_hand_and_the_first_call_does_not_count() -> None:
    cases = (Case("a", fixed(100.0, 2.0, 4.0, 6.0), 2), Case("b", fixed(100.0, 1.0, 1.0, 6.0)))
    ratios = (Ratio("a", "b", 1.5), Ratio("b", "a", 1.0, floor=True))
    result = measure.run_group(Group("g", "s", cases, ratios, repeats=3), silent)
    assert result["cases"]["a"] == {"median": 2.0, "low": 1.5, "high": 2.5, "least": 1.0}
    # Sample by sample: 1/1, 2/1, 3/6; not 2 over 1, the medians' quotient.
    assert result["ratios"]["a / b"]["median"] == 1.0 and result["ratios"]["a / b"]["met"]
    assert result["ratios"]["b / a"]["median"] == 1.0 and result["ratios"]["b / a"]["met"]


def test_cases_are_interleaved() -> None:
    order: list[str] = []
    cases = tuple(Case(name, lambda name=name: order.append(name)) for name in "ab")
    result = measure.run_group(Group("g", "s", cases, repeats=2), silent)
    assert order == ["a", "b"] * 3
    assert result["cases"]["a"]["cpu"] >= 0


def test_a_limit_that_is_not_met_is_said() -> None:
    cases = (Case("a", fixed(0.0, 3.0)), Case("b", fixed(0.0, 2.0)))
    result = measure.run_group(Group("g", "s", cases, (Ratio("a", "b", 1.4),), 1), silent)
    assert result["ratios"]["a / b"] == {
        "median": 1.5, "low": 1.5, "high": 1.5, "least": 1.5, "wanted": "<= 1.4", "met": False,
    }  # fmt: skip


def entry(value: float, **changes: Any) -> dict[str, Any]:
    figures = {"median": value, "low": value * 0.9, "high": value * 1.1}
    groups = {"g": {"unit": "s", "cases": {"a": figures}, "ratios": {}}}
    return history.described(groups, [1.0], quick=True) | changes


def test_the_last_result_of_the_same_machine_and_work_is_compared(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    assert history.last(path, entry(1.0)) is None
    for old in (entry(1.0), entry(2.0), entry(9.0, quick=False), entry(9.0, machine={})):
        history.append(path, old)
    before = history.last(path, entry(4.0))
    assert before is not None
    change = history.changes(before, entry(4.0))["g"]["a"]
    assert change == {"before": 2.0, "now": 4.0, "change": 2.0, "apart": True}
    assert not history.changes(before, entry(2.3))["g"]["a"]["apart"]


def test_a_file_that_is_no_history_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text("[1]\n")
    with pytest.raises(InputError, match="no history of benchmarks"):
        history.last(path, entry(1.0))


def test_an_engine_waits_between_rounds_and_ends_when_told() -> None:
    data = work.data_set(8, 10, shape=(1, 8, 8))
    with work.federation(data, num_clients=2, clients_per_round=1, local_epochs=1) as fed:
        record = Path(fed.config.runs_dir) / "bench" / "metrics.jsonl"
        with Paced(lambda: local.run(fed.config)) as engine:
            assert not record.exists()
            assert [engine.round()["round"], engine.round()["round"]] == [1, 2]
        assert len(record.read_text().splitlines()) == 2


def test_what_goes_wrong_in_a_run_is_raised_where_it_is_measured() -> None:
    data = work.data_set(8, 10, shape=(1, 8, 8))
    with work.federation(data, num_clients=2, clients_per_round=1) as fed:
        local.run(fed.config.replace(rounds=1))
        with (
            pytest.raises(RunDirError, match="exists already"),
            Paced(lambda: local.run(fed.config)) as engine,
        ):
            engine.round()
    assert not any(
        isinstance(handler, Paced) for handler in logging.getLogger("fedloge.run").handlers
    )


def test_the_command_measures_keeps_and_compares(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "history.jsonl"
    names = ["serialisation", "partition"]
    first = bench(names, out, quick=True, as_json=True, compare=True)
    assert "changes" not in json.loads(capsys.readouterr().out)
    bench(names, out, quick=True, as_json=True, compare=True)
    second = json.loads(capsys.readouterr().out)
    assert second["changes"].keys() == first["groups"].keys() == second["groups"].keys()
    assert len(out.read_text().splitlines()) == 2
    ratio = first["groups"]["serialisation resnet8"]["ratios"]["ours / Flower's"]
    assert 0 < ratio["low"] <= ratio["median"] <= ratio["high"]


def test_an_unknown_benchmark_is_refused() -> None:
    with pytest.raises(InputError, match=r"unknown benchmark 'trainin' \(did you mean 'training'"):
        bench(["trainin"], None, quick=True, as_json=True, compare=False)


def test_training_is_measured_through_the_engine_and_shown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    result = bench(["training"], None, quick=True, as_json=False, compare=False)
    group = result["groups"]["training resnet8, batch 8"]
    assert set(group["cases"]) == {"bare loop", "local engine"}
    assert all(figures["median"] > 0 for figures in group["cases"].values())
    assert "local engine / bare loop" in " ".join(capsys.readouterr().out.split())


def test_clients_at_once_train_what_they_train_one_by_one() -> None:
    (group,) = groups.at_once(quick=True)
    assert [case.name for case in group.cases] == [
        "bare loop",
        "one by one",
        "2 at once",
        "4 at once",
    ]
    for case in group.cases:
        case.call()


def test_the_naive_round_does_the_engines_work() -> None:
    for group in groups.rounds(quick=True):
        assert [case.name for case in group.cases] == ["naive loop", "local engine"]
        group.cases[0].call()


def test_the_parts_of_a_round_add_up_to_it() -> None:
    profile = where_the_time_goes(quick=True)["resnet8"]
    assert sum(profile["parts"].values()) == pytest.approx(1)
    for part in ("forward", "backward", "evaluation, backbone"):
        assert profile["parts"][part] > 0.02
    assert show.profile({"resnet8": profile})
