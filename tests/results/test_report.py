from __future__ import annotations

import doctest
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloge.results.report import classes, html, render, svg, write_report
from fedloge.results.run import open_run

Make = Callable[..., Path]

FEDPER = {
    "method": "fedper",
    "predictors": {"global": (), "personal": ("raw",)},
    "primary": {"global": None, "personal": "raw"},
    "prototypes": False,
}
FEDAVG = {
    "method": "fedavg",
    "predictors": {"global": ("raw",), "personal": ("raw", "tuned")},
    "primary": {"global": "raw", "personal": "tuned"},
    "prototypes": False,
}


class Page(HTMLParser):
    """Checks that elements nest, and gathers the text, the headings and the hover data."""

    VOID = frozenset({"meta", "link", "br"})

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.text: list[str] = []
        self.titles: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.hovers: list[str] = []
        self.names: list[str] = []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.hovers += [value for name, value in attrs if name.startswith("data-") and value]
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in self.VOID
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("style", "script"):
            return
        self.text.append(data)
        if self.open and self.open[-1] in ("figcaption", "h2"):
            self.titles.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data

    def said(self) -> str:
        return " ".join(" ".join(self.text).split())


def check_page(source: str) -> Page:
    """Well-formed, self-contained, every svg an XML document with a title; returns the page."""
    assert len(source.encode()) < 1_500_000
    assert not re.search(r"https?:|//[a-z]+\.[a-z]|url\(|@import|<(img|iframe|object)\b", source)
    assert not re.search(r"\b(src|href)=\"(?!data:,\")", source)
    assert not any("nan" in path or "inf" in path for path in re.findall(r' d="[^"]*"', source))
    for drawing in re.findall(r"<svg.*?</svg>", source, flags=re.S):
        root = ET.fromstring(drawing)
        if root.get("class") != "swatch":
            assert root.find("title") is not None and root.find("desc") is not None
            assert root.get("role") == "img" and root.get("aria-label")
    page = Page(source)
    for data in page.hovers:
        json.loads(data, parse_constant=pytest.fail)
    return page


def test_doctests() -> None:
    for module in (html, svg):
        assert doctest.testmod(module).failed == 0


def test_one_run_shows_its_figures(make_run: Make, tmp_path: Path) -> None:
    folder = make_run(rounds=20)
    last = {
        "round": 20,
        "train/loss": 0.5,
        "global/realigned/all": 0.4233,
        "global/realigned/few": 0.1375,
        "personal/realigned/mean": 0.72854,
        "personal/realigned/worst-decile": 0.5061,
    }
    lines = [{"round": 10, "global/realigned/all": 0.45, "personal/realigned/mean": 0.70}, last]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = tmp_path / "new" / "report.html"
    write_report([open_run(folder)], out)
    page = check_page(out.read_text(encoding="utf-8"))
    said = page.said()
    assert "After round 20 of 20, the global model is right on 42.3 %" in said
    assert "a client’s own model on 72.9 % of its own, on average over 6 clients" in said
    assert (
        "best-on-test (picked on the test set, so no estimate): global/realigned/all 45.0 %" in said
    )
    assert page.tables[0][1:] == [
        ["realigned ★", "round 20", "42.3", "–", "–", "13.8"],
        ["", "mean of 2", "43.7", "–", "–", "–"],
    ]
    assert page.tables[1][1] == ["realigned ★", "round 20", "72.9", *"–", "50.6", *"––––"]
    assert open_run(folder).fingerprint in said


def test_every_section_of_a_whole_run(make_run: Make) -> None:
    failures = [{"round": 2, "client": 1, "reason": "no answer"}] * 30
    run = open_run(make_run(rounds=20, failures=failures))
    page = check_page(render([run]))
    assert page.titles == [
        "Figures",
        "What was run",
        "Curves",
        "Global model",
        "Global model by class size",
        "Personal models, mean over clients",
        "Personal models by class size",
        "Personal models, worst tenth of the clients",
        "Training loss",
        "The split",
        "Training images by class and client",
        "Class sizes, largest first",
        "Client sizes, largest first",
        "Clients",
        "Accuracy of each client, sorted",
        "How many clients reach which accuracy",
        "Accuracy against a client's training images",
        "Classes and the fixed classifier",
        "Accuracy of each class against its size",
        "Norms of the global head by class size",
        "Pairwise cosines of the fixed classifier",
        "Time and traffic",
        "Seconds a round",
        "Failures",
        "Every evaluation",
        "Configuration",
    ]
    said = page.said()
    assert "30 failures on 1 client." in said
    assert "−1/(C−1) = −0.3333" in said
    assert "fixed classifier: 0.1 in every class" in said
    assert ["no answer", "30"] in page.tables[-4]
    assert ["num-clients", "6", "20"] in page.tables[-1]


def test_method_without_a_global_model(make_run: Make) -> None:
    page = check_page(render([open_run(make_run(rounds=10, **FEDPER))]))
    assert "Global model" not in page.titles
    assert "Pairwise cosines of the fixed classifier" not in page.titles
    assert "Accuracy of each client, sorted" in page.titles
    assert "After round 10 of 10, a client’s own model on" in page.said()


def test_run_that_has_just_begun(make_run: Make) -> None:
    folder = make_run(done=0)
    for path in folder.iterdir():
        if path.name not in ("run.json", "config.toml"):
            path.unlink()
    page = check_page(render([open_run(folder)]))
    assert "No round has been evaluated yet" in page.said()
    sections = ["Figures", "What was run", "The split", "Class sizes, largest first"]
    assert page.titles == [*sections, "Configuration"]


def test_run_before_its_first_evaluation_and_with_one(make_run: Make) -> None:
    page = check_page(render([open_run(make_run("early", done=3))]))
    assert "The run is not complete: 3 of 20 rounds done." in page.said()
    assert "Training loss" in page.titles and "Global model" not in page.titles
    page = check_page(render([open_run(make_run("first", done=5))]))
    assert "Global model" in page.titles


def test_figures_of_clients_and_classes_may_be_missing(make_run: Make) -> None:
    folder = make_run(classes=4)
    (folder / "clients.jsonl").unlink()
    line = {"round": 20, "global/realigned/accuracy": [0.5, None, 0.25, None]}
    line["norms/global-head"] = [1.0, None, 0.5, 0.2]
    (folder / "classes.jsonl").write_text(json.dumps(line) + "\n")
    page = check_page(render([open_run(folder)]))
    assert "Clients" not in page.titles
    assert "Accuracy of each class against its size" in page.titles


def test_class_no_client_holds(make_run: Make) -> None:
    folder = make_run(classes=4)
    info = json.loads((folder / "run.json").read_text())
    info["train-counts"][3] = 0
    (folder / "run.json").write_text(json.dumps(info))
    check_page(render([open_run(folder)]))


def test_several_runs_are_compared_first(make_run: Make) -> None:
    runs = [
        open_run(make_run("loge")),
        open_run(make_run("avg", **FEDAVG)),
        open_run(make_run("per", **FEDPER, rounds=15)),
    ]
    page = check_page(render(runs))
    assert page.titles[:7] == [
        "Comparison",
        "Global model",
        "Global model, many-shot classes",
        "Global model, medium-shot classes",
        "Global model, few-shot classes",
        "Personal models, mean over clients",
        "Personal models, worst tenth of the clients",
    ]
    said = page.said()
    assert "The runs differ in method (fedloge | fedavg | fedper)" in said
    assert "Not like for like: the runs differ in rounds (20 | 20 | 15)" in said
    rows = page.tables[0]
    assert [row[0] for row in rows[1:]] == ["loge", "avg", "per"]
    assert rows[3][3:5] == ["–", "–"] and rows[3][5] != "–"
    assert page.titles.count("Training images by class and client") == 3


def test_many_runs_keep_to_the_headlines(make_run: Make) -> None:
    runs = [open_run(make_run(f"run-{i}")) for i in range(9)]
    page = check_page(render(runs))
    assert page.titles.count("What was run") == 9
    assert "Training images by class and client" not in page.titles


def test_every_string_is_escaped(make_run: Make) -> None:
    bad = "</script><script>alert('x')</script>&\"<b>\x00\ud800"
    folder = make_run(
        class_names=[f"{bad}{i}" for i in range(4)],
        failures=[{"round": 1, "client": 1, "reason": bad}],
        method_options=bad.replace("\x00\ud800", ""),
        predictors={"global": (bad,), "personal": ("raw",)},
    )
    info = json.loads((folder / "run.json").read_text())
    info |= {"name": bad, "method": bad, "fingerprint": bad, "partition": bad, "created": bad}
    info |= {"versions": {bad: bad}, "parts": {bad: "shared"}}
    info["prototype-info"] |= {"kind": bad, "reason": bad}
    (folder / "run.json").write_text(json.dumps(info))
    run = open_run(folder)
    for source in (render([run]), render([run, open_run(make_run("other"))])):
        source.encode("utf-8")
        page = check_page(source)
        assert page.names.count("script") == 1 and "b" not in page.names
        assert "alert('x')" in page.said()


def test_large_federation_stays_small(make_run: Make) -> None:
    run = open_run(
        make_run(rounds=400, clients=300, classes=250, dim=64, largest=900, evaluate_every=4)
    )
    source = render([run])
    page = check_page(source)
    assert len(source) < 700_000
    assert "60 of 300 clients, evenly spaced by size, largest first." in page.said()
    assert "250 classes in 100 rows of classes of like size; means." in page.said()


def test_cosines_by_hand(make_run: Make) -> None:
    values = classes.pairwise_cosines(open_run(make_run(classes=4)))
    assert values is not None and values.shape == (6,)
    np.testing.assert_allclose(values, -1 / 3, atol=1e-6)


def test_a_page_needs_a_run() -> None:
    with pytest.raises(ValueError, match="at least one run"):
        render([])


@given(st.text())
@settings(max_examples=60, deadline=None)
def test_escaped_text_survives_html_and_xml(text: str) -> None:
    element = html.tag("p", text, title=text)
    assert ET.fromstring(element.encode("utf-8")).tag == "p"
    inner = ET.fromstring(str(html.tag("p", "a", html.tag("br"), text)))
    assert len(inner) == 1


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20),
    st.sampled_from([True, False]),
)
@settings(max_examples=80, deadline=None)
def test_linear_axis_holds_its_values(values: list[float], pad: bool) -> None:
    axis = svg.linear("x", values, pad=pad)
    assert all(-1e-6 <= axis.at(value) <= 1 + 1e-6 for value in values)
    assert all(-1e-6 <= axis.at(tick) <= 1 + 1e-6 for tick in axis.ticks)
    assert len(axis.ticks) <= 8


def test_axis_ticks_by_hand() -> None:
    axis = svg.linear("accuracy, %", [41.0, 87.0], limits=(0, 100))
    assert (axis.low, axis.high) == (40, 90)
    assert [axis.text(t) for t in axis.ticks] == ["40", "50", "60", "70", "80", "90"]
    axis = svg.logarithmic("images", [100, 5000])
    assert [axis.text(t) for t in axis.ticks] == ["100", "200", "500", "1k", "2k", "5k"]
    axis = svg.logarithmic("images", [0, 500])
    assert [axis.text(t) for t in axis.ticks] == ["0", "1", "10", "100"]
    assert axis.at(0) == pytest.approx(0)
