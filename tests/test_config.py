from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from fedloge import config as configs
from fedloge.config import OPERATIONAL, Config
from fedloge.errors import ConfigError

ROOT = Path(__file__).parents[1]


def test_flowers_defaults_are_these() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["flwr"]["app"]["config"] == Config().flat()


@pytest.mark.parametrize(
    "recipe", sorted((ROOT / "experiments/recipes").glob("*.toml")), ids=lambda p: p.stem
)
def test_every_recipe_is_valid(recipe: Path) -> None:
    configs.load(recipe)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("lrr=0.1", "unknown key 'lrr' .did you mean 'lr'"),
        ("lr=-0.1", "lr: .*greater than 0.*-0.1"),
        ("lr=nan", "lr: .*finite"),
        ("rounds=2.5", "rounds: .*integer"),
        ("rounds", "expected key=value"),
        ("norm=layer", "norm: .*'batch' or 'group'.*'layer'"),
        ("clients-per-round=21", "clients-per-round is 21 but num-clients is 20"),
        ("name=../up", "name: .*pattern"),
    ],
)
def test_a_wrong_value_is_one_clear_line(override: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        configs.load(None, [override])
    assert "\n" not in str(caught.value)


def test_a_misspelt_key_in_a_recipe_is_named(tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text("num-client = 3\n")
    with pytest.raises(
        ConfigError, match=r"r\.toml: unknown key 'num-client' .did you mean 'num-clients'"
    ):
        configs.load(recipe)


def test_broken_or_missing_recipes(tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text("lr = = 3\n")
    with pytest.raises(ConfigError, match="not valid TOML"):
        configs.load(recipe)
    with pytest.raises(ConfigError, match="no such recipe"):
        configs.load(tmp_path / "none.toml")


def test_overrides_keep_strings_as_they_are() -> None:
    config = configs.load(None, ["data-path=1e3", "lr=1e-2", "resume=true"])
    assert (config.data_path, config.lr, config.resume) == ("1e3", 0.01, True)


def test_the_fingerprint_ignores_where_a_run_runs_and_nothing_else() -> None:
    base = Config()
    assert (
        base.replace(runs_dir="/elsewhere", rounds=99, name="n").fingerprint() == base.fingerprint()
    )
    changes = {"lr": 0.1, "seed": 1, "num_clients": 21, "gamma": 0.2, "method": "fedavg"}
    prints = {base.replace(**{key: value}).fingerprint() for key, value in changes.items()}
    assert len(prints | {base.fingerprint()}) == len(changes) + 1


def test_operational_keys_are_keys() -> None:
    assert set(configs.keys()) >= OPERATIONAL


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("mu = 0.1, kind = prox", {"mu": 0.1, "kind": "prox"}),
        ("on=true,n=3", {"on": True, "n": 3}),
    ],
)
def test_options(text: str, expected: dict) -> None:
    assert configs.parse_options(text, "here") == expected


def test_options_need_values() -> None:
    with pytest.raises(ConfigError, match="here: expected"):
        configs.parse_options("mu", "here")
