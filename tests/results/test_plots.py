from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from fedloge.commands.main import main
from fedloge.errors import InputError
from fedloge.results.curves_beside import draw_beside, read_curves
from fedloge.results.grouping import Row, group_runs, shown_row
from fedloge.results.plots import KINDS, SIDES, draw
from fedloge.results.run import open_run

MakeRun = Callable[..., Path]


def rows_of(*folders: Path) -> list[Row]:
    (section,) = group_runs([open_run(folder) for folder in folders])
    return section.rows


def lines(figure: Figure, panel: int = 0) -> dict[str, Any]:
    return {str(line.get_label()): line for line in figure.axes[panel].get_lines()}


@pytest.fixture
def two(make_run: MakeRun) -> list[Row]:
    """Two methods over three seeds."""
    return rows_of(
        *(
            make_run(f"{method}-{seed}", method=method, seed=seed, lift=lift)
            for method, lift in (("fedavg", 0.0), ("fedloge", 0.05))
            for seed in range(3)
        )
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("suffix", [".pdf", ".png", ".svg"])
def test_every_kind_in_every_format(two: list[Row], tmp_path: Path, kind: str, suffix: str) -> None:
    out = tmp_path / "figures" / f"one{suffix}"
    assert draw(kind, two, SIDES, out).endswith(".")
    content = out.read_bytes()
    if suffix == ".png":
        with Image.open(out) as image:
            # A column or a page wide, at 300 dots an inch.
            assert 800 < image.width < 2300
    elif suffix == ".pdf":
        assert content.startswith(b"%PDF") and b"/Type3" not in content
    else:
        assert b"FedLoGe" in content  # text stays text
    draw(kind, two, SIDES, out)
    assert out.read_bytes() == content


def test_curves_are_means_and_bands_deviations(two: list[Row]) -> None:
    figure, said = KINDS["curves"](two, ["global", "personal"])
    assert "sample standard deviation" in said
    line = lines(figure)["FedAvg"]
    runs = two[0].runs
    assert list(line.get_xdata()) == runs[0].evaluated_rounds == [5, 10, 15, 20]
    values = np.array([[e["global/realigned/all"] for e in run.evaluated] for run in runs])
    np.testing.assert_allclose(line.get_ydata(), 100 * values.mean(axis=0))
    band = figure.axes[0].collections[0].get_paths()[0].vertices
    last = band[band[:, 0] == 20][:, 1]
    spread = 100 * values[:, -1].std(ddof=1)
    assert last.max() - last.min() == pytest.approx(2 * spread)
    assert [panel.get_title() for panel in figure.axes] == ["Global model", "Personal models"]


def test_any_figure_has_a_panel_in_its_own_unit(two: list[Row]) -> None:
    figure, _ = KINDS["curves"](two, ["global/realigned/all", "train/loss"])
    titles = [panel.get_title() for panel in figure.axes]
    assert titles == ["global/realigned/\nall", "train/loss"]
    values = np.array([[e["global/realigned/all"] for e in r.evaluated] for r in two[0].runs])
    np.testing.assert_allclose(lines(figure)["FedAvg"].get_ydata(), values.mean(axis=0))


def test_one_seed_has_no_band(make_run: MakeRun) -> None:
    figure, said = KINDS["curves"](rows_of(make_run("one")), ["global"])
    assert said == "One seed each." and not figure.axes[0].collections


def test_bytes_add_up_over_rounds(two: list[Row]) -> None:
    figure, _ = KINDS["bytes"](two, ["global"])
    # 1.8 MB a round, five rounds between evaluations.
    assert list(lines(figure)["FedLoGe"].get_xdata()) == [9e6, 18e6, 27e6, 36e6]
    axis = figure.axes[0]
    assert axis.get_xlabel() == "sent by server and clients, MB"
    assert axis.xaxis.get_major_formatter()(18e6) == "18"


def test_seconds_add_up_over_rounds(two: list[Row]) -> None:
    figure, _ = KINDS["seconds"](two, ["personal"])
    # 1.5 s of training a round, five rounds between evaluations.
    assert list(lines(figure)["FedLoGe"].get_xdata()) == [7.5, 15, 22.5, 30]
    assert figure.axes[0].get_xlabel() == "seconds of training, without evaluation"


def test_classes_stand_by_size(two: list[Row]) -> None:
    figure, _ = KINDS["per-class"](two, SIDES)
    line, run = lines(figure)["FedAvg"], two[0].runs[0]
    assert list(line.get_xdata()) == sorted(run.info["train-counts"])
    values = [r.last_class_line["global/realigned/accuracy"] for r in two[0].runs]
    order = np.argsort(run.info["train-counts"], kind="stable")
    np.testing.assert_allclose(line.get_ydata(), 100 * np.mean(values, axis=0)[order])
    assert figure.axes[0].get_xscale() == "log"


def test_many_classes_are_binned(make_run: MakeRun) -> None:
    rows = rows_of(make_run("c100", classes=100, largest=500, dim=128))
    figure, said = KINDS["per-class"](rows, SIDES)
    assert "means of 10 groups" in said
    assert len(lines(figure)["FedLoGe"].get_xdata()) == 10


def test_clients_are_paired_and_counted(make_run: MakeRun) -> None:
    folders = [
        make_run(method, method=method, clients=4, clients_per_round=2)
        for method in ("fedavg", "fedloge")
    ]
    for folder, accuracies in zip(
        folders, ([0.2, 0.4, 0.6, 0.8], [0.3, 0.5, 0.6, 0.7]), strict=True
    ):
        log = folder / "clients.jsonl"
        kept = [json.loads(line) for line in log.read_text().splitlines()]
        for line in kept:
            line["personal/realigned/accuracy"] = accuracies[line["client"]]
        # A client that was not measured under one of them is in neither.
        kept = [line for line in kept if folder != folders[0] or line["client"] != 3]
        log.write_text("".join(json.dumps(line) + "\n" for line in kept))
    figure, _ = KINDS["clients"](rows_of(*folders), SIDES)
    assert figure.axes[0].get_title() == "FedLoGe ahead 2, FedAvg ahead 0, equal 1"
    np.testing.assert_allclose(
        figure.axes[0].collections[0].get_offsets(), [[20, 30], [40, 50], [60, 60]]
    )


def test_a_row_has_one_style_in_every_figure(make_run: MakeRun) -> None:
    """Also where a row before it, having no global model, is not drawn."""
    rows = rows_of(
        make_run(
            "fedper",
            method="fedper",
            predictors={"global": (), "personal": ("raw",)},
            primary={"global": None, "personal": "raw"},
        ),
        make_run("fedloge", method="fedloge"),
    )
    curves, per_class = (KINDS[kind](rows, SIDES)[0] for kind in ("curves", "per-class"))
    assert lines(curves, 1)["FedLoGe"].get_color() == lines(per_class)["FedLoGe"].get_color()
    assert "FedPer" in lines(curves, 1) and "FedPer" not in lines(per_class)
    assert [text.get_text() for text in curves.legends[0].get_texts()] == ["FedPer", "FedLoGe"]


def test_what_cannot_be_drawn_is_said(two: list[Row], make_run: MakeRun, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="one row against another, got 1"):
        KINDS["clients"](two[:1], SIDES)
    with pytest.raises(InputError, match="shows the global model"):
        KINDS["per-class"](two, ["personal"])
    (section,) = group_runs([open_run(make_run("young", done=2))], allow_unequal=True)
    with pytest.raises(InputError, match="no such figures to draw yet"):
        KINDS["curves"](section.rows, SIDES)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        draw("curves", two, SIDES, tmp_path / "file" / "a.pdf")


def test_the_command(make_run: MakeRun, tmp_path: Path, monkeypatch, capsys) -> None:
    folders = [str(make_run(m, method=m)) for m in ("fedavg", "fedloge", "fedprox")]

    def command(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["fedloge", "plot", *folders, *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        return int(stopped.value.code or 0)

    out = tmp_path / "clients.svg"
    assert (
        command("--kind", "clients", "--row", "fedloge", "--row", "fedavg", "--out", str(out)) == 0
    )
    assert "FedLoGe, accuracy %" in out.read_text()
    capsys.readouterr()
    for wrong in (
        ["--kind", "curve"],
        ["--kind", "curves", "--side", "both", "--row", "x"],
        ["--kind", "clients"],
    ):
        assert command(*wrong, "--out", str(out)) == 2
        assert capsys.readouterr().err.startswith("fedloge: ")
    assert command("--kind", "curves", "--out", "a.gif") == 2
    capsys.readouterr()
    figure = ["--figure", "global/realigned/few", "--out", str(out)]
    assert command("--kind", "curves", *figure) == 0
    assert ">few<" in out.read_text() and "accuracy" not in out.read_text()
    assert command("--kind", "clients", *figure) == 2
    assert command("--kind", "bytes", "--figure", "global/realigned/fev", "--out", str(out)) == 2
    assert "near it: global/realigned/few" in capsys.readouterr().err


def test_a_row_is_judged_by_the_model_named(make_run: MakeRun) -> None:
    rows = rows_of(make_run("fedloge", method="fedloge"))
    raw = shown_row(rows, "FedLoGe (raw)=FedAvg")
    assert raw.label == "FedAvg"
    assert raw.runs[0].primary == {"global": "global/raw/all", "personal": "personal/raw/mean"}
    assert shown_row(rows, "fedloge=Ours").runs[0].primary["global"] == "global/realigned/all"
    assert shown_row(rows, "FedLoGe (raw)").label == "FedLoGe (raw)"
    with pytest.raises(InputError, match=r"unknown model 'row'.*'raw'"):
        shown_row(rows, "FedLoGe (row)")
    with pytest.raises(InputError, match="unknown row 'FedLoG'"):
        shown_row(rows, "FedLoG=Ours")


def published(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "published.csv"
    path.write_text(text)
    return path


def test_published_curves_are_dashed_in_the_colour_of_their_row(
    two: list[Row], tmp_path: Path
) -> None:
    path = published(
        tmp_path,
        "label,round,global,personal\nFedAvg,10,0.5,\nFedAvg,5,0.25,0.75\nDitto,5,0.1,0.2\n",
    )
    figure, _ = KINDS["curves"](two, SIDES)
    own = {side: len(figure.axes[n].get_lines()) for n, side in enumerate(SIDES)}
    said = draw_beside(read_curves(path), dict(zip(SIDES, figure.axes, strict=True)))
    assert said == (
        "Dashed lines are the published curves of FedAvg. Not drawn, as no run is beside them: Ditto."
    )
    for n, points in enumerate(([(5, 25), (10, 50)], [(5, 75)])):
        *before, dashed = figure.axes[n].get_lines()
        assert len(before) == own[SIDES[n]]
        assert [tuple(point) for point in dashed.get_xydata()] == points
        assert dashed.get_color() == lines(figure, n)["FedAvg"].get_color()
    draw("curves", two, SIDES, tmp_path / "both.svg", read_curves(path))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("label,round,global\n", "expected the columns .* add personal"),
        ("label,round,global,personal\nFedAvg,x,0.1,0.1\n", "line 2: expected a round, got 'x'"),
        ("label,round,global,personal\nFedAvg,1,50,0.1\n", r"in \[0, 1\], got '50'"),
        ("label,round,global,personal\nMine,1,0.5,0.1\n", "curves of Mine, none of which is a row"),
    ],
)
def test_wrong_published_curves_are_one_line(
    two: list[Row], tmp_path: Path, text: str, said: str
) -> None:
    with pytest.raises(InputError, match=said) as caught:
        draw("curves", two, SIDES, tmp_path / "x.svg", read_curves(published(tmp_path, text)))
    assert "\n" not in str(caught.value)


def test_the_authors_curves_can_be_read_and_cross_where_they_say() -> None:
    """FedLoGe's log is behind FedAvg's up to round 50 and level with it after round 200 (imbalance 1/50)."""
    folder = Path(__file__).parents[2] / "experiments/recipes/expected"
    curves = read_curves(folder / "cifar10-lt-curves.csv")
    gaps = {
        round: share - curves["FedAvg"]["global"][round]
        for round, share in curves["FedLoGe"]["global"].items()
        if round in curves["FedAvg"]["global"]
    }
    assert mean(gap for round, gap in gaps.items() if 20 <= round <= 50) < -0.04
    assert mean(gap for round, gap in gaps.items() if round >= 200) > 0
