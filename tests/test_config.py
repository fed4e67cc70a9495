from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloge import config as configs
from fedloge.config import OPERATIONAL, TABLES, Config, from_flat
from fedloge.config.tables import MOVED, table_of
from fedloge.errors import ConfigError

ROOT = Path(__file__).parents[1]

NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=12)
SCALARS = st.one_of(
    st.booleans(),
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
)
PLAIN = st.one_of(SCALARS, st.lists(SCALARS, max_size=3))
OPTION_TABLES = st.dictionaries(
    NAMES, st.one_of(PLAIN, st.dictionaries(NAMES, PLAIN, max_size=2)), max_size=4
)


def test_flowers_defaults_are_these() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["flwr"]["app"]["config"] == Config().for_flower()


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
        ("rounds=true", "rounds: .*integer, got True"),
        ("lr=true", "lr: .*number, got True"),
        ("fast=1", "fast: .*boolean, got 1"),
        ("rounds", "expected key=value"),
        ("norm=layer", "norm: .*'batch' or 'group'.*'layer'"),
        ("clients-per-round=21", "clients-per-round is 21 but num-clients is 20"),
        ("name=../up", "name: .*pattern"),
        ("lr.x=1", "unknown key 'lr.x'"),
        ("method-options.=1", "unknown key 'method-options.'"),
        ("method-option.mu=1", "unknown key 'method-option.mu'"),
        ("method-options.mu=nan", "method-options: mu: expected a finite number, got nan"),
        ("method-options.day=2026-01-01", "day: expected text, numbers, true or false, got a date"),
        ("method-options=3", "method-options: expected \"key = value, key = value\", got '3'"),
    ],
)
def test_a_wrong_value_is_one_clear_line(override: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        configs.load(None, [override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["byzantine-clients=1"],
            "byzantine-clients is not read here, got 1; leave it out, or set",
        ),
        (["byzantine-clients=1", "aggregation=median"], "set aggregation to krum or trimmed-mean"),
        (["dp-noise=2.0"], "dp-noise is not read here, got 2.0; leave it out, or set dp-clip"),
        (["dp-delta=1e-6"], "dp-delta is not read here, got 1e-06; leave it out, or set dp-clip"),
        (["clients-at-once=2"], "clients-at-once is not read here, got 2; .*set fast=true"),
    ],
)
def test_a_key_that_nobody_reads_is_refused(overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        configs.load(None, overrides)


def test_it_is_taken_where_it_is_read() -> None:
    assert configs.load(None, ["byzantine-clients=1", "aggregation=krum"]).byzantine_clients == 1
    assert configs.load(None, ["dp-noise=2.0", "dp-clip=1.0"]).dp_noise == 2
    assert configs.load(None, ["clients-at-once=2", "fast=true"]).clients_at_once == 2


@pytest.mark.parametrize("key", MOVED)
def test_a_key_that_moved_says_where_it_is_now(key: str, tmp_path: Path) -> None:
    said = f"'{key}' is no key of a config; it is {MOVED[key]} now"
    with pytest.raises(ConfigError) as caught:
        configs.load(None, [f"{key}=1"])
    assert str(caught.value) == f"--set: {said}"
    recipe = tmp_path / "r.toml"
    recipe.write_text(f"{key} = 1\n")
    with pytest.raises(ConfigError) as caught:
        configs.load(recipe)
    assert str(caught.value) == f"{recipe}: {said}"
    assert key not in set(configs.keys())
    assert MOVED[key].split(".")[0] in set(configs.keys())


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
    changes = {
        "lr": 0.1,
        "seed": 1,
        "num_clients": 21,
        "method_options": {"gamma": 0.2},
        "partitioner_options": {"gamma": 0.2},
        "model_options": {"gamma": 0.2},
        "method": "fedavg",
    }
    prints = {base.replace(**{key: value}).fingerprint() for key, value in changes.items()}
    assert len(prints | {base.fingerprint()}) == len(changes) + 1


def test_operational_keys_are_keys() -> None:
    assert set(configs.keys()) >= OPERATIONAL


def test_tables_are_keys() -> None:
    assert set(configs.keys()) >= set(TABLES)


# Tables of options


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("mu = 0.1, kind = prox", {"mu": 0.1, "kind": "prox"}),
        ("on=true,n=3", {"on": True, "n": 3}),
        ('{"mu": 0.1, "of": {"n": [1, 2]}}', {"mu": 0.1, "of": {"n": [1, 2]}}),
        ('{mu = 0.1, name = "a, b"}', {"mu": 0.1, "name": "a, b"}),
        ("list = [1, 2]", {"list": [1, 2]}),
    ],
)
def test_a_table_as_text(text: str, expected: dict[str, Any]) -> None:
    assert table_of(text, "here") == expected
    assert configs.load(None, [f"method-options={text}"]).method_options == expected


def test_options_need_values() -> None:
    with pytest.raises(ConfigError, match="here: expected"):
        table_of("mu", "here")


def test_a_recipe_and_overrides_fill_one_table(tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text("[method-options]\nmu = 0.1\nkind = 'a'\nloss-options = {tau = 1.0}\n")
    overrides = ["method-options.mu=0.2", "method-options.loss-options.tau=2.0"]
    config = configs.load(recipe, [*overrides, "partitioner-options.alpha=5.0"])
    assert config.method_options == {"mu": 0.2, "kind": "a", "loss-options": {"tau": 2.0}}
    assert config.partitioner_options == {"alpha": 5.0}
    assert configs.load(recipe, ["method-options=mu = 3"]).method_options == {"mu": 3}
    with pytest.raises(ConfigError, match=r"method-options: .*dictionary, got 3"):
        configs.from_flat({"method-options": 3})


def test_a_text_option_may_look_like_a_number() -> None:
    config = configs.load(None, ['method-options.name="1e3"', "method-options.n=1e3"])
    assert config.method_options == {"name": "1e3", "n": 1000.0}


def test_flat_keys_of_a_table_are_dotted() -> None:
    config = Config(method_options={"mu": 0.1, "loss-options": {"tau": 2.0}})
    flat = config.flat()
    assert flat["method-options.mu"] == 0.1
    assert flat["method-options.loss-options.tau"] == 2.0
    assert not any(key.startswith("model-options") for key in flat)
    assert flat["lr"] == config.lr and "method-options" not in flat
    assert from_flat(flat) == config


def test_differences_of_configs() -> None:
    one = Config(method_options={"mu": 0.1})
    other = one.replace(lr=0.5, method_options={"mu": 0.2, "kind": "a"})
    assert configs.differences([one, other, one]) == {
        "lr": [0.03, 0.5, 0.03],
        "method-options.mu": [0.1, 0.2, 0.1],
        "method-options.kind": [None, "a", None],
    }
    assert configs.differences([one, one]) == configs.differences([]) == {}


@settings(max_examples=150, deadline=None)
@given(table=OPTION_TABLES, other=OPTION_TABLES)
def test_a_config_comes_through_flower_and_toml_as_it_was(table, other) -> None:
    config = Config(method_options=table, partitioner_options=other)
    sent = config.for_flower()
    assert list(sent) == configs.keys()
    assert all(type(value) in (str, int, float, bool) for value in sent.values())
    for back in (
        from_flat(sent),
        from_flat(config.nested()),
        from_flat(json.loads(json.dumps(sent))),
    ):
        assert back == config
        assert back.fingerprint() == config.fingerprint()
        assert hash(back) == hash(config)
        # 1, 1.0 and true are equal, and yet not the same.
        assert json.dumps(back.nested()["method-options"], sort_keys=True) == json.dumps(
            config.nested()["method-options"], sort_keys=True
        )


@settings(max_examples=60, deadline=None)
@given(table=OPTION_TABLES)
def test_a_config_is_rebuilt_from_its_dotted_keys(table) -> None:
    config = Config(method_options=table)
    # A table in the table that is empty has no dotted key.
    full = {key: value for key, value in table.items() if value != {}}
    assert from_flat(config.flat()) == config.replace(method_options=full)


@pytest.mark.parametrize("key", ["", "a.b"])
def test_names_of_options_have_no_dots(key: str) -> None:
    with pytest.raises(ConfigError, match="expected names without dots for keys"):
        Config().replace(method_options={key: 1})


@pytest.mark.parametrize("value", [None, [None], [[1]], b"", [float("inf")], {"in": {"it": ()}}])
def test_what_no_file_or_message_carries_is_no_option(value: object) -> None:
    with pytest.raises(ConfigError, match=r"expected .*number"):
        Config().replace(method_options={"mu": value})


# Partitioner on-node


ON_NODE = {
    "partitioner": "on-node",
    "dataset": "image-folder",
    "long-tail": "none",
    "image-size": 8,
    "partitioner-options.classes": ["dog", "cat"],
}


def test_on_node_names_its_classes() -> None:
    for classes in (["dog", "cat"], "dog, cat", "cat,dog,,cat "):
        config = from_flat(ON_NODE | {"partitioner-options.classes": classes})
        assert config.on_node and config.class_names == ("cat", "dog")
        assert not config.shares_class_counts
    assert from_flat(ON_NODE | {"partitioner-options.share-class-counts": True}).shares_class_counts
    assert not Config().on_node and not Config().shares_class_counts


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dataset": "digits"}, "set dataset=image-folder, got 'digits'"),
        ({"long-tail": "exp"}, "set long-tail=none, got 'exp'"),
        ({"image-size": 0}, "needs one image size for all: set image-size"),
        ({"partitioner-options.classes": ["cat"]}, "needs the class names, the same for all"),
        ({"partitioner-options.classes": 3}, "partitioner-options of 'on-node': classes"),
        ({"partitioner-options.classs": "a,b"}, "did you mean 'classes'"),
        ({"partitioner-options.share-class-counts": 1}, "share-class-counts: .*boolean, got 1"),
    ],
)
def test_on_node_needs_what_all_clients_agree_on(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        from_flat(ON_NODE | changes)
    assert "\n" not in str(caught.value)
