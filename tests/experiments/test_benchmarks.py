from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path
from typing import Any, cast

import interleaved_timing
import noise_data
import pytest
import result_history
import result_tables
import torch
import training_groups
from interleaved_timing import Case, Group, Ratio, run_group
from naive_round import PilImages
from rich.console import Console
from round_by_round import local_rounds
from round_profile import where_the_time_goes
from suite import run_suite

from fedloge.engines import local
from fedloge.errors import InputError, RunDirError
from fedloge.methods.method import Part

IMAGE = (1, 8, 8)


def fixed(*seconds: float) -> Any:
    left = iter(seconds)
    return lambda: next(left)


def silent(_: str) -> None:
    return None


def test_figures_by_hand_and_the_first_call_does_not_count() -> None:
    cases = (Case("a", fixed(100.0, 2.0, 4.0, 6.0), 2), Case("b", fixed(100.0, 1.0, 1.0, 6.0)))
    ratios = (Ratio("a", "b", 1.5), Ratio("b", "a", 1.0, floor=True))
    result = run_group(Group("g", "s", cases, ratios, repeats=3), silent)
    assert result["cases"]["a"] == {"median": 2.0, "low": 1.5, "high": 2.5, "least": 1.0}
    # Sample by sample: 1/1, 2/1, 3/6; not 2 over 1, the medians' quotient.
    assert result["ratios"]["a / b"]["median"] == 1.0 and result["ratios"]["a / b"]["met"]
    assert result["ratios"]["b / a"]["median"] == 1.0 and result["ratios"]["b / a"]["met"]


def test_cases_are_interleaved_and_each_has_its_own_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = {"wall": 0.0, "processor": 0.0}
    order: list[str] = []

    def works(name: str, wall: float, processor: float) -> None:
        order.append(name)
        clock["wall"] += wall
        clock["processor"] += processor

    monkeypatch.setattr(interleaved_timing.time, "perf_counter", lambda: clock["wall"])
    monkeypatch.setattr(interleaved_timing.time, "process_time", lambda: clock["processor"])
    cases = (
        Case("a", lambda: works("a", 3.0, 2.0), amount=2),
        Case("elsewhere", lambda: works("elsewhere", 5.0, 0.5), cpu=False),
    )
    result = run_group(Group("g", "s", cases, (Ratio("a", "elsewhere"),), repeats=2), silent)
    assert order == ["a", "elsewhere"] * 3
    assert result["cases"]["a"] == {
        "median": 1.5, "low": 1.5, "high": 1.5, "least": 1.5, "cpu": 1.0,
    }  # fmt: skip
    assert result["cases"]["elsewhere"]["median"] == 5.0
    # Processor seconds of this process say nothing of work that another one does.
    assert "cpu" not in result["cases"]["elsewhere"] | result["ratios"]["a / elsewhere"]


def test_a_limit_that_is_not_met_is_said() -> None:
    cases = (Case("a", fixed(0.0, 3.0)), Case("b", fixed(0.0, 2.0)))
    result = run_group(Group("g", "s", cases, (Ratio("a", "b", 1.4),), 1), silent)
    assert result["ratios"]["a / b"] == {
        "median": 1.5, "low": 1.5, "high": 1.5, "least": 1.5, "wanted": "<= 1.4", "met": False,
    }  # fmt: skip


def entry(value: float, **changes: Any) -> dict[str, Any]:
    figures = {"median": value, "low": value * 0.9, "high": value * 1.1}
    groups = {"g": {"unit": "s", "cases": {"a": figures}, "ratios": {}}}
    return result_history.described(groups, [1.0], quick=True) | changes


def test_the_last_result_of_the_same_machine_and_work_is_compared(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    assert result_history.last(path, entry(1.0)) is None
    for old in (entry(1.0), entry(2.0), entry(9.0, quick=False), entry(9.0, machine={})):
        result_history.append(path, old)
    before = result_history.last(path, entry(4.0))
    assert before is not None
    change = result_history.changes(before, entry(4.0))["g"]["a"]
    assert change == {"before": 2.0, "now": 4.0, "change": 2.0, "apart": True}
    assert not result_history.changes(before, entry(2.3))["g"]["a"]["apart"]


def test_a_file_that_is_no_history_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text("[1]\n")
    with pytest.raises(InputError, match="no history of benchmarks"):
        result_history.last(path, entry(1.0))


def test_an_engine_waits_between_rounds_and_ends_when_told() -> None:
    data = noise_data.data_set(8, 10, shape=IMAGE)
    with noise_data.federation(data, num_clients=2, clients_per_round=1, local_epochs=1) as fed:
        record = Path(fed.config.runs_dir) / "bench" / "metrics.jsonl"
        with local_rounds(fed.config) as engine:
            assert not record.exists()
            assert [engine.round()["round"], engine.round()["round"]] == [1, 2]
        assert len(record.read_text().splitlines()) == 2


def test_what_goes_wrong_in_a_run_is_raised_where_it_is_measured() -> None:
    data = noise_data.data_set(8, 10, shape=IMAGE)
    with noise_data.federation(data, num_clients=2, clients_per_round=1) as fed:
        local.run(fed.config.replace(rounds=1))
        with (
            pytest.raises(RunDirError, match="exists already"),
            local_rounds(fed.config) as engine,
        ):
            engine.round()


def test_rounds_of_two_runs_may_be_mixed_and_a_run_that_is_over_says_so() -> None:
    data = noise_data.data_set(8, 10, shape=IMAGE)
    with noise_data.federation(data, num_clients=2, clients_per_round=1, local_epochs=1) as fed:
        with (
            local_rounds(fed.config.replace(name="one")) as one,
            local_rounds(fed.config.replace(name="other")) as other,
        ):
            rounds = [one.round(), other.round(), other.round(), one.round()]
        assert [line["round"] for line in rounds] == [1, 1, 2, 2]
        with pytest.raises(RuntimeError, match="the run is over"):
            one.round()


def test_the_command_measures_keeps_and_compares(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "history.jsonl"
    names = ["serialisation", "partition"]
    first = run_suite(names, out, quick=True, as_json=True, compare=True)
    assert "changes" not in json.loads(capsys.readouterr().out)
    second = run_suite(names, out, quick=True, as_json=False, compare=True)
    assert first["groups"].keys() == second["groups"].keys()
    assert [json.loads(line) for line in out.read_text().splitlines()] == [first, second]
    shown = " ".join(capsys.readouterr().out.split())
    assert "ours / Flower's" in shown and "Since" in shown
    before, now = (r["groups"]["serialisation resnet8"]["cases"]["ours"] for r in (first, second))
    change = result_history.changes(first, second)["serialisation resnet8"]["ours"]
    assert (change["before"], change["now"]) == (before["median"], now["median"])
    assert f"{before['median']:.4g}" in shown and f"{now['median']:.4g}" in shown


def test_an_unknown_benchmark_is_refused() -> None:
    with pytest.raises(InputError, match=r"unknown benchmark 'trainin' \(did you mean 'training'"):
        run_suite(["trainin"], None, quick=True, as_json=True, compare=False)


def test_the_engine_trains_on_as_many_images_as_the_loop_beside_it() -> None:
    for group in training_groups.training(quick=True):
        bare, engine = group.cases
        loop, rounds = cast(Any, bare.call), cast(Any, engine.call)
        assert sum(len(labels) for _, labels in loop.batches) * loop.epochs == bare.amount
        timing = rounds.round()
        trained = timing["images-per-second"] * timing["train-seconds"]
        assert trained == pytest.approx(engine.amount) and engine.amount == bare.amount


def test_clients_at_once_train_what_they_train_one_by_one() -> None:
    (group,) = training_groups.at_once(quick=True)
    trained = {}
    for case in group.cases[1:]:
        case.call()
        trained[case.name] = cast(Any, case.call).last_client()
    assert trained.keys() == {"one by one", "2 at once", "4 at once"}
    alone = trained.pop("one by one")
    first = cast(Any, group.cases[1].call).federation.initial
    for tensors in trained.values():
        for name, tensor in tensors.items():
            torch.testing.assert_close(tensor, alone[name], rtol=1e-3, atol=1e-4)
        moved = [n for n, t in first[Part.SHARED].items() if not torch.allclose(t, tensors[n])]
        assert len(moved) > len(first[Part.SHARED]) / 2


def test_the_naive_round_trains_on_as_many_images_as_the_engine_and_measures_everybody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    passed: Counter[int] = Counter()
    item = PilImages.__getitem__

    def counted(images: PilImages, position: int) -> Any:
        passed[id(images)] += 1
        return item(images, position)

    monkeypatch.setattr(PilImages, "__getitem__", counted)
    for group in training_groups.rounds(quick=True):
        naive, engine = (cast(Any, case.call) for case in group.cases)
        naive()
        trained = sum(passed[id(images)] for images in naive.train_sets)
        timing = engine.round()
        assert trained == pytest.approx(timing["images-per-second"] * timing["train-seconds"])
        assert timing["evaluate-seconds"] > 0
        measured = [naive.test_set, *naive.test_sets]
        assert len(naive.test_set) == 100 and len(naive.test_sets) == 5
        assert [passed[id(images)] for images in measured] == [len(images) for images in measured]


def test_the_parts_of_a_round_are_found_where_they_are_looked_for() -> None:
    profile = where_the_time_goes(quick=True)["resnet8"]
    # A part that is measured at a function that no round calls any more would have no time.
    assert all(share > 0 for share in profile["parts"].values())
    for part in ("forward", "backward", "evaluation, backbone"):
        assert profile["parts"][part] > 0.02
    assert profile["parts"]["other"] < 0.5
    console = Console(width=100, file=io.StringIO())
    console.print(result_tables.profile({"resnet8": profile}))
    assert f"{profile['parts']['forward']:.1%}" in console.file.getvalue()  # type: ignore[attr-defined]
