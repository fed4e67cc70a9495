from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from harness import recipe

from fedloge.errors import ConfigError, PluginError, RunDirError
from fedloge.results.grouping import gather, group_runs
from fedloge.results.recorded_run import list_runs
from fedloge.results.run import open_run
from fedloge.sweeps.plan import Sweep
from fedloge.sweeps.run_sweep import (
    check_methods,
    failures,
    run_sweep,
    usable_jobs,
)
from fedloge.sweeps.standing import standing
from fedloge.sweeps.sweep_file import load_sweep

TINY = recipe(rounds=1, clients_per_round=2)


def write(folder: Path, text: str, name: str = "loss.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def read(folder: Path, text: str, **options: object) -> Sweep:
    return load_sweep(write(folder, text), runs_dir=str(folder / "runs"), **options)  # type: ignore[arg-type]


def names(sweep: Sweep) -> list[str]:
    return [run.name for run in sweep.runs]


# What a sweep file says


def test_methods_settings_and_seeds_are_crossed(tmp_path: Path) -> None:
    sweep = read(
        tmp_path,
        """
        [base]
        rounds = 7
        [grid]
        imbalance-factor = [0.02, 0.01]
        seed = [0, 1]
        [[method]]
        method = "fedavg"
        [[method]]
        method = "fedprox"
        method-options.mu = [0.1, 1.0]
        seed = [5]
        """,
    )
    assert names(sweep) == [
        "fedavg-imbalance-factor0.02-seed0",
        "fedavg-imbalance-factor0.02-seed1",
        "fedavg-imbalance-factor0.01-seed0",
        "fedavg-imbalance-factor0.01-seed1",
        "fedprox-imbalance-factor0.02-mu0.1-seed5",
        "fedprox-imbalance-factor0.02-mu1.0-seed5",
        "fedprox-imbalance-factor0.01-mu0.1-seed5",
        "fedprox-imbalance-factor0.01-mu1.0-seed5",
    ]
    assert sweep.by == ("imbalance-factor",)
    assert sweep.folder == tmp_path / "runs" / "loss"
    last = sweep.runs[-1].config
    assert (last.rounds, last.imbalance_factor, last.method_options) == (7, 0.01, {"mu": 1.0})
    assert (last.name, last.runs_dir) == (names(sweep)[-1], str(sweep.folder))


def test_a_recipe_stands_beside_the_sweep_and_below_its_base(tmp_path: Path) -> None:
    write(tmp_path, 'lr = 0.5\nmomentum = 0.1\nname = "mine"\n', "recipe.toml")
    sweep = read(
        tmp_path, '[base]\nrecipe = "recipe.toml"\nmomentum = 0.2\n', overrides=["rounds=3"]
    )
    (run,) = sweep.runs
    assert (run.config.lr, run.config.momentum, run.config.rounds) == (0.5, 0.2, 3)
    assert run.name == "fedloge"


def test_names_do_not_depend_on_the_rest_of_the_sweep(tmp_path: Path) -> None:
    one = read(tmp_path, "[grid]\nseed = [3]\n")
    more = read(
        tmp_path,
        '[grid]\nseed = [1, 3]\n[[method]]\nmethod = "fedloge"\n[[method]]\nmethod = "fedavg"\n',
    )
    assert set(names(one)) <= set(names(more))


def test_a_long_name_is_cut_but_still_its_own(tmp_path: Path) -> None:
    options = ", ".join(f'"{"a" * 120} = {i}"' for i in range(2))
    sweep = read(tmp_path, f"[grid]\nmethod-options = [{options}]\n")
    assert len(set(names(sweep))) == 2 and all(len(name) <= 100 for name in names(sweep))


def test_labels_name_runs_and_rows(tmp_path: Path) -> None:
    sweep = read(
        tmp_path,
        '[[method]]\nlabel = "Focal loss, 2"\nmethod = "fedavg"\nmethod-options.loss = "focal"\n'
        '[[method]]\nmethod = "fedavg"\n',
    )
    assert [(run.name, run.label) for run in sweep.runs] == [
        ("focal-loss-2", "Focal loss, 2"),
        ("fedavg", ""),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[gird]\nseed = [0]", r"unknown part 'gird' \(did you mean 'grid'\?\)"),
        ("[grid]\nsed = [0]", r"grid: unknown key 'sed' \(did you mean 'seed'\?\)"),
        ("[grid]\nseed = 3", "grid: seed: expected a list of values, got 3"),
        ("[grid]\nseed = []", "seed: the list is empty"),
        ("[grid]\nseed = [0, 0]", "seed: 0 stands there twice"),
        ("[grid]\nseed = [[0]]", r"seed: expected single values, got \[0\]"),
        ("[grid]\nlr = [0.1, -1.0]", r"lr-1.0: lr: input should be greater than 0, got -1.0"),
        ('[base]\nname = "x"', "base: name: a sweep says this itself"),
        ("[[method]]\nlr = 0.1", "names no method"),
        ('[grid]\nmethod = ["fedavg"]\n[[method]]\nmethod = "fedper"', "choose one"),
        ('[[method]]\nmethod = "fedavg"\n[[method]]\nmethod = "fedavg"\nlr = 0.1', "a label each"),
        (
            '[[method]]\nmethod = "fedavg"\nlabel = "a"\n[[method]]\nmethod = "fedavg"\nlabel = "b"',
            "'a' and 'b' are the same run",
        ),
        ('name = "a/b"', "name: expected letters"),
        ('[base]\nrecipe = "nowhere.toml"', r"nowhere\.toml: no such recipe"),
        ("seed = [", "not valid TOML"),
        ("[method]\nmethod = 1", r"expected \[\[method\]\] tables"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read(tmp_path, text)


def test_an_override_of_what_varies_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--set seed: .* varies it"):
        read(tmp_path, "[grid]\nseed = [0, 1]\n", overrides=["seed=4"])
    with pytest.raises(ConfigError, match="--set name"):
        read(tmp_path, "[grid]\nseed = [0, 1]\n", overrides=["name=x"])


def test_a_missing_file_and_a_wrong_method_are_said_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such sweep"):
        load_sweep(tmp_path / "nowhere.toml")
    with pytest.raises(PluginError, match="did you mean 'fedavg'"):
        check_methods(read(tmp_path, '[[method]]\nmethod = "fedavgg"\n'))
    with pytest.raises(ConfigError, match="unknown option 'nu'"):
        check_methods(read(tmp_path, '[[method]]\nmethod = "fedprox"\nmethod-options = "nu = 1"\n'))


def test_no_more_jobs_than_cores_allow(tmp_path: Path) -> None:
    cores = len(os.sched_getaffinity(0))
    sweep = read(tmp_path, '[base]\ndevice = "cpu"\n')
    assert usable_jobs(sweep) == cores
    assert usable_jobs(sweep, 1) == 1
    with pytest.raises(
        ConfigError, match=f"--jobs: {cores + 1} runs of 1 thread each .* at most {cores}"
    ):
        usable_jobs(sweep, cores + 1)
    wide = read(tmp_path, f'[base]\ndevice = "cpu"\nthreads = {2 * cores}\n')
    assert usable_jobs(wide) == 1


# Running it

PICKY = """
from fedloge.errors import ConfigError
from fedloge.methods.fedavg import FedAvg

class Picky(FedAvg):
    name = "picky"

    def __init__(self, task, options):
        super().__init__(task, options)
        {body}
"""


@pytest.mark.slow
def test_a_sweep_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """One fails without stopping the other; the next call resumes the one and runs the other."""
    method = write(tmp_path, PICKY.format(body='raise ConfigError("not today")'), "picky.py")
    text = f"""
    [base]
    {TINY}
    [[method]]
    method = "{method}:Picky"
    [[method]]
    method = "fedavg"
    """
    said: list[str] = []
    first = read(tmp_path, text)
    assert [standing(run).state for run in first.runs] == ["new", "new"]
    outcomes = run_sweep(first, jobs=usable_jobs(first), say=said.append)
    assert [outcome.problem for outcome in outcomes] == ["not today", ""]
    assert len(failures(outcomes)) == 1
    assert any(line.startswith("[2/2] ") for line in said)
    assert [path.name for path in list_runs(first.folder)] == ["fedavg"]

    write(tmp_path, PICKY.format(body="pass"), "picky.py")
    second = read(tmp_path, text, overrides=["rounds=2"])
    assert [standing(run).state for run in second.runs] == ["new", "begun"]
    said.clear()
    assert not failures(run_sweep(second, jobs=1, say=said.append))
    assert "fedavg: resumed after round 1" in said
    assert [open_run(path).rounds_done for path in list_runs(first.folder)] == [2, 2]
    assert [line["round"] for line in open_run(first.folder / "fedavg").metric_lines] == [1, 2]

    said.clear()
    assert [o.seconds for o in run_sweep(second, jobs=1, say=said.append)] == [0.0, 0.0]
    assert said == ["2 runs of 2 done before"]
    # The table reads them with the sweep's own labels and in its order.
    runs, by = gather([], second.folder)
    assert [row.label for row in group_runs(runs, by)[0].rows] == ["picky", "FedAvg"]
    # Another budget or setting under the same name is not taken for done.
    with pytest.raises(RunDirError, match="has run to round 2, the sweep asks for 1"):
        run_sweep(first, jobs=1, say=said.append)
    with pytest.raises(RunDirError, match=r"run with other settings: lr was 0\.03, now 0\.5"):
        run_sweep(read(tmp_path, text, overrides=["lr=0.5"]), jobs=1, say=said.append)


@pytest.mark.slow
def test_a_sweep_runs_seed_by_seed(tmp_path: Path) -> None:
    """So that one stopped half-way holds a whole table of fewer seeds."""
    methods = '[[method]]\nmethod = "fedavg"\n[[method]]\nmethod = "fedper"\n'
    sweep = read(tmp_path, f"[base]\n{TINY}\n[grid]\nseed = [1, 0]\n{methods}")
    said: list[str] = []
    outcomes = run_sweep(sweep, jobs=1, say=said.append)
    assert [line.split(":")[0] for line in said if line.endswith(": started")] == [
        *("fedavg-seed1", "fedper-seed1", "fedavg-seed0", "fedper-seed0")
    ]
    assert [outcome.run.name for outcome in outcomes] == names(sweep)


def test_two_sweeps_of_one_folder_do_not_run_at_once(tmp_path: Path) -> None:
    sweep = read(tmp_path, f"[base]\n{TINY}")
    (sweep.folder / ".sweep").mkdir(parents=True)
    with (sweep.folder / ".sweep/lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(RunDirError, match="another process runs this sweep"):
            run_sweep(sweep, jobs=1, say=print)


def test_a_stopped_sweep_leaves_no_run_behind(tmp_path: Path) -> None:
    sweep = write(tmp_path, f"[base]\n{recipe(rounds=100000)}")
    command = "from fedloge.commands.main import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", command, "sweep", str(sweep), "--runs-dir", str(tmp_path / "runs")],
        stderr=subprocess.PIPE,
    )
    metrics = tmp_path / "runs/loss/fedloge/metrics.jsonl"
    deadline = time.monotonic() + 200
    while not metrics.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    assert process.stderr is not None and b"interrupted" in process.stderr.read()
    with (tmp_path / "runs/loss/.sweep/lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the run held it, and is gone
    planned = load_sweep(sweep, runs_dir=str(tmp_path / "runs"))
    assert standing(planned.runs[0]).state == "begun"
    assert json.loads((planned.folder / "sweep.json").read_text())["runs"] == {
        "fedloge": {"label": ""}
    }
