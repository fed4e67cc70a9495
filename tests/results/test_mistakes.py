from __future__ import annotations

import base64
import io
import json
import re
import stat
from pathlib import Path

import harness
import numpy as np
import pytest
import torch
from page_parser import Page
from PIL import Image
from sklearn.metrics import f1_score, precision_score, recall_score, roc_auc_score

from fedloge.errors import InputError
from fedloge.federation import open_federation
from fedloge.results.mistakes import Mistakes, find_mistakes
from fedloge.results.report.mistakes_page import render_mistakes
from fedloge.results.run import Run, open_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    config = harness.tiny(tmp_path_factory.mktemp("runs"), rounds=3, evaluate_every=3)
    return open_run(harness.run_local(config))


@pytest.fixture(scope="module")
def of_client(run: Run) -> Mistakes:
    return find_mistakes(run, 2)


def test_figures_are_those_on_record(run: Run, of_client: Mistakes) -> None:
    line = next(row for row in harness.lines(run.path, "clients") if row["client"] == 2)
    for name, value in of_client.figures.items():
        assert line[f"personal/realigned/{name}"] == pytest.approx(value, abs=1e-6)
    assert len(of_client.guesses) == line["num-test"]
    everybody = find_mistakes(run)
    assert everybody.model == "global/realigned" and everybody.client is None
    assert run.metric_lines[-1]["global/realigned/all"] == everybody.figures["accuracy"]


def test_each_class_is_what_scikit_learn_says(of_client: Mistakes) -> None:
    labels, first = of_client.guesses.labels.numpy(), of_client.guesses.first.numpy()
    probabilities = of_client.guesses.probabilities.numpy()
    kinds = (recall_score, precision_score, f1_score)
    expected = [f(labels, first, labels=range(10), average=None, zero_division=0) for f in kinds]
    for c, one in enumerate(of_client.by_class):
        for value, of_all in zip((one.sensitivity, one.precision, one.f1), expected, strict=True):
            assert np.nan_to_num(value) == pytest.approx(of_all[c])
        if 0 < one.test < len(labels):
            assert one.auroc == pytest.approx(
                roc_auc_score(labels == c, probabilities[:, c]), abs=1e-6
            )
    assert sum(one.right for one in of_client.by_class) + of_client.wrong == len(labels)


def test_the_most_confident_mistakes_come_first(run: Run, of_client: Mistakes) -> None:
    sure = [one.confidence for one in of_client.worst]
    assert len(sure) == min(48, of_client.wrong) > 1 and sure == sorted(sure, reverse=True)
    fed = open_federation(run.config)
    for one in of_client.worst[:5]:
        row = int(one.source.removeprefix("digits/"))
        place = fed.data.test_origins.index(f"digits/{row}")
        assert one.true == str(int(fed.data.test.labels[place])) != one.guess
        assert one.picture is not None
        assert torch.equal(torch.from_numpy(one.picture), fed.data.test.inputs[place])
    assert len(find_mistakes(run, 2, most=3).worst) == 3


def test_pairs_are_the_largest_cells_beside_the_diagonal(of_client: Mistakes) -> None:
    pairs = of_client.pairs(4)
    off = of_client.confusion - np.diag(of_client.confusion.diagonal())
    assert [n for _, _, n in pairs] == sorted(off.ravel().tolist(), reverse=True)[:4]
    for true, guess, n in pairs:
        assert off[int(true), int(guess)] == n


def test_the_page_stands_alone_and_shows_the_images(of_client: Mistakes) -> None:
    page = render_mistakes(of_client)
    parsed = Page(page)
    assert (
        all(link.startswith(("data:", "#")) for link in parsed.links)
        and "script" not in parsed.names
    )
    found = re.findall(r'<img src="data:image/png;base64,([^"]+)"', page)
    assert len(found) == len(of_client.worst)
    first = np.asarray(Image.open(io.BytesIO(base64.b64decode(found[0]))))
    assert of_client.worst[0].picture is not None
    assert np.array_equal(first, of_client.worst[0].picture[0])
    assert of_client.worst[0].source in page and "holds test images" in page
    by_class = next(table for table in parsed.tables if table[0][0] == "class")
    assert [row[0] for row in by_class[1:]] == of_client.classes


def test_names_of_classes_are_escaped(of_client: Mistakes) -> None:
    import dataclasses

    bad = [dataclasses.replace(one, name=f"<b>{one.name}") for one in of_client.by_class]
    page = render_mistakes(dataclasses.replace(of_client, by_class=bad))
    assert "<b>" not in page and "&lt;b&gt;" in page


def test_the_command_and_its_private_page(run: Run, tmp_path: Path) -> None:
    done = harness.fedloge("mistakes", run.path, "--client", "2", "--json", folder=tmp_path)
    assert done.code == 0, done.err
    said = json.loads(done.out)
    page = Path(said["page"])
    assert page == run.files.mistakes(2) and page.is_file()
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    assert said["wrong"] == sum(map(sum, said["confusion"])) - sum(
        row[i] for i, row in enumerate(said["confusion"])
    )
    page.chmod(0o644)
    run.mistakes(2)
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    nobody = harness.fedloge("mistakes", run.path, "--client", "9", folder=tmp_path)
    assert nobody.code == 2 and "client 9" in nobody.err


def test_a_client_without_test_images_has_no_mistakes(tmp_path: Path) -> None:
    """A hundredth of some thirty images is none."""
    own = {"test_split": "own", "test_share": 0.01}
    run = open_run(harness.run_local(harness.tiny(tmp_path, num_clients=12, rounds=1, **own)))
    with pytest.raises(InputError, match="client 3 has no test images"):
        find_mistakes(run, 3)


def test_images_of_clients_that_test_on_their_own_are_named(tmp_path: Path) -> None:
    """They are training examples of the data set that nobody trains on."""
    run = open_run(harness.run_local(harness.tiny(tmp_path, rounds=1, test_split="own")))
    found, data = find_mistakes(run, 1), open_federation(run.config).data
    assert found.worst
    for one in found.worst:
        place = data.train_origins.index(one.source)
        assert data.classes[int(data.train.labels[place])] == one.true
        assert torch.equal(torch.from_numpy(one.picture), data.train.inputs[place])
