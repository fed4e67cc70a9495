from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from page_parser import Page, check_page

from fedloge.results.report import render, render_card, write_report
from fedloge.results.run import open_run

Make = Callable[..., Path]

FEDPER: dict[str, Any] = {
    "method": "fedper",
    "predictors": {"global": (), "personal": ("raw",)},
    "primary": {"global": None, "personal": "raw"},
    "prototypes": False,
}
FEDAVG: dict[str, Any] = {
    "method": "fedavg",
    "predictors": {"global": ("raw",), "personal": ("raw", "tuned")},
    "primary": {"global": "raw", "personal": "tuned"},
    "prototypes": False,
}


@pytest.fixture(autouse=True)
def no_warnings() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


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
        "Best on test (picked on the test set, so no estimate): global/realigned/all 45.0 %" in said
    )
    assert page.table("model", "when", "all") == [
        ["realigned ★", "round 20", "42.3", "13.8"],
        ["", "mean of 2", "43.7", "–"],
    ]
    assert page.table("model", "when", "mean")[0] == ["realigned ★", "round 20", "72.9", "50.6"]
    assert open_run(folder).fingerprint in said


def test_every_section_of_a_whole_run(make_run: Make) -> None:
    failures = [{"round": 2, "client": 1, "reason": "no answer"}] * 30
    run = open_run(make_run(rounds=20, clients=12, failures=failures))
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
        "Accuracy against a client’s training images",
        "Classes and the fixed classifier",
        "Accuracy of each class",
        "Norms of the global head",
        "Pairwise cosines of the fixed classifier",
        "Calibration",
        "Global model (realigned), test images",
        "Time and traffic",
        "Seconds per round",
        "Failures",
        "Every evaluation",
        "Configuration",
    ]
    said = page.said()
    assert "30 failures on 1 client." in said
    assert "probes = calibration" in said
    beside = page.table("model", "mean recall", "macro F1", "AUROC", "ECE")
    assert [row[0] for row in beside][-2:] == ["personal raw", "personal realigned ★"]
    assert beside[0][4] == "10.0"
    # Of the invented sums 80 % of each bin's confidence are right.
    assert "on average the model is" in said
    assert "−1/(C−1) = −0.3333" in page.drawn["Pairwise cosines of the fixed classifier"]
    assert "fixed classifier: 0.1 in every class" in page.drawn["Norms of the global head"]
    assert page.table("reason", "times") == [["no answer", "30"]]
    assert len(page.table("round", "client", "reason")) == 20
    assert ["num-clients", "12", "20"] in page.table("key", "value", "default")


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
    assert "Accuracy of each class" in page.titles


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
    assert "Not like for like: the runs differ in rounds (20: loge and 1 more, 15: per)" in said
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
        assert "b" not in page.names
        assert "alert('x')" in page.said()
    card = Page(render_card(run))
    assert "script" not in card.names and "b" not in card.names


def test_large_federation_stays_small(make_run: Make) -> None:
    run = open_run(
        make_run(rounds=400, clients=300, classes=250, dim=64, largest=900, evaluate_every=4)
    )
    page = check_page(render([run]), most=700_000)
    assert "60 of 300 clients, evenly spaced by size, largest first." in page.said()
    assert "250 classes in 100 rows of classes of like size; means." in page.said()


def test_a_page_needs_a_run() -> None:
    with pytest.raises(ValueError, match="at least one run"):
        render([])


def edited(folder: Path, **changes: Any) -> Path:
    """Change ``run.json``."""
    path = folder / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def test_a_mean_says_over_how_many_clients_it_is(make_run: Make) -> None:
    folder = make_run(clients=12)
    path = folder / "clients.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if line["client"] < 5:
            line["num-test"] = 0
            line.pop("personal/realigned/accuracy")
    path.write_text("".join(json.dumps(line) + "\n" for line in lines if line["client"] != 11))
    said = check_page(render([open_run(folder)])).said()
    images = sum(
        line["num-test"] for line in lines if 5 <= line["client"] < 11 and line["round"] == 20
    )
    whom = "over 6 of 12 clients (5 have no test images, 1 did not answer) with"
    assert f"{whom} {images:,} test images (95 % interval over clients " in said


def test_only_a_long_tail_has_an_imbalance_factor(make_run: Make) -> None:
    assert "(exponential tail, imbalance factor 0.02)" in render([open_run(make_run("a"))])
    page = check_page(render([open_run(make_run("b", long_tail="none"))]))
    assert "tail" not in dict(page_facts(page))["Data"]


def test_a_split_is_said_with_the_options_it_was_made_with(make_run: Make) -> None:
    page = check_page(render([open_run(make_run("a"))]))
    assert dict(page_facts(page))["Split"] == "dirichlet (alpha = 0.5) over 6 clients"
    keys = {"partitioner-options": {"alpha": 2.0}}
    page = check_page(render([open_run(make_run("b", keys=keys))]))
    assert dict(page_facts(page))["Split"] == "dirichlet (alpha = 2.0) over 6 clients"


def page_facts(page: Page) -> list[tuple[str, str]]:
    words = [text.strip() for text in page.text if text.strip()]
    start, end = words.index("What was run"), words.index("Curves")
    return list(zip(words[start + 1 : end : 2], words[start + 2 : end : 2], strict=True))


def test_images_that_lie_with_the_clients(make_run: Make) -> None:
    """No counts by class and no test images at the server: nothing empty is drawn, and it is said."""
    own = {
        "dataset": "image-folder",
        "long-tail": "none",
        "image-size": 8,
        "partitioner": "on-node",
        "partitioner-options": {"classes": ["0", "1", "2", "3"]},
    }
    folder = make_run("own", predictors={"global": (), "personal": ("raw", "realigned")}, keys=own)
    edited(folder, **{"train-counts": [0] * 4, "groups": [0] * 4, "test-counts": [0] * 4})
    (folder / "split.safetensors").unlink()
    (folder / "classes.jsonl").unlink()
    page = check_page(render([open_run(folder)]))
    said = page.said()
    assert "How many images of each class the clients hold is not known here" in said
    assert "The server has no test images, so the global model was not measured." in said
    absent = {"Training images by class and client", "Class sizes, largest first", "Global model"}
    absent |= {"Personal models by class size", "Accuracy of each class"}
    assert not absent & set(page.titles)
    # The clients tell how many images they have in all.
    assert "Client sizes, largest first" in page.titles
    assert page.table("model", "when", "mean")
    assert not {"many", "medium", "few"} & set(page.tables[0][0])
    assert "Many, medium and few" not in said
    facts = dict(page_facts(page))
    assert facts["Split"] == "none: the images lie with the 6 clients already"
    assert "per class" not in facts["Data"] and "tail" not in facts["Data"]


def test_a_page_is_the_same_twice(make_run: Make) -> None:
    folder = make_run()
    assert render([open_run(folder)]) == render([open_run(folder)])


def test_a_card_for_a_notebook(make_run: Make) -> None:
    page = Page(open_run(make_run())._repr_html_())
    assert "After round 20 of 20" in page.said() and page.spoken
    early = Page(open_run(make_run("early", done=2))._repr_html_())
    assert "No round has been evaluated yet" in early.said() and not early.spoken
