"""The page docs/add-your-method.md does what it says, outside this repository."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import harness
import pytest

import fedloge as package
from fedloge.sweeps.run_sweep import check_methods
from fedloge.sweeps.sweep_file import load_sweep

PAGE = (Path(__file__).parents[1] / "docs/add-your-method.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def write(folder: Path) -> None:
    """The files of the page, under the names it gives them."""
    names = re.findall(r"Save this as `(\w+\.py)`", PAGE)
    for name, code in zip(names, blocks("python"), strict=True):
        (folder / name).write_text(code)
    sweep = next(block for block in blocks("toml") if "[[method]]" in block)
    (folder / "prior.toml").write_text(sweep)


def fedloge(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    # As the installed command would run, from a folder that is not this repository.
    root = str(Path(str(package.__file__)).parents[1])
    return subprocess.run(
        [sys.executable, "-c", "from fedloge.commands.main import main; main()", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )


def command(starting: str) -> list[str]:
    """The arguments of a command on the page."""
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    return shlex.split(next(line for line in lines if line.startswith(starting)))[1:]


def test_the_method_is_short_and_runs(tmp_path: Path) -> None:
    write(tmp_path)
    code = (tmp_path / "fed_prior.py").read_text()
    assert 25 <= sum(1 for line in code.splitlines() if line.strip()) <= 35
    done = fedloge(
        [*command("fedloge run"), *harness.settings(rounds=2), "--name", "mine", "--json"], tmp_path
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["method"] == "fed-prior" and summary["rounds-done"] == 2
    assert summary["primary"] == {"global": "global/raw/all", "personal": "personal/prior/mean"}
    assert 0 <= summary["last"]["personal/prior/mean"] <= 1
    last = (tmp_path / "runs/mine/metrics.jsonl").read_text().splitlines()[-1]
    assert {"train/loss", "global/raw/all", "personal/prior/mean"} <= json.loads(last).keys()


def test_the_method_passes_its_suite(tmp_path: Path) -> None:
    write(tmp_path)
    (check,) = (block for block in blocks("bash") if "check_method" in block)
    python, *arguments = shlex.split(check)
    assert python == "python"
    root = str(Path(str(package.__file__)).parents[1])
    checked = subprocess.run(
        [sys.executable, *arguments],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr


def test_its_options_are_checked(tmp_path: Path) -> None:
    write(tmp_path)
    arguments = command("fedloge run")
    wrong = [part.replace("tau=1", "tau=-1") for part in arguments]
    assert wrong != arguments
    done = fedloge([*wrong, *harness.settings(rounds=2)], tmp_path)
    assert done.returncode == 2
    assert "method-options of 'fed-prior': tau: " in done.stderr
    assert done.stderr.startswith("fedloge: ") and done.stderr.count("\n") == 1


def test_the_sweep_of_the_page_can_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path)
    monkeypatch.chdir(tmp_path)
    sweep = load_sweep(Path("prior.toml"))
    check_methods(sweep)
    assert len(sweep.runs) == 12
    assert str(sweep.folder) == str(tmp_path / "runs/prior")


def test_the_partitioner_passes_its_suite_and_splits(tmp_path: Path) -> None:
    write(tmp_path)
    root = str(Path(str(package.__file__)).parents[1])
    checked = subprocess.run(
        [sys.executable, "halves.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert (checked.returncode, checked.stderr) == (0, "")
    done = fedloge([*command("fedloge partition"), "--json"], tmp_path)
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)["train_counts"]
    # Six tenths of 20 clients at most hold a class, and all of them a common one.
    holders = [sum(row[c] > 0 for row in counts) for c in range(10)]
    assert holders[0] == 12 and max(holders) == 12
