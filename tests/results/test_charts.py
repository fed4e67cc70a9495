"""What is drawn: names, values, ranges, colours."""

from __future__ import annotations

import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from page_parser import check_page

from fedloge.results.report import class_charts, render
from fedloge.results.report.axis_ranges import percent_limits
from fedloge.results.report.drawing import Drawing, drawing_style
from fedloge.results.report.styles import TONES, Style
from fedloge.results.run import open_run

Make = Callable[..., Path]


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_classes_and_clients_are_named_on_the_axes(make_run: Make) -> None:
    names = ["aeroplane", "bird", "a-rather-long-name-of-a-class", "x"]
    page = check_page(render([open_run(make_run(class_names=names))]))
    shown = ["aeroplane", "bird", "a-rather-long-n…", "x"]
    for title in (
        "Class sizes, largest first",
        "Accuracy of each class",
        "Norms of the global head",
    ):
        assert set(shown) <= set(page.drawn[title])
        assert [text.splitlines()[0] for text in page.hover[title]] == names
    assert set(shown) | set("012345") <= set(page.drawn["Training images by class and client"])
    assert set("012345") <= set(page.drawn["Accuracy of each client, sorted"])


def test_curves_end_with_their_last_value(make_run: Make) -> None:
    run = open_run(make_run())
    page = check_page(render([run]))
    last = run.evaluated[-1]
    for name in ("fixed", "raw", "realigned"):
        assert f"{100 * last[f'global/{name}/all']:.1f}" in page.drawn["Global model"]
    assert page.hover["Global model"][-1] == "\n".join(
        [
            "round 20",
            *(f"{n} {100 * last[f'global/{n}/all']:.1f} %" for n in ("fixed", "raw", "realigned")),
        ]
    )


@given(st.lists(st.floats(0, 100), min_size=1, max_size=20))
@settings(max_examples=100, deadline=None)
def test_an_axis_of_accuracies_never_magnifies_noise(values: list[float]) -> None:
    low, high = percent_limits(values)
    assert 0 <= low <= min(values) and max(values) <= high <= 100
    assert high - low >= 30


def test_every_colour_follows_the_theme(make_run: Make) -> None:
    source = render([open_run(make_run())])
    drawn = " ".join(re.findall(r"<svg.*?</svg>", source, flags=re.S))
    loose = re.sub(r"var\(--[a-z]+, ?#[0-9a-f]{6}\)|href=\"#[^\"]*\"", "", drawn)
    assert not re.search(r"#[0-9a-f]{3}", loose)
    assert set(re.findall(r"var\(--([a-z]+),", drawn)) <= set(TONES)


@given(st.text(max_size=40))
@settings(max_examples=30, deadline=None)
def test_any_text_survives_in_a_chart(text: str) -> None:
    with drawing_style():
        chart = Drawing(text, "said")
        chart.label(text, "y")
        chart.y_range(0, 1)
        chart.x_names([text, "b"])
        chart.axes.plot([0, 1], [0, 1], **Style("blue").line())
        chart.hover_columns([0, 1], [text, "b"])
        root = ET.fromstring(chart.chart().svg.encode("utf-8"))
    (group,) = root.findall(".//g[@class='hover']")
    # Also where there is no style sheet, as in a notebook.
    assert group.get("fill") == "transparent" and len(group.findall("rect/title")) == 2


def test_values_at_the_ends_of_curves_keep_apart() -> None:
    with drawing_style():
        chart = Drawing("t", "s", right=46)
        chart.y_range(0, 100)
        chart.ends([(99.0 + i / 10, f"{i}", Style("blue")) for i in range(4)])
        root = ET.fromstring(chart.chart().svg)
    at = {e.text: float(e.get("y", "")) for e in root.iter("text") if e.get("x") == "359"}
    heights = sorted(at.values())
    assert all(b - a >= 10.9 for a, b in pairwise(heights))
    assert [at[f"{i}"] for i in range(4)] == sorted(at.values(), reverse=True)
    assert min(heights) > 20


def test_cosines_by_hand(make_run: Make) -> None:
    values = class_charts.pairwise_cosines(open_run(make_run(classes=4)))
    assert values is not None and values.shape == (6,)
    np.testing.assert_allclose(values, -1 / 3, atol=1e-6)
