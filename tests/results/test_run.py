from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedloge.errors import RunDirError
from fedloge.results.recorded_run import list_runs
from fedloge.results.run import open_run
from fedloge.results.run_figures import client_accuracies, mean_of_last, summary

Make = Callable[..., Path]


def figures(folder: Path, name: str, values: dict[int, float | None]) -> None:
    """Replace the metrics by one figure in the rounds given."""
    lines = [json.dumps({"round": r, name: v}) for r, v in values.items()]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")


def test_reads_every_part(make_run: Make) -> None:
    run = open_run(make_run(rounds=12, clients=6, classes=4))
    assert (run.name, run.method, run.config.rounds) == ("one", "fedloge", 12)
    assert run.rounds_done == 12 and run.complete and not run.config_changed and not run.torn
    assert run.evaluated_rounds == [5, 10, 12]
    assert len(run.timing_lines) == 12 and len(run.last_client_lines) == 6
    assert (
        {line["round"] for line in run.last_client_lines} == {12} == {run.last_class_line["round"]}
    )
    assert run.split is not None and run.split.train.shape == (6, 4)
    assert run.split.train.sum(axis=0).tolist() == run.info["train-counts"]
    assert run.prototypes is not None
    np.testing.assert_allclose(np.linalg.norm(run.prototypes, axis=1), 0.1, rtol=1e-5)


def test_a_run_that_has_not_got_far(make_run: Make) -> None:
    folder = make_run(done=0)
    for path in ("metrics.jsonl", "timing.jsonl", "clients.jsonl", "classes.jsonl"):
        (folder / path).unlink()
    (folder / "split.safetensors").unlink()
    (folder / "prototypes.safetensors").unlink()
    run = open_run(folder)
    assert (
        run.rounds_done,
        run.complete,
        run.evaluated,
        run.last_client_lines,
        run.last_class_line,
    ) == (
        0,
        False,
        [],
        [],
        {},
    )
    assert run.split is None and run.prototypes is None
    data = summary(run)
    assert data["last"] == data["mean-of-last-ten"] == data["best-on-test"] == {}
    json.dumps(data, allow_nan=False)


def test_bare_name_is_looked_up_in_the_runs_folder(make_run: Make) -> None:
    folder = make_run("quick")
    assert open_run("quick", folder.parent).path == folder


def test_mean_and_best_by_hand(make_run: Make) -> None:
    folder = make_run(rounds=60)
    accuracy = {5 * k: k / 100 for k in range(1, 12)} | {60: 0.05}
    figures(folder, "global/realigned/all", accuracy)
    run = open_run(folder)
    mean = mean_of_last(run, 10)
    assert (mean["evaluations"], mean["first-round"], mean["last-round"]) == (10, 15, 60)
    # rounds 15..55 hold .03....11, round 60 .05: (sum 3..11 = 63) + 5 = 68 over ten
    assert mean["global/realigned/all"] == pytest.approx(0.068)
    data = summary(run)
    assert data["last"]["global/realigned/all"] == 0.05
    assert data["best-on-test"] == {"global/realigned/all": {"round": 55, "value": 0.11}}
    assert "personal/realigned/mean" not in data["mean-of-last-ten"]


def test_best_names_the_first_of_equal_rounds(make_run: Make) -> None:
    folder = make_run()
    figures(folder, "personal/realigned/mean", {5: 0.4, 10: 0.7, 15: 0.7})
    best = summary(open_run(folder))["best-on-test"]
    assert best == {"personal/realigned/mean": {"round": 10, "value": 0.7}}


def test_fewer_than_ten_evaluations_say_so(make_run: Make) -> None:
    folder = make_run()
    figures(folder, "global/raw/all", {5: 0.2, 10: 0.4})
    mean = mean_of_last(open_run(folder), 10)
    assert mean["evaluations"] == 2 and mean["global/raw/all"] == pytest.approx(0.3)


def test_a_figure_missing_in_some_rounds_has_no_mean(make_run: Make) -> None:
    folder = make_run()
    lines = [
        {"round": 1, "global/raw/all": 0.2},
        {"round": 2, "global/raw/all": 0.4, "global/raw/few": 0.1},
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    mean = mean_of_last(open_run(folder), 10)
    assert mean["global/raw/all"] == pytest.approx(0.3) and "global/raw/few" not in mean


def test_figures_that_are_not_finite_are_left_out(make_run: Make) -> None:
    folder = make_run()
    (folder / "metrics.jsonl").write_text(
        '{"round": 1, "train/loss": NaN, "global/raw/few": null, "global/raw/all": 0.5}\n'
    )
    assert open_run(folder).metric_lines == [{"round": 1, "global/raw/all": 0.5}]


def test_summary_adds_up_and_is_json(make_run: Make) -> None:
    folder = make_run(rounds=10, failures=[{"round": 2, "client": 1, "reason": "too slow"}])
    data = summary(open_run(folder))
    # seconds of round r: 2 + 0.1 (r mod 3), the remainders of 1..10 sum to 10
    assert data["seconds"] == pytest.approx(10 * 2.0 + 0.1 * 10)
    assert (data["bytes-down"], data["bytes-up"], data["failures"]) == (10_000_000, 8_000_000, 1)
    assert (data["rounds-done"], data["complete"]) == (10, True)
    assert data["config"]["num-clients"] == 6
    assert json.loads(json.dumps(data, allow_nan=False)) == data


def test_resumed_timing_counts_each_round_once(make_run: Make) -> None:
    folder = make_run(rounds=3)
    with (folder / "timing.jsonl").open("a") as file:
        file.write('{"round": 3, "seconds": 10.0}\n')
    run = open_run(folder)
    assert [line["round"] for line in run.timing_lines] == [1, 2, 3]
    assert run.timing_lines[-1]["seconds"] == 10.0


@pytest.mark.parametrize("torn", [b'{"round": 21, "train/lo', b"\x00\x00\x00", b'{"round": "\xc3'])
def test_torn_last_line_is_ignored_and_flagged(make_run: Make, torn: bytes) -> None:
    folder = make_run()
    whole = len(open_run(folder).metric_lines)
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write(torn)
    run = open_run(folder)
    assert len(run.metric_lines) == whole and run.torn == ("metrics.jsonl",)


def test_changed_config_is_flagged(make_run: Make) -> None:
    folder = make_run()
    path = folder / "config.toml"
    path.write_text(path.read_text().replace("lr = 0.03", "lr = 0.04"))
    assert open_run(folder).config_changed


def test_list_runs(make_run: Make, tmp_path: Path) -> None:
    first, second = make_run("b"), make_run("a")
    shutil.copytree(first, tmp_path / "runs" / ".c.tmp")
    (tmp_path / "runs" / "empty").mkdir()
    assert list_runs(tmp_path / "runs") == [second, first]
    assert list_runs(tmp_path / "nowhere") == []


def one_line(error: pytest.ExceptionInfo[RunDirError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_no_such_run_names_the_nearest(make_run: Make) -> None:
    folder = make_run("cifar10-loge")
    make_run("digits")
    with pytest.raises(RunDirError) as error:
        open_run(folder.with_name("cifar10-lodge"))
    assert "no such run 'cifar10-lodge'" in one_line(error)
    assert "did you mean 'cifar10-loge'?" in one_line(error)


def test_no_runs_at_all(tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match="there are no runs in"):
        open_run("first", tmp_path / "runs")


def test_folder_of_runs_and_folder_of_none(make_run: Make, tmp_path: Path) -> None:
    folder = make_run("one")
    with pytest.raises(RunDirError, match=r"is a folder of runs, not a run; .*one"):
        open_run(folder.parent)
    (tmp_path / "other").mkdir()
    with pytest.raises(RunDirError, match=r"no run\.json"):
        open_run(tmp_path / "other")
    with pytest.raises(RunDirError, match="is a file"):
        open_run(folder / "run.json")


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("run.json", "{", "run.json: damaged"),
        ("run.json", "[]", "expected a JSON object, got list"),
        ("run.json", '{"format": 1}', "expected run format 2, got 1"),
        ("run.json", '{"format": 2, "name": "x"}', "expected 'fingerprint' to be a str, got None"),
        ("config.toml", "lr = ", "config.toml: not valid TOML"),
        ("config.toml", "learning = 3", "unknown key 'learning'"),
        (
            "metrics.jsonl",
            '{"round": 1}\n{"rou\n{"round": 3}\n',
            "metrics.jsonl: line 2 is damaged",
        ),
        ("metrics.jsonl", '{"round": 1}\n{"round": 1}\n', "line 2 is out of order"),
        ("metrics.jsonl", '{"round": 1, "global/raw/all": "x"}\n', "global/raw/all = 'x'"),
        ("metrics.jsonl", '[1]\n{"round": 1}\n', "line 1 is damaged"),
    ],
)
def test_damage_is_named_in_one_line(make_run: Make, file: str, text: str, said: str) -> None:
    folder = make_run()
    (folder / file).write_text(text)
    with pytest.raises(RunDirError) as error:
        open_run(folder)
    assert said in one_line(error)


def test_run_without_config(make_run: Make) -> None:
    folder = make_run()
    (folder / "config.toml").unlink()
    with pytest.raises(RunDirError, match=r"config\.toml: missing"):
        open_run(folder)


def test_damaged_or_foreign_tensors(make_run: Make) -> None:
    folder, other = make_run("one"), make_run("other", clients=9, classes=5)
    (folder / "split.safetensors").write_bytes(b"not tensors")
    with pytest.raises(RunDirError) as error:
        _ = open_run(folder).split
    assert "split.safetensors: damaged" in one_line(error)
    (other / "split.safetensors").replace(folder / "split.safetensors")
    with pytest.raises(RunDirError, match="6 clients x 4 classes, got 9 x 5"):
        _ = open_run(folder).split
    (other / "prototypes.safetensors").replace(folder / "prototypes.safetensors")
    with pytest.raises(RunDirError, match="a row for each of 4 classes"):
        _ = open_run(folder).prototypes


def test_clients_held_out_from_training_are_in_no_paired_test(make_run: Make) -> None:
    folder = make_run(rounds=2, clients=6)
    assert sorted(client_accuracies(open_run(folder))) == [0, 1, 2, 3, 4, 5]
    info = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(info | {"held-out-clients": [1, 4]}))
    assert sorted(client_accuracies(open_run(folder))) == [0, 2, 3, 5]
    assert sorted(client_accuracies(open_run(folder), evaluations=1)) == [0, 2, 3, 5]
