from __future__ import annotations

from pathlib import Path

import harness
import pytest

from fedloge import recipe_files
from fedloge.config import load
from fedloge.errors import ConfigError
from fedloge.recipe_files import first_sentence, known_files, recipe_path


def test_every_known_name_leads_to_its_file() -> None:
    recipes, sweeps = known_files("recipe"), known_files("sweep")
    assert {"digits", "cifar10-lt", "cifar10-lt-if100-a0.5-k40-m12", "ablation/etf"} <= set(recipes)
    assert {"digits", "ablation"} <= set(sweeps)
    assert not any(name.startswith("sweeps/") for name in recipes)
    for name, path in recipes.items():
        assert recipe_path(name) == path
        load(path)
    assert recipe_path("digits", "sweep") == sweeps["digits"] != recipes["digits"]


def test_a_file_wins_over_a_name_and_a_folder_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    assert recipe_path("digits") == known_files()["digits"]
    (tmp_path / "cifar10-lt").write_text("rounds = 3\n")
    assert recipe_path("cifar10-lt") == Path("cifar10-lt")


def test_what_is_not_there_is_said() -> None:
    with pytest.raises(ConfigError, match=r"unknown recipe 'digit' \(did you mean 'digits'\?\)"):
        recipe_path("digit")
    with pytest.raises(ConfigError, match="unknown sweep 'cifar10-lt'"):
        recipe_path("cifar10-lt", "sweep")
    with pytest.raises(ConfigError, match=r"none\.toml: no such recipe"):
        load(recipe_path("none.toml"))


def test_in_a_wheel_they_lie_in_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site-packages/fedloge"
    (package / "recipes/sweeps").mkdir(parents=True)
    (package / "recipes/mine.toml").write_text("")
    monkeypatch.setattr(recipe_files, "__file__", str(package / "recipe_files.py"))
    assert known_files() == {"mine": package / "recipes/mine.toml"}
    assert known_files("sweep") == {}


def test_a_recipe_says_what_it_is_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "one.toml"
    path.write_text("# Digits, 1/50,\n# over 20.5 clients. And more.\nrounds = 1 # no\n")
    assert first_sentence(path) == "Digits, 1/50, over 20.5 clients."
    path.write_text("rounds = 1\n# no\n")
    assert first_sentence(path) == ""
    assert all(first_sentence(path).endswith(".") for path in known_files().values())


def test_commands_take_names_from_any_folder(tmp_path: Path) -> None:
    split = harness.fedloge("partition", "digits", "--json", folder=tmp_path / "elsewhere")
    assert split.code == 0 and '"num_clients": 20' in split.out
    plan = harness.fedloge("sweep", "digits", "--dry-run", folder=tmp_path / "elsewhere")
    assert plan.code == 0 and f"folder: {tmp_path / 'elsewhere/runs/digits'}" in plan.out
    shown = harness.fedloge("recipes", folder=tmp_path / "elsewhere")
    for name in (*known_files("recipe"), *known_files("sweep")):
        assert f"  {name} " in shown.out
