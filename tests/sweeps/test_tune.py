from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from harness import recipe

from fedloge.commands import sweep_output
from fedloge.config import Config
from fedloge.errors import ConfigError
from fedloge.results.recorded_run import RecordedRun
from fedloge.results.run import open_run
from fedloge.run_files import RunFiles
from fedloge.sweeps.child_runs import Outcome
from fedloge.sweeps.plan import Sweep, TunedMethod
from fedloge.sweeps.run_sweep import check_methods, failures
from fedloge.sweeps.standing import Standing
from fedloge.sweeps.sweep_file import load_sweep
from fedloge.sweeps.tune_part import drawn
from fedloge.sweeps.tuning import Choice, Judged, best, in_words, run_tuned_sweep, score

PROX = '[[method]]\nmethod = "fedprox"\ntune.method-options.mu = [0.01, 0.1]\n'
TINY = recipe(rounds=1, clients_per_round=2)


def read(folder: Path, text: str, **options: Any) -> Sweep:
    path = folder / "loss.toml"
    path.write_text(text)
    return load_sweep(path, runs_dir=str(folder / "runs"), **options)


def tuned(sweep: Sweep) -> tuple[TunedMethod, ...]:
    assert sweep.tuning is not None
    return sweep.tuning.methods


def run_of(line: dict[str, float], primary: dict[str, str]) -> RecordedRun:
    """A run that recorded one line of figures."""
    info = {"primary": primary}
    lines = [{"round": 1, "global/raw/all": 0.9, **line}]
    return RecordedRun(RunFiles(Path()), Config(), info, lines, [], [], ())


def command(
    capsys: pytest.CaptureFixture[str], folder: Path, *, dry_run: bool = False
) -> dict[str, Any]:
    """What ``fedloge sweep --json`` prints."""
    call(folder, dry_run=dry_run, as_json=True)
    printed: dict[str, Any] = json.loads(capsys.readouterr().out)
    return printed


def call(folder: Path, *, dry_run: bool = False, as_json: bool = False) -> None:
    """Run ``fedloge sweep``, as far as it takes the arguments."""
    file, runs = str(folder / "loss.toml"), str(folder / "runs")
    assert sweep_output.sweep(
        file, [], runs, jobs=1, engine="local", track=[], dry_run=dry_run, as_json=as_json
    )


# What a sweep file says


def test_trials_are_planned_per_setting_and_beside_the_runs(tmp_path: Path) -> None:
    sweep = read(
        tmp_path,
        """
        [base]
        rounds = 7
        seed = 4
        [grid]
        imbalance-factor = [0.02, 0.01]
        seed = [0, 1]
        [tune]
        rounds = 2
        evaluate-every = 2
        [[method]]
        method = "fedavg"
        [[method]]
        method = "fedprox"
        tune.method-options.mu = [0.1, 1.0]
        tune.lr = [0.5]
        """,
    )
    trials = sweep.trials
    assert trials is not None and trials.folder == tmp_path / "runs/loss/tune"
    assert [run.name for run in trials.runs] == [
        "fedprox-imbalance-factor0.02-mu0.1-lr0.5",
        "fedprox-imbalance-factor0.02-mu1.0-lr0.5",
        "fedprox-imbalance-factor0.01-mu0.1-lr0.5",
        "fedprox-imbalance-factor0.01-mu1.0-lr0.5",
    ]
    for run in trials.runs:
        config = run.config
        assert (config.rounds, config.evaluate_every, config.seed) == (2, 2, 4)
        assert (config.validation_share, config.lr) == (0.2, 0.5)
        assert (config.name, config.runs_dir) == (run.name, str(trials.folder))
    assert [trial.values for trial in tuned(sweep)[1].trials] == [
        {"method-options.mu": 0.1, "lr": 0.5},
        {"method-options.mu": 1.0, "lr": 0.5},
    ]
    assert tuned(sweep)[1].setting == {"imbalance-factor": 0.01}
    # The runs wait, and are what they would be without trials, but for the chosen values.
    waiting = [run.name for run in sweep.runs if run.tuned_as]
    assert waiting == [f"fedprox-imbalance-factor{i}-seed{s}" for i in (0.02, 0.01) for s in (0, 1)]
    final = tuned(sweep)[0].trials[1].finals["fedprox-imbalance-factor0.02-seed1"]
    assert final.name == "fedprox-imbalance-factor0.02-mu1.0-lr0.5-seed1"
    assert (final.config.rounds, final.config.seed, final.config.validation_share) == (7, 1, 0.0)
    assert (final.config.imbalance_factor, final.config.method_options) == (0.02, {"mu": 1.0})
    assert sweep.by == ("imbalance-factor",)


def test_a_methods_own_lists_are_rows_that_are_tuned_each(tmp_path: Path) -> None:
    text = f"[tune]\n{PROX}momentum = [0.1, 0.9]\nseed = [1, 2]\nlabel = 'Prox'\n"
    sweep = read(tmp_path, text)
    assert [(one.name, one.method) for one in tuned(sweep)] == [
        ("prox-momentum0.1", "Prox"),
        ("prox-momentum0.9", "Prox"),
    ]
    assert [len(one.trials[0].finals) for one in tuned(sweep)] == [2, 2]


def test_the_seed_and_share_of_trials_can_be_said(tmp_path: Path) -> None:
    sweep = read(tmp_path, f"[grid]\nseed = [1]\n[tune]\nseed = 9\nvalidation-share = 0.5\n{PROX}")
    config = tuned(sweep)[0].trials[0].run.config
    assert (config.seed, config.validation_share) == (9, 0.5)


def test_tuned_options_are_checked_before_the_first_trial(tmp_path: Path) -> None:
    sweep = read(tmp_path, f"[tune]\n{PROX}".replace(".mu", ".nu"))
    with pytest.raises(ConfigError, match="unknown option 'nu'"):
        check_methods(sweep)
    sweep = read(tmp_path, f"[tune]\n{PROX}".replace("0.1]", "-1.0]"))
    with pytest.raises(ConfigError, match="mu"):
        check_methods(sweep)


def test_a_base_may_set_what_is_tuned(tmp_path: Path) -> None:
    sweep = read(tmp_path, f"[base]\nmethod-options.mu = 5.0\n[tune]\n{PROX}")
    assert [trial.run.config.method_options["mu"] for trial in tuned(sweep)[0].trials] == [
        0.01,
        0.1,
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (PROX, r"there is no part \[tune\]"),
        ("[tune]\n", r"no \[\[method\]\] has anything to tune"),
        (f"tune = 3\n{PROX}", "tune: expected a table, got 3"),
        (f"[tune]\ntrials = 0\n{PROX}", "tune: trials: expected a number from 1, got 0"),
        (f"[tune]\ntrials = true\n{PROX}", "trials: expected a number from 1, got True"),
        (f'[tune]\nchoose = "globl"\n{PROX}', r"choose: unknown choice 'globl'.*'global'"),
        (f"[tune]\nround = 3\n{PROX}", "tune: unknown key 'round'"),
        (f"[tune]\nrounds = [3]\n{PROX}", r"tune: rounds: expected a single value, got \[3\]"),
        (f"[tune]\nlr = 0.1\n{PROX}", "tune: lr: it belongs to a method"),
        (f'[tune]\nname = "x"\n{PROX}', "tune: name: a sweep says this itself"),
        (f"[tune]\nvalidation-share = 0\n{PROX}", "validation-share: expected more than 0"),
        (f"[grid]\nrounds = [3]\n[tune]\nrounds = 3\n{PROX}", "rounds: .* sets it, too"),
        (f"[grid]\nmethod-options.mu = [1]\n[tune]\n{PROX}", r"mu: \[grid\] sets it, too"),
        (f"[tune]\n{PROX}method-options.mu = 1.0", r"mu: the same \[\[method\]\] sets it, too"),
        (f"[tune]\n{PROX}tune.lr = 0.1", "tune: lr: expected a list, got 0.1"),
        (f"[tune]\n{PROX}tune.lr = []", "tune: lr: the list is empty"),
        (f"[tune]\n{PROX}tune.lr = [1, 1]", "tune: lr: 1 stands there twice"),
        (f"[tune]\n{PROX}tune.lr = [-1.0]", "lr: input should be greater than 0, got -1.0"),
        (f"[tune]\n{PROX}tune.lrr = [1]", "tune: unknown key 'lrr'"),
        (f"[tune]\n{PROX}tune.rounds = [1]", "tune: rounds: expected an option of the method"),
        (f'[tune]\n{PROX}tune.method = ["fedavg"]', "tune: method: expected an option"),
        (
            "[tune]\n[[method]]\nmethod = 'fedavg'\ntune = 3",
            r"expected tune.KEY = \[VALUES\], got 3",
        ),
        (
            f"[tune]\n{PROX}label = 'tune'\n[[method]]\nmethod = 'fedavg'\nlabel = 'tune'",
            "label each",
        ),
        (f"[tune]\n{PROX}[[method]]\nmethod = 'fedavg'\nlabel = 'Tune'", "as the folder of the"),
        (
            f"[tune]\n{PROX}[[method]]\nmethod = 'fedprox'\nmethod-options.mu = [0.1, 1.0]",
            "two runs would be called 'fedprox-mu0.1'",
        ),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_an_override_of_what_is_tuned_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--set method-options\.mu: .* varies it"):
        read(tmp_path, f"[tune]\n{PROX}", overrides=["method-options.mu=1"])


# Which combinations are tried


def test_few_combinations_are_all_tried() -> None:
    assert drawn("x", {"a": [1, 2], "b": ["u", "v"]}, 4) == [
        {"a": 1, "b": "u"},
        {"a": 1, "b": "v"},
        {"a": 2, "b": "u"},
        {"a": 2, "b": "v"},
    ]


def test_of_many_combinations_some_are_drawn_once_each() -> None:
    lists = {"a": list(range(10)), "b": list(range(7))}
    one = drawn("x", lists, 12)
    assert one == drawn("x", lists, 12) != drawn("y", lists, 12)
    assert len({tuple(values.items()) for values in one}) == 12
    assert one == sorted(one, key=lambda values: (values["a"], values["b"]))


# Which is chosen

PRIMARY = {"global": "realigned", "personal": "tuned"}
FIGURES = {
    "probe/validation/realigned/balanced": 0.4,
    "probe/validation/raw/balanced": 0.1,
    "personal/tuned/validation": 0.8,
    "personal/raw/validation": 0.2,
}


def test_the_figures_are_those_of_the_models_that_count() -> None:
    run = run_of(FIGURES, PRIMARY)
    assert score(run, "global") == 0.4
    assert score(run, "personal") == 0.8
    assert score(run, "both") == pytest.approx(0.6)


def test_a_global_model_without_figure_is_judged_by_raw() -> None:
    assert score(run_of(FIGURES, PRIMARY | {"global": "calibrated"}), "global") == 0.1


def test_both_is_what_there_is() -> None:
    assert score(run_of(FIGURES, {"personal": "tuned"}), "both") == 0.8
    assert score(run_of(FIGURES, {"global": "realigned"}), "both") == 0.4
    assert score(run_of(FIGURES, {"personal": "tuned"}), "global") is None
    assert score(run_of({}, PRIMARY), "both") is None  # the test set does not stand in


def test_zero_is_a_figure() -> None:
    figures = FIGURES | {"probe/validation/realigned/balanced": 0.0}
    assert score(run_of(figures, PRIMARY), "global") == 0.0


def test_ties_go_to_the_earlier_trial_and_failed_ones_lose(tmp_path: Path) -> None:
    (one,) = tuned(read(tmp_path, f"[tune]\n{PROX}".replace("0.1]", "0.1, 1.0, 2.0]")))
    scores = [None, 0.5, 0.7, 0.7]
    judged = [
        Judged(t, s, "" if s else "went wrong") for t, s in zip(one.trials, scores, strict=True)
    ]
    chosen = best(judged)
    assert chosen is not None and chosen.trial.values == {"method-options.mu": 1.0}
    said = in_words(Choice(one, tuple(judged), chosen))
    assert said == (
        "fedprox: method-options.mu = 1.0 (validation 0.700, of 4 trials: - 0.500 0.700 0.700)"
    )
    assert best(judged[:1]) is None
    assert Choice(one, tuple(judged[:1]), None).problem == (
        "no trial of 1 can be chosen; the first: fedprox-mu0.01: went wrong"
    )
    assert best([Judged(one.trials[0], 0.0)]) is not None


def test_a_method_whose_trials_all_fail_is_reported_and_the_rest_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_run(sweep: Sweep, **_: Any) -> list[Outcome]:
        sweep.folder.mkdir(parents=True, exist_ok=True)
        problem = "burnt" if sweep.folder.name == "tune" else ""
        return [Outcome(run, Standing("done"), 1.0, problem) for run in sweep.runs]

    monkeypatch.setattr("fedloge.sweeps.tuning.run_sweep", no_run)
    sweep = read(tmp_path, f"[tune]\n{PROX}[[method]]\nmethod = 'fedavg'\n")
    outcomes, (choice,) = run_tuned_sweep(sweep, jobs=1, say=lambda text: None)
    assert [outcome.run.name for outcome in outcomes] == ["fedprox", "fedavg"]
    (failed,) = failures(outcomes)
    assert failed.problem == "no trial of 2 can be chosen; the first: fedprox-mu0.01: burnt"
    assert choice.chosen is None
    written = json.loads((sweep.folder / "tuned.json").read_text())
    assert written["methods"][0]["chosen"] is None


def test_the_plan_tells_of_trials_and_of_what_waits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    read(tmp_path, f"[tune]\n{PROX}[[method]]\nmethod = 'fedavg'\n")
    call(tmp_path, dry_run=True)
    assert capsys.readouterr().out.splitlines()[:5] == [
        "tune/fedprox-mu0.01: to be run",
        "tune/fedprox-mu0.1: to be run",
        "fedprox: to be run with what the trials choose",
        "fedavg: to be run",
        "sweep loss: 2 trials and 2 runs (0 done, 0 begun, 4 new), 1 at a time",
    ]


# The whole


@pytest.mark.slow
def test_a_tuned_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Trials, choice and runs; a second call repeats nothing, and longer lists add trials only."""
    text = f"""
    [base]
    {TINY}
    [tune]
    trials = 2
    choose = "global"
    validation-share = 0.3
    [[method]]
    method = "fedavg"
    [[method]]
    method = "fedprox"
    tune.lr = [1e-9, 0.05]
    """
    file, runs = tmp_path / "loss.toml", tmp_path / "runs"
    file.write_text(text)
    plan = command(capsys, tmp_path, dry_run=True)
    assert [run["name"] for run in plan["trials"]] == ["fedprox-lr1e-09", "fedprox-lr0.05"]
    assert [run.get("waits-for", "") for run in plan["runs"]] == ["", "fedprox"]
    assert not runs.exists()

    first = command(capsys, tmp_path)
    assert [run["done"] for run in first["runs"]] == [True, True]
    (choice,) = first["tuned"]
    assert choice["setting"] == {} and choice["method"] == "fedprox"
    for trial in choice["trials"]:
        line = open_run(runs / "loss/tune" / trial["run"]).evaluated[-1]
        assert trial["score"] == line["probe/validation/raw/balanced"]
    scores = [trial["score"] for trial in choice["trials"]]
    chosen = choice["trials"][scores.index(max(scores))]["values"]
    assert choice["chosen"] == chosen
    final = open_run(runs / "loss" / f"fedprox-lr{chosen['lr']}")
    assert (final.config.lr, final.config.validation_share) == (chosen["lr"], 0.0)
    kept = json.loads((runs / "loss/tuned.json").read_text())
    assert kept["methods"] == first["tuned"] and kept["choose"] == "global"

    again = command(capsys, tmp_path)
    assert again["tuned"] == first["tuned"]
    assert [run["seconds"] for run in again["runs"]] == [0.0, 0.0]
    call(tmp_path)
    listing = capsys.readouterr().out
    assert f"tuned: fedprox: lr = {chosen['lr']} (validation " in listing
    states = command(capsys, tmp_path, dry_run=True)
    assert {run["state"] for run in (*states["trials"], *states["runs"])} == {"done"}

    file.write_text(text.replace("0.05]", "0.05, 0.1]").replace("trials = 2", "trials = 3"))
    more = command(capsys, tmp_path, dry_run=True)
    assert [run["state"] for run in more["trials"]] == ["done", "done", "new"]
    assert more["runs"][1]["waits-for"] == "fedprox"
