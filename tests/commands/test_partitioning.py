"""`fedloge partition` in this process, on a small table and on counts: no images, no run."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedloge.commands.main import cli
from fedloge.errors import InputError

USERS = [("ann", 9, 6), ("bob", 5, 0), ("Joséphine de la Montagne-Verte", 0, 12)]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Three people's pictures of cats and dogs."""
    path = tmp_path / "users.csv.gz"
    rows = [
        f"{user},{c}" for user, *n in USERS for c, k in zip("cd", n, strict=True) for _ in range(k)
    ]
    path.write_bytes(gzip.compress("\n".join(["user_id,class", *rows, ""]).encode()))
    return path


def said(*args: str | Path) -> str:
    result = CliRunner().invoke(cli, ["partition", *map(str, args)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def test_a_table_is_split_without_images(table: Path, tmp_path: Path) -> None:
    out, picture = tmp_path / "split.json", tmp_path / "split.png"
    natural = ("--table", table, "--set", "partitioner=natural")
    plain = json.loads(said(*natural, "--json", "--out", out, "--picture", picture))
    assert plain["names"] == ["Joséphine de la Montagne-Verte", "ann", "bob"]
    assert plain["test_split"] == "own"
    # A fifth of 12, of 9 and 6, and of 5.
    assert plain["train_counts"] == [[0, 10], [7, 5], [4, 0]]
    assert plain["local_test_counts"] == [[0, 2], [2, 1], [1, 0]]
    assert plain["measures"]["sizes"] == {"least": 4, "median": 10, "most": 12}
    assert picture.stat().st_size > 10_000
    again = ("--set", "partitioner=explicit", "--set", f"partitioner-options.file={out}")
    assert json.loads(said("--table", table, *again, "--json"))["digest"] == plain["digest"]


def test_the_table_fits_80_columns_and_cuts_no_number(tmp_path: Path) -> None:
    counts = tmp_path / "counts.json"
    counts.write_text(json.dumps([123_456 // (c + 1) for c in range(40)]))
    plain = json.loads(said("--counts", counts, "--set", "num-clients=70", "--json"))
    text = said("--counts", counts, "--set", "num-clients=70")
    assert max(map(len, text.splitlines())) <= 80
    assert "30 of 70 clients are shown" in text
    assert "…" not in text
    total = next(line for line in text.splitlines() if line.split()[:1] == ["all"]).split()
    sums = [sum(column) for column in zip(*plain["train_counts"], strict=True)]
    assert int(total[1]) == sum(sums)
    shown = list(map(int, total[4:]))
    assert len(shown) > 2 and shown == sums[: len(shown)]


def test_a_long_name_is_cut_and_a_held_out_client_named(table: Path) -> None:
    args = ("--table", table, "--set", "partitioner=natural", "--set", "num-clients=3")
    text = said(*args, "--set", "held-out-clients=1", "--set", "validation-share=0.2")
    assert "Joséphine de la M…" in text
    assert "1 client never trains: " in text
    assert "valid" in text


def test_it_needs_no_clients_per_round(table: Path) -> None:
    assert "2 clients" in said(
        "--table", table, "--set", "num-clients=2", "--set", "partitioner=iid"
    )


def test_what_does_not_go_together_is_refused(table: Path) -> None:
    with pytest.raises(InputError, match="give --table or --counts, not both"):
        said("--table", table, "--counts", table)
