"""What `import fedloge` offers, used as a user would."""

from __future__ import annotations

import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import harness
import pytest
import torch

import fedloge
from fedloge.observer import RoundDone


def tiny(folder: Path, **changes: Any) -> dict[str, Any]:
    flat = {key.replace("-", "_"): value for key, value in harness.TINY.items()}
    flat["partitioner_options"] = {"alpha": flat.pop("partitioner_options.alpha")}
    return flat | {"runs_dir": str(folder), "name": "run"} | changes


@pytest.mark.parametrize("name", fedloge.__all__)
def test_every_public_name_is_there(name: str) -> None:
    value = getattr(fedloge, name)
    if name == "__version__":
        assert value == version("fedloge")
    else:
        assert callable(value) and value.__doc__


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'rnu'"):
        fedloge.rnu  # noqa: B018
    assert set(fedloge.__all__) <= set(dir(fedloge))


def test_importing_it_costs_next_to_nothing() -> None:
    code = (
        "import sys, time; began = time.process_time(); import fedloge\n"
        "heavy = {'torch', 'numpy', 'flwr', 'ray', 'pydantic', 'rich'} & set(sys.modules)\n"
        "print(time.process_time() - began, heavy)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, heavy = done.stdout.split(maxsplit=1)
    assert float(seconds) < 0.1 and heavy.strip() == "set()"


def test_a_submodule_does_not_hide_a_function() -> None:
    code = (
        "import fedloge.sweeps.run_sweep, fedloge.launch.runs_from_python, fedloge.results.run\n"
        "assert all(callable(getattr(fedloge, name)) for name in ('run', 'resume', 'sweep', 'load'))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_run_resume_open_and_load(tmp_path: Path) -> None:
    heard: list[int] = []

    class Ears(fedloge.Observer):
        def on_round(self, event: RoundDone) -> None:
            heard.append(event.round)

    run = fedloge.run(**tiny(tmp_path, rounds=1), observers=[Ears()])
    assert isinstance(run, fedloge.Run)
    assert (run.path, run.rounds_done, heard) == (tmp_path / "run", 1, [1])
    further = run.resume(rounds=2, observers=[Ears()])
    assert (further.rounds_done, heard) == (2, [1, 2])
    longest = fedloge.resume(run.path, rounds=3)
    again = fedloge.open_run(run.path)
    assert again.rounds_done == longest.rounds_done == 3 and isinstance(again, fedloge.Run)
    assert again.resume().rounds_done == 3
    # The command line and the engine alone give the same.
    other = harness.run_local(harness.tiny(tmp_path, "other"))
    assert harness.differences(run.path, other) == []

    out = tmp_path / "out"
    done = harness.fedloge("export", run.path, "--global", "--out", out, folder=tmp_path / "cwd")
    assert done.code == 0, done.err
    model = fedloge.load(out)
    assert isinstance(model, fedloge.Model)
    images = torch.zeros(2, *model.manifest["input-shape"], dtype=torch.uint8)
    assert model(images).shape == (2, len(model.classes))


def test_a_table_is_given_as_a_dict(tmp_path: Path) -> None:
    small = tiny(tmp_path, rounds=1)
    run = fedloge.run(**small, method="fedprox", method_options={"mu": 0.1})
    assert run.config.method_options == {"mu": 0.1}
    with pytest.raises(fedloge_error(), match="nu"):
        fedloge.run(**small | {"name": "b"}, method="fedprox", method_options={"nu": 0.1})
    assert not (tmp_path / "b").exists()


def test_a_recipe_may_be_a_name_a_path_or_a_config(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text("seed = 7\n")
    small = tiny(tmp_path, rounds=1)
    from_path = fedloge.run(recipe, **small | {"name": "a"})
    config = from_path.config.replace(name="b")
    from_config = fedloge.run(config)
    from_name = fedloge.run("digits", **small | {"name": "c"}, seed=7)
    assert [r.config.seed for r in (from_path, from_config, from_name)] == [7, 7, 7]
    assert harness.differences(from_path.path, from_config.path) == []


def test_what_is_wrong_is_said_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(fedloge_error(), match="did you mean 'clients-per-round'"):
        fedloge.run(runs_dir=str(tmp_path), clients_per_rond=3)
    with pytest.raises(fedloge_error(), match="did you mean 'digits'"):
        fedloge.run("digit", runs_dir=str(tmp_path))
    with pytest.raises(fedloge_error(), match=r"unknown engine 'locl' \(did you mean 'local'\?\)"):
        fedloge.run(engine="locl", runs_dir=str(tmp_path))
    assert not list(tmp_path.iterdir())


def fedloge_error() -> type[Exception]:
    from fedloge.errors import ConfigError

    return ConfigError


def test_a_sweep_from_python(tmp_path: Path) -> None:
    path = tmp_path / "small.toml"
    path.write_text('[grid]\nseed = [0, 1]\n[[method]]\nmethod = "fedavg"\n')
    small = {k: v for k, v in tiny(tmp_path, rounds=1).items() if k not in ("name", "runs_dir")}
    runs = fedloge.sweep(path, set=small, runs_dir=tmp_path / "runs")
    assert [run.name for run in runs] == ["fedavg-seed0", "fedavg-seed1"]
    assert all(isinstance(run, fedloge.Run) and run.rounds_done == 1 for run in runs)
    del small["partitioner_options"]
    settings = [f"{key.replace('_', '-')}={value}" for key, value in small.items()]
    settings.append("partitioner-options.alpha=5.0")
    began = time.monotonic()
    again = fedloge.sweep(path, set=settings, runs_dir=tmp_path / "runs")
    assert [run.path for run in again] == [run.path for run in runs]
    assert time.monotonic() - began < 2, "what is done was run again"


def test_a_sweep_with_a_failed_run_says_which(tmp_path: Path) -> None:
    path = tmp_path / "small.toml"
    path.write_text('[[method]]\nmethod = "fedavg"\nlr = 1e30\n')
    small = {k: v for k, v in tiny(tmp_path, rounds=1).items() if k not in ("name", "runs_dir")}
    with pytest.raises(Exception, match="1 of 1 runs of sweep 'small' failed; the first: fedavg: "):
        fedloge.sweep(path, set=small, runs_dir=tmp_path / "runs")
