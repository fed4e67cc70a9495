from __future__ import annotations

import json
from pathlib import Path

import harness
import pytest
import torch
from PIL import Image

from fedloge.data.examples import Examples
from fedloge.digest import digest
from fedloge.errors import DataError, InputError
from fedloge.federation import open_federation
from fedloge.geometry.realignment import absent_mask, local_realign
from fedloge.learning.client_data import ClientData
from fedloge.results import trained_model
from fedloge.results.export import export_client, export_global
from fedloge.results.personalize import base_of, base_of_run, personalize
from fedloge.results.run import Run, open_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    folder = tmp_path_factory.mktemp("runs")
    methods = ("fedloge", "fedavg", "fedper")
    return {
        m: open_run(harness.run_local(harness.tiny(folder, m, method=m, rounds=8))) for m in methods
    }


def newcomer(run: Run, classes: tuple[int, ...] = (0, 1, 2, 7)) -> tuple[Examples, Examples]:
    """Digits of some classes: 20 to train on and 10 to test on of each."""
    data = open_federation(run.config).data
    train = torch.cat([(data.train.labels == c).nonzero()[-20:, 0] for c in classes])
    test = torch.cat([(data.test.labels == c).nonzero()[:10, 0] for c in classes])
    return data.train.take(train), data.test.take(test)


def content(folder: Path) -> dict[str, str]:
    return {str(p): digest(p.read_bytes()) for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_head_is_the_local_steps_and_realigned(runs: dict[str, Run]) -> None:
    """By hand: the same local update on the same draws, then LA-FR with psi as the server has it."""
    run = runs["fedloge"]
    base, (train, test) = base_of_run(run), newcomer(run)
    before = content(run.path)
    made = personalize(base, train, test)
    assert content(run.path) == before and made.train == 80 and made.test == 40

    counts = torch.bincount(train.labels, minlength=10)
    method, net = base.method, base.method.build()
    net.load_state_dict(dict(base.shared) | dict(base.initial), strict=False)
    data = ClientData(4, 9, base.config, train, counts, base.preparation, base.shared)
    from fedloge.rng import torch_seeded

    with torch_seeded(base.config.seed, "local-update", 9, 4):
        method.local_update(net, data)
    phi = net.local_head.weight.detach()
    psi = base.shared["global_head.weight"]
    weight, mask = local_realign(psi, phi), absent_mask(counts)
    features = trained_model.unpack(made.packed).net.backbone(base.preparation.prepare(test.inputs))
    expected = features @ weight.T + mask
    torch.testing.assert_close(made.model(test.inputs), expected, atol=1e-5, rtol=1e-5)
    assert made.model.predicted_classes == ["0", "1", "2", "7"] == list(made.classes)

    # Untrained, it predicts with psi at psi's own norms, masked by its classes.
    untrained = features @ psi.T + mask
    torch.testing.assert_close(made.guesses["untrained"].logits, untrained, atol=1e-5, rtol=1e-5)
    shared = run.model("global")(test.inputs)
    torch.testing.assert_close(made.guesses["shared"].logits, shared, atol=1e-5, rtol=1e-5)


def test_an_exported_global_model_gives_the_same(runs: dict[str, Run], tmp_path: Path) -> None:
    """So neither the run nor its data are needed where the new client is."""
    run, pair = runs["fedloge"], newcomer(runs["fedloge"])
    export_global(run, tmp_path / "out")
    before = content(tmp_path)
    one, two = (personalize(base_of(p), *pair, rounds=2) for p in (tmp_path / "out", run.path))
    assert content(tmp_path) == before
    assert one.figures == two.figures and one.packed.weights == two.packed.weights
    assert one.packed.manifest == two.packed.manifest
    once = personalize(base_of_run(run), *pair)
    assert once.packed.weights != two.packed.weights


@pytest.mark.parametrize(
    ("method", "stages"),
    [
        ("fedloge", ["shared", "untrained", "personalized"]),
        ("fedavg", ["shared", "personalized"]),
        ("fedper", ["untrained", "personalized"]),
    ],
)
def test_before_and_after(runs: dict[str, Run], method: str, stages: list[str]) -> None:
    base = base_of_run(runs[method])
    made = personalize(base, *newcomer(runs[method]), rounds=5 if base.initial else 1)
    assert list(made.figures) == stages
    first, last = made.figures[stages[0]], made.figures["personalized"]
    # A new phi only gives its norms to psi, which may turn no guess over; other heads learn from nothing.
    assert last["accuracy"] > first["accuracy"] or method == "fedloge"
    assert last["ece"] != first["ece"]
    assert last.keys() >= {"accuracy", "recall", "macro-f1", "auroc", "ece"}


def test_without_test_images_some_are_held_out(runs: dict[str, Run]) -> None:
    base, (train, _) = base_of_run(runs["fedloge"]), newcomer(runs["fedloge"])
    made = personalize(base, train)
    assert (made.train, made.test, made.held_out) == (64, 16, True)
    unmeasured = personalize(base, train, test_share=0)
    assert (unmeasured.train, unmeasured.test, unmeasured.figures) == (80, 0, {})


def test_what_makes_no_sense_is_refused(runs: dict[str, Run], tmp_path: Path) -> None:
    base, pair = base_of_run(runs["fedavg"]), newcomer(runs["fedavg"])
    with pytest.raises(InputError, match=r"'fedavg' keeps nothing .* got 2"):
        personalize(base, *pair, rounds=2)
    with pytest.raises(InputError, match="test-share"):
        personalize(base, *pair, test_share=1)
    export_client(runs["fedloge"], 1, tmp_path / "own")
    with pytest.raises(InputError, match="a client's own model"):
        base_of(tmp_path / "own")
    (tmp_path / "photos/eleven").mkdir(parents=True)
    with pytest.raises(InputError, match="class 'eleven'"):
        personalize(base, tmp_path / "photos")
    (tmp_path / "photos/eleven").rename(tmp_path / "photos/1")
    with pytest.raises(DataError, match="no image to train on"):
        personalize(base, tmp_path / "photos")
    for name in ("a.png", "b.png"):
        (tmp_path / "photos/1" / name).write_text("x")
    with pytest.raises(DataError, match=r"2 of 2 images cannot be used: .*a\.png not an image"):
        personalize(base, tmp_path / "photos")


def test_the_command_on_a_folder_of_pictures(runs: dict[str, Run], tmp_path: Path) -> None:
    train, test = newcomer(runs["fedloge"])
    for split, examples in (("train", train), ("test", test)):
        for i, (pixels, label) in enumerate(zip(examples.inputs, examples.labels, strict=True)):
            place = tmp_path / "site" / split / str(int(label))
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[0].numpy()).save(place / f"{i:03}.png")
    run = runs["fedloge"].path
    done = harness.fedloge("personalize", run, "--data", tmp_path / "site", folder=tmp_path)
    assert done.code == 0, done.err
    assert "80 images of 4 of 10 classes" in done.out and "40 test images of its own" in done.out
    assert "before training" in done.out
    again = harness.fedloge(
        "personalize", run, "--data", tmp_path / "site", "--json", folder=tmp_path
    )
    said = json.loads(again.out)
    assert said["folder"] == "fedloge-site-2" and (tmp_path / "fedloge-site").is_dir()
    direct = personalize(base_of(run), train, test)
    assert said["personalized"] == pytest.approx(direct.figures["personalized"])
    asked = harness.fedloge(
        "predict", tmp_path / "fedloge-site", tmp_path / "site/test/7", folder=tmp_path
    )
    assert asked.code == 0 and "predicts 4 of 10 classes" in asked.out
