from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from rich.console import Console, RenderableType

from fedloge.results import terminal_tables as tables
from fedloge.results.figure_rows import figure_rows
from fedloge.results.run import open_run

Make = Callable[..., Path]
TUNED = {"global": "raw", "personal": "tuned"}


def printed(renderable: RenderableType) -> str:
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        console.print(renderable)
    text = capture.get()
    assert max(map(len, text.splitlines())) <= 80
    return text


def set_figures(folder: Path, *lines: dict[str, float]) -> None:
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def cells(text: str, start: str) -> list[str]:
    """The words of the first line that starts so."""
    return next(line for line in text.splitlines() if line.strip().startswith(start)).split()


def test_show_prints_the_figures(make_run: Make) -> None:
    folder = make_run(rounds=10)
    set_figures(
        folder,
        {"round": 5, "global/realigned/all": 0.40, "personal/realigned/mean": 0.6},
        {
            "round": 10,
            "global/realigned/all": 0.4233,
            "global/realigned/few": 0.2,
            "personal/realigned/mean": 0.72854,
            "personal/realigned/worst-decile": 0.5,
        },
    )
    text = printed(tables.show(open_run(folder)))
    assert "fedloge on digits, 6 clients, all 10 rounds done" in text
    lines = [line.split() for line in text.splitlines()]
    # Columns that no row has a figure for are left out: here all and few remain.
    assert ["realigned", "*", "round", "10", "42.3", "20.0"] in lines
    assert ["mean", "of", "2", "41.2", "–"] in lines
    # And here mean and worst 10 %.
    assert ["realigned", "*", "round", "10", "72.9", "50.0"] in lines
    assert ["mean", "of", "2", "66.4", "–"] in lines


def test_show_fits_a_full_run_and_keeps_the_order(make_run: Make) -> None:
    text = printed(tables.show(open_run(make_run("a-run-with-a-rather-long-name-" * 3))))
    # the global table has all three predictors, then the personal one has two
    order = [
        line.split()[0] for line in text.splitlines() if " round " in line and "mean" not in line
    ]
    assert [word for word in order if word in ("fixed", "raw", "realigned")] == [
        "fixed",
        "raw",
        "realigned",
        "raw",
        "realigned",
    ]


def test_show_without_a_global_model(make_run: Make) -> None:
    run = open_run(
        make_run(
            method="fedper",
            predictors={"global": (), "personal": ("raw",)},
            primary={"global": None, "personal": "raw"},
            prototypes=False,
        )
    )
    text = printed(tables.show(run))
    assert "Global model" not in text and "Personal models" in text
    assert figure_rows(run, "global") == []
    assert [(row.predictor, row.primary) for row in figure_rows(run, "personal")] == [("raw", True)]


def test_show_says_what_is_missing(make_run: Make) -> None:
    folder = make_run(rounds=20, done=3, failures=[{"round": 1, "client": 2, "reason": "nan"}])
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"round": 4')
    text = printed(tables.show(open_run(folder)))
    assert "The run is not complete: 3 of 20 rounds done." in text
    assert "No round has been evaluated yet" in text
    assert "The last line of metrics.jsonl was torn off" in text
    assert "1 failure on 1 client." in text


def test_markup_in_names_is_printed_as_it_is(make_run: Make) -> None:
    runs = [open_run(make_run("a")), open_run(make_run("b"))]
    runs[0].info["name"] = runs[0].info["method"] = "[b]x[/b]"
    assert "[b]x[/b]" in printed(tables.compare(runs))
    assert "[b]x[/b]" in printed(tables.show(runs[0]))


def test_compare_prints_the_judged_figures(make_run: Make) -> None:
    folders = make_run("loge"), make_run("avg", method="fedavg", primary=TUNED)
    set_figures(
        folders[0], {"round": 20, "global/realigned/all": 0.5, "personal/realigned/mean": 0.7}
    )
    set_figures(folders[1], {"round": 20, "global/raw/all": 0.4, "personal/tuned/mean": 0.6})
    text = printed(tables.compare([open_run(folder) for folder in folders]))
    assert cells(text, "loge") == ["loge", "fedloge", "20", "50.0", "50.0", "70.0", "70.0", "–"]
    assert cells(text, "avg") == ["avg", "fedavg", "20", "40.0", "40.0", "60.0", "60.0", "–"]


def test_compare_warns_of_what_is_unequal(make_run: Make) -> None:
    runs = [open_run(make_run("a")), open_run(make_run("b", batch_size=64))]
    text = printed(tables.compare(runs))
    assert "Not like for like: the runs differ in batch-size (8: a, 64: b)." in text


def test_runs_without_class_counts_have_no_shot_groups(make_run: Make) -> None:
    folder = make_run("own")
    info = json.loads((folder / "run.json").read_text())
    info |= {"train-counts": [0] * 4, "groups": [0] * 4}
    (folder / "run.json").write_text(json.dumps(info))
    text = printed(tables.show(open_run(folder)))
    assert "Global model" in text and "many" not in text and "few" not in text
