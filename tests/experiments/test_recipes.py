"""Every recipe is a config, says what its name says, and can be split; expected figures keep their schema."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from fedloge.config import Config, from_flat, load
from fedloge.data import long_tail_counts
from fedloge.partition import make_partition
from fedloge.results.settings import must_be_equal
from fedloge.sweeps.run_sweep import check_methods
from fedloge.sweeps.sweep_file import load_sweep

RECIPES = Path(__file__).parents[2] / "experiments/recipes"
FLAT = sorted([*RECIPES.glob("*.toml"), *RECIPES.glob("ablation/*.toml")])
SWEEPS = sorted(RECIPES.glob("sweeps/*.toml"))
EXPECTED = sorted(p for p in RECIPES.glob("expected/*.json") if p.name != "schema.json")
CELL = re.compile(r"cifar(\d+)-lt-if(\d+)-a([\d.]+)-k(\d+)-m(\d+)")
CURVES = Path(__file__).parents[3] / "shared/reference/cifar10-lt-official-curves.csv"


def name(path: Path) -> str:
    return path.stem


@pytest.mark.parametrize("path", FLAT, ids=name)
def test_a_recipe_is_a_config(path: Path) -> None:
    config = load(path)
    assert config.rounds % config.evaluate_every == 0
    # What differs from the defaults without being said would depend on one.
    text = path.read_text()
    for key in ("method", "model", "dataset", "partitioner", "rounds", "lr", "seed"):
        assert re.search(rf"^{key} = ", text, re.MULTILINE), f"{path.name} does not say {key}"


@pytest.mark.parametrize("path", [p for p in FLAT if CELL.fullmatch(p.stem)], ids=name)
def test_a_cell_is_what_its_name_says(path: Path) -> None:
    found = CELL.fullmatch(path.stem)
    assert found is not None
    classes, factor, alpha, clients, drawn = found.groups()
    config = load(path)
    assert config.dataset == f"cifar{classes}"
    assert config.imbalance_factor == pytest.approx(1 / int(factor))
    assert config.partitioner_options["alpha"] == float(alpha)
    assert (config.num_clients, config.clients_per_round) == (int(clients), int(drawn))
    assert config.model == {"10": "resnet18", "100": "resnet34"}[classes]
    assert config.clients_per_round in (config.num_clients, round(0.3 * config.num_clients))


def test_the_papers_cells_are_there() -> None:
    cells = {m.groups() for path in FLAT if (m := CELL.fullmatch(path.stem))}
    assert {c[:3] for c in cells} == {
        (classes, factor, alpha)
        for classes in ("10", "100")
        for factor in ("50", "100")
        for alpha in ("0.5", "1")
    }
    assert {c[3:] for c in cells} == {
        *(("20", "6"), ("20", "20"), ("40", "12"), ("40", "40"), ("100", "30"), ("100", "100"))
    }


@pytest.mark.parametrize("path", [p for p in FLAT if load(p).dataset.startswith("cifar")], ids=name)
def test_no_client_goes_empty(path: Path) -> None:
    config = load(path)
    classes = int(config.dataset.removeprefix("cifar"))
    counts = long_tail_counts(classes, 50_000 // classes, config.imbalance_factor, "exp")
    labels = np.repeat(np.arange(classes), counts)
    test = np.repeat(np.arange(classes), 10_000 // classes)
    made = make_partition(config, labels, test, classes)
    assert made.train_counts.sum(axis=1).min() > 0
    assert made.train_counts.sum() == len(labels)


@pytest.mark.parametrize("path", SWEEPS, ids=name)
def test_a_sweep_can_begin(path: Path, tmp_path: Path) -> None:
    sweep = load_sweep(path, [], str(tmp_path))
    check_methods(sweep)
    flats = [run.config.flat() for run in sweep.runs]
    # Tables are split by the grid's settings.
    shared = [key for key in flats[0] if must_be_equal(key) and key not in sweep.by]
    assert [key for key in shared if len({flat[key] for flat in flats}) > 1] == []
    assert f"fedloge sweep experiments/recipes/sweeps/{path.name}" in path.read_text()


def test_the_tuned_comparison_gives_every_method_the_same_trials() -> None:
    sweep = load_sweep(RECIPES / "sweeps/cifar10-lt-tuned.toml")
    assert sweep.tuning is not None
    assert {len(tuned.trials) for tuned in sweep.tuning.methods} == {3}
    assert {run.config.seed for run in sweep.runs} == {0, 1, 2}
    untuned = {run.config.method for run in sweep.runs if not run.tuned_as}
    assert untuned == {"fedavg", "fedper", "fedrod"}  # without an option that decides
    for run in sweep.all_runs():
        config = run.config
        assert (config.model, config.num_clients, config.clients_per_round) == ("resnet8", 40, 8)
        assert config.local_epochs == 5


def test_the_comparison_has_three_seeds_of_the_main_methods() -> None:
    sweep = load_sweep(RECIPES / "sweeps/cifar10-lt-if50.toml")
    seeds: dict[str, list[int]] = {}
    for run in sweep.runs:
        if not run.label:
            seeds.setdefault(run.config.method, []).append(run.config.seed)
    main = {"fedavg", "fedper", "fedrep", "ditto", "fedrod", "fedetf", "creff", "fedloge"}
    assert {method for method, of in seeds.items() if of == [0, 1, 2]} == main
    assert all(of == [0] for method, of in seeds.items() if method not in main)
    config: Config = sweep.runs[0].config
    assert (config.model, config.num_clients, config.clients_per_round) == ("resnet8", 40, 8)
    assert (config.rounds, config.imbalance_factor, config.partitioner_options["alpha"]) == (
        40,
        0.02,
        0.5,
    )


def test_expected_figures_keep_their_schema() -> None:
    schema = json.loads((RECIPES / "expected/schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    assert EXPECTED
    for path in EXPECTED:
        content = json.loads(path.read_text())
        jsonschema.validate(content, schema)
        assert content["recipe"] == f"{path.stem}.toml"
        assert (RECIPES / content["recipe"]).is_file()
        recipe = load(RECIPES / content["recipe"]).flat()
        for entry in content["measured"]:
            # Each setting is one that a config takes, and another than the recipe's.
            settings = entry["settings"]
            assert from_flat(recipe | settings).flat().items() >= settings.items()
            assert not settings.items() & recipe.items()
            single = len(entry["seeds"]) == 1
            assert all((f["std"] is None) == single for f in entry["figures"].values())


@pytest.mark.parametrize(
    ("part", "stray"),
    [
        ("paper", {"seeds": [0]}),
        ("paper", {"hardware": "a laptop"}),
        ("measured", {"source": "a paper"}),
    ],
)
def test_the_schema_keeps_paper_and_measured_apart(part: str, stray: dict[str, object]) -> None:
    schema = json.loads((RECIPES / "expected/schema.json").read_text())
    entries = {
        "paper": {
            "method": "fedavg",
            "when": "as published",
            "figures": {"global/all": 0.5},
            "source": "a paper of some year",
        },
        "measured": {
            "method": "fedavg",
            "settings": {},
            "rounds": 5,
            "when": "last",
            "seeds": [0],
            "figures": {"global/all": {"mean": 0.5, "std": None}},
            "command": "fedloge run x.toml",
            "hardware": "a laptop of 2 cores",
            "date": "2025-01-31",
            "versions": {"fedloge": "0.1.0", "torch": "2.9"},
        },
    }
    content = {"recipe": "x.toml", "paper": [entries["paper"]], "measured": [entries["measured"]]}
    jsonschema.validate(content, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content | {part: [entries[part] | stray]}, schema)


@pytest.mark.skipif(not CURVES.exists(), reason=f"{CURVES} is not here")
@pytest.mark.parametrize(("recipe", "setting"), [("cifar10-lt", "a"), ("cifar10-lt-if100", "b")])
def test_the_logs_figures_are_the_logs(recipe: str, setting: str) -> None:
    with CURVES.open(newline="") as f:
        rows = {(r["method"], r["round"]): r for r in csv.DictReader(f) if r["setting"] == setting}
    entries = json.loads((RECIPES / f"expected/{recipe}.json").read_text())["paper"]
    by_round = [entry for entry in entries if entry["when"].startswith("round ")]
    assert len(by_round) >= 10
    for entry in by_round:
        row = rows[entry["method"], entry["when"].removeprefix("round ")]
        assert entry["figures"] == {
            "global/all": float(row["global_acc"]),
            "personal/mean": float(row["local_acc"]),
        }
