from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import harness
import pytest
from safetensors.torch import load_file

from fedloge import config as configs
from fedloge.commands.main import cli

SHARED = Path(__file__).parents[3] / "shared"
GOLDEN = Path(__file__).parents[1] / "golden/cifar10-lt-if0.02-alpha0.5-partition.json"
RECIPE = Path(__file__).parents[2] / "experiments/recipes/cifar10-lt.toml"

Run = Callable[..., harness.Finished]


@pytest.fixture
def fedloge(tmp_path: Path) -> Run:
    def run(*args: str | Path, **env: str) -> harness.Finished:
        return harness.fedloge(*args, folder=tmp_path / "cwd", **env)

    return run


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return harness.run_local(harness.tiny(tmp_path_factory.mktemp("runs")))


def refused(result: harness.Finished, *words: str, code: int = 2) -> None:
    """One line for a person, no traceback, and the exit code for a script."""
    assert result.code == code, result
    assert result.err.count("\n") == 1 and result.err.startswith("fedloge: "), result.err
    assert result.out == ""
    for word in words:
        assert word in result.err


# What a user may get wrong


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("clients-per-rond=3", "did you mean 'clients-per-round'?"),
        ("lr=-0.1", "greater than 0"),
        ("rounds=2.5", "rounds"),
        ("method=fedlog", "unknown method 'fedlog' (did you mean 'fedloge'?)"),
        ("method=nowhere.py:Mine", "nowhere.py"),
        ("partitioner=dirichlett", "did you mean 'dirichlet'?"),
        ("model=cnnn", "did you mean 'cnn'?"),
        ("dataset=digit", "did you mean 'digits'?"),
        ("device=cuda:99", "CUDA devices are visible"),
        ("method-options=mu=1", "unknown option 'mu'"),
        ("num-clients=2000", "clients"),
    ],
)
def test_a_wrong_setting_is_one_line(
    fedloge: Run, setting: str, words: str, tmp_path: Path
) -> None:
    result = fedloge("run", "--runs-dir", tmp_path / "runs", "--set", setting)
    refused(result, words)
    assert not (tmp_path / "runs").exists()


def test_a_misspelt_key_in_a_recipe(fedloge: Run, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text("learning-rat = 0.1\n")
    refused(fedloge("run", recipe), "mine.toml: unknown key 'learning-rat'")


def test_a_missing_recipe(fedloge: Run) -> None:
    refused(fedloge("run", "none.toml"), "none.toml: no such recipe")


def test_an_unknown_engine(fedloge: Run) -> None:
    refused(fedloge("run", "--engine", "locl"), "did you mean 'local'?")


def test_a_missing_data_folder(fedloge: Run, tmp_path: Path) -> None:
    args = ("--set", "dataset=image-folder", "--set", f"data-path={tmp_path / 'none'}")
    refused(fedloge("run", *args), str(tmp_path / "none"))
    refused(fedloge("run", "--set", "dataset=image-folder"), "needs data-path")


def test_a_corrupt_image(fedloge: Run, tmp_path: Path) -> None:
    from PIL import Image

    for split in ("train", "test"):
        for name in ("cat", "dog"):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for number in range(3):
                Image.new("RGB", (8, 8), (number, 2, 3)).save(folder / f"{number}.png")
    bad = tmp_path / "images/train/dog/1.png"
    bad.write_bytes(bad.read_bytes()[:40])
    args = ("--set", "dataset=image-folder", "--set", f"data-path={tmp_path / 'images'}")
    refused(fedloge("partition", *args), "train/dog/1.png")


def test_a_run_of_this_name_exists(fedloge: Run, run_dir: Path) -> None:
    before = (run_dir / "metrics.jsonl").read_bytes()
    args = ("--runs-dir", run_dir.parent, "--name", "run")
    refused(fedloge("run", *args, *harness.settings()), "exists already", "fedloge resume")
    assert (run_dir / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("command", ["resume", "show", "compare", "report"])
def test_no_run_there(fedloge: Run, command: str, tmp_path: Path) -> None:
    refused(fedloge(command, tmp_path / "none"), "none")


def test_a_damaged_run_json(fedloge: Run, run_dir: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run_dir, copy)
    (copy / "run.json").write_text("{")
    refused(fedloge("resume", copy), "run.json")
    refused(fedloge("show", copy), "run.json")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((), "give either --global or --client K"),
        (("--global", "--client", "1"), "give either --global or --client K"),
        (("--client", "4"), "client 4 asked for, the run has 0 to 3"),
        (("--global", "--predictor", "realined"), "did you mean 'realigned'?"),
        (("--client", "0", "--predictor", "tuned"), "unknown personal model 'tuned'"),
    ],
)
def test_a_wrong_export(
    fedloge: Run, run_dir: Path, tmp_path: Path, args: tuple[str, ...], words: str
) -> None:
    refused(fedloge("export", run_dir, "--out", tmp_path / "out", *args), words)
    assert not (tmp_path / "out").exists()


def test_prototypes_that_do_not_exist(fedloge: Run) -> None:
    refused(fedloge("prototypes", "--classes", "10", "--dim", "128", "--kind", "etff"), "etf")


# A run that fails


def test_a_run_that_diverges_fails_with_one_reason(fedloge: Run, tmp_path: Path) -> None:
    result = fedloge("run", "--runs-dir", tmp_path / "runs", *harness.settings(lr=1e30))
    assert result.code == 1
    assert "Traceback" not in result.err
    last = result.err.splitlines()[-1]
    assert (
        last.startswith("fedloge: round 1: 0 of 3 clients gave a usable answer")
        and "lower lr" in last
    )


# What a script reads


def test_run_json(fedloge: Run, tmp_path: Path, run_dir: Path) -> None:
    result = fedloge("run", "--runs-dir", tmp_path / "runs", "--json", *harness.settings())
    assert result.code == 0, result.err
    said = json.loads(result.out)
    assert Path(said["folder"]) == tmp_path / "runs/fedloge-digits-1"
    assert said["complete"] and said["rounds-done"] == 3
    assert (Path(said["folder"]) / "report.html").exists()
    # The command line gives what the engine alone gives.
    assert harness.differences(run_dir, Path(said["folder"])) == []


def test_show_json(fedloge: Run, run_dir: Path) -> None:
    said = json.loads(fedloge("show", run_dir, "--json").out)
    rows = harness.lines(run_dir, "metrics")
    assert said["fingerprint"] == json.loads((run_dir / "run.json").read_text())["fingerprint"]
    assert said["config"] == configs.load(run_dir / "config.toml").flat()
    assert said["last"] == rows[-1]
    key = "global/realigned/all"
    mean = sum(row[key] for row in rows) / 3
    assert said["mean-of-last-ten"][key] == pytest.approx(mean, abs=1e-12)
    assert said["mean-of-last-ten"]["evaluations"] == 3


def test_partition_json(fedloge: Run) -> None:
    said = json.loads(fedloge("partition", "--json", *harness.settings()).out)
    assert said["num_clients"] == 4
    assert said["classes"] == [str(c) for c in range(10)]
    assert [len(row) for row in said["train_counts"]] == [10] * 4
    assert [len(row) for row in said["local_test_counts"]] == [10] * 4
    totals = [sum(column) for column in zip(*said["train_counts"], strict=True)]
    assert totals == sorted(totals, reverse=True) and totals[-1] == totals[0] // 10


def test_prototypes_json_and_file(fedloge: Run, tmp_path: Path) -> None:
    out = tmp_path / "w.safetensors"
    args = ("--classes", "10", "--dim", "64", "--gamma", "0.2", "--seed", "5", "--out", out)
    result = fedloge("prototypes", *args, "--json")
    said = json.loads(result.out)
    assert set(said) >= {
        "kind",
        "classes",
        "dim",
        "sparsity",
        "gamma",
        "seed",
        "cos_mean",
        "cos_std",
        "cos_max",
        "norm_min",
        "norm_max",
        "zeros_per_class",
        "abs_cos_max",
        "welch",
        "digest",
        "seconds",
    }
    assert (said["kind"], said["classes"], said["dim"], said["seed"]) == ("sparse-etf", 10, 64, 5)
    matrix = load_file(out)["prototypes"]
    assert matrix.shape == (10, 64)
    norms = matrix.norm(dim=1)
    assert norms.min().item() == pytest.approx(said["norm_min"], abs=1e-6)
    assert norms.tolist() == pytest.approx([0.2] * 10, abs=1e-4)
    cosines = (matrix @ matrix.T / norms.outer(norms)).fill_diagonal_(-1)
    assert cosines.max().item() == pytest.approx(said["cos_max"], abs=1e-5)
    assert said["cos_mean"] == pytest.approx(-1 / 9, abs=1e-3)


def test_compare_warns_of_other_fingerprints(fedloge: Run, run_dir: Path, tmp_path: Path) -> None:
    same = harness.run_local(harness.tiny(tmp_path, "same"))
    other = harness.run_local(harness.tiny(tmp_path, "other", lr=0.05))
    apart = fedloge("compare", run_dir, other)
    assert apart.code == 0 and "The runs differ in lr (0.03 | 0.05)" in apart.out
    assert "differ" not in fedloge("compare", run_dir, same).out
    alike = json.loads(fedloge("compare", run_dir, same, "--json").out)
    unlike = json.loads(fedloge("compare", run_dir, other, "--json").out)
    prints = [run["fingerprint"] for run in unlike["runs"]]
    assert len(set(prints)) == 2
    assert len({run["fingerprint"] for run in alike["runs"]}) == 1


def test_doctor_json(fedloge: Run) -> None:
    result = fedloge("doctor", "--json")
    findings = json.loads(result.out)
    assert {"what", "state", "found"} == set(findings[0])
    assert result.code == int(any(f["state"] == "bad" for f in findings))


def test_export_json(fedloge: Run, run_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = json.loads(fedloge("export", run_dir, "--global", "--out", out, "--json").out)
    assert said == json.loads((out / "manifest.json").read_text())
    assert said["model"] == "global/realigned" and said["round"] == 3


# The authors' split


def test_the_recipe_gives_the_authors_partition(fedloge: Run) -> None:
    archive = SHARED / "data/cifar10-lt.tar.xz"
    if not archive.exists():
        pytest.skip("../shared/data/cifar10-lt.tar.xz is not there")
    args = ("--set", f"data-path={archive}", "--set", "long-tail=none")
    result = fedloge("partition", RECIPE, *args, "--json")
    assert result.code == 0, result.err
    said, golden = json.loads(result.out), json.loads(GOLDEN.read_text())
    assert said["train_counts"] == golden["train_counts"]
    assert said["local_test_counts"] == golden["local_test_counts"]


# Starting up


def test_help_needs_no_torch() -> None:
    code = (
        "import sys; from fedloge.commands.main import cli\n"
        "try: cli(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'flwr', 'ray', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in cli.registered_commands:
        assert (command.name or command.callback.__name__.replace("_", "-")) in done.stdout


def test_the_installed_command_is_this_one() -> None:
    script = Path(sys.executable).with_name("fedloge")
    if not script.exists():
        pytest.skip("fedloge is not installed beside this interpreter")
    done = subprocess.run([script, "show", "/nowhere"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("fedloge: ")


def test_every_command_explains_itself(fedloge: Run) -> None:
    for command in cli.registered_commands:
        name = command.name or command.callback.__name__.replace("_", "-")
        shown = fedloge(name, "-h")
        assert shown.code == 0 and len(shown.out) > 100
