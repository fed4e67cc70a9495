from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import harness
import numpy as np
import pytest
import torch
from PIL import Image

from fedloge.config import from_flat
from fedloge.data.images.decoding import Decoding
from fedloge.errors import DataError, InputError
from fedloge.federation import Federation
from fedloge.methods.method import Predictor
from fedloge.models.head import LinearHead
from fedloge.results import trained_model
from fedloge.results.export import described
from fedloge.results.prediction import Prediction, Taker


def photo(seed: int, width: int = 40, height: int = 30) -> Image.Image:
    draw = np.random.default_rng(seed)
    return Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of 40x30, some of which stand on their sides by EXIF."""
    root = tmp_path_factory.mktemp("photos")
    turned = Image.Exif()
    turned[0x0112] = 6
    for i, label in enumerate(("cat", "dog", "owl")):
        for split, count in (("train", 3), ("test", 4)):
            (root / split / label).mkdir(parents=True)
            for n in range(count):
                path = root / split / label / f"{n}.png"
                photo(100 * i + 10 * n + len(split)).save(path, exif=turned if n == 1 else None)
    return root


def exported(
    out: Path, image_folder: Path, mask: torch.Tensor | None = None, **keys: object
) -> Federation:
    """An untrained network, exported as a run exports a trained one."""
    flat = {"dataset": "image-folder", "data-path": str(image_folder), "num-clients": 1}
    flat |= {"clients-per-round": 1, "device": "cpu"}
    flat |= {"cache-dir": str(out.parent / "cache"), **keys}
    fed = Federation(from_flat(flat))
    head = fed.net.eval().global_head
    predictor = Predictor(LinearHead(20 * head.weight.detach(), mask=mask))
    packed = trained_model.pack(fed.config, described(fed), fed.net, predictor, {"model": "x"})
    trained_model.write(out, packed)
    return fed


@pytest.fixture(scope="module")
def small(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[trained_model.Model, Federation]:
    """A model of 16 pixels, to which photos are cropped."""
    out = tmp_path_factory.mktemp("export") / "model"
    fed = exported(out, folder, **{"image-size": 16, "resize": "crop"})
    return trained_model.load(out), fed


def test_photos_are_prepared_as_in_training(
    small: tuple[trained_model.Model, Federation], folder: Path
) -> None:
    model, fed = small
    test = fed.data.test
    expected = model(test.inputs).double().softmax(dim=1)
    paths = [folder / origin for origin in fed.data.test_origins]
    found = model.predict(paths, top=3)
    assert [p.source for p in found] == [str(path) for path in paths]
    for one, row in zip(found, expected, strict=True):
        probabilities = dict(zip(one.classes, one.probabilities, strict=True))
        assert [probabilities[c] for c in ("cat", "dog", "owl")] == pytest.approx(
            row.tolist(), abs=1e-6
        )
        assert list(one.probabilities) == sorted(one.probabilities, reverse=True)
        assert one.label == one.classes[0]
    opened = model.predict([Image.open(path) for path in paths], top=3)
    assert [p.probabilities for p in opened] == [p.probabilities for p in found]


def test_pictures_in_memory_are_what_their_files_are(
    small: tuple[trained_model.Model, Federation], tmp_path: Path
) -> None:
    model, _ = small
    image = photo(7)
    image.save(tmp_path / "a.png")
    array = np.asarray(image)
    raw = model.takes.taken(tmp_path / "a.png")
    several = model.predict([tmp_path / "a.png", image, array, raw, raw.numpy()])
    assert len({p.probabilities for p in several}) == 1
    batch = model.predict(torch.stack([raw, raw]))
    assert [p.source for p in batch] == ["input 0", "input 1"]
    assert batch[0].probabilities == pytest.approx(several[0].probabilities)
    grey = model.predict(np.asarray(image.convert("L")))
    assert not grey[0].problem  # as in training, where a grey file becomes RGB


def test_bad_photos_get_a_line_and_the_others_a_prediction(
    small: tuple[trained_model.Model, Federation], tmp_path: Path
) -> None:
    model, _ = small
    photo(1).save(tmp_path / "good.png")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("no picture")
    whole = (tmp_path / "good.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    os.mkfifo(tmp_path / "pipe.png")
    names = ["empty.jpg", "good.png", "text.jpg", "cut.png", "pipe.png", "gone.png"]
    found = model.predict([tmp_path / name for name in names])
    assert [bool(p.problem) for p in found] == [True, False, True, True, True, True]
    for one in found:
        assert "\n" not in one.problem
        if one.problem:
            assert one.problem.startswith(f"{one.source}: ") and not one.classes
            with pytest.raises(DataError):
                _ = one.label
    for number, text in ((0, "empty"), (2, "not an image"), (4, "regular"), (5, "No such file")):
        assert text in found[number].problem


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (np.zeros((30, 40, 3), dtype=np.float32), "expected uint8, bytes from 0 to 255"),
        (torch.rand(3, 16, 16), "expected uint8"),
        (np.zeros((4, 16, 16), dtype=np.uint8), "4x16x16, the model takes RGB images of 16x16"),
        (torch.zeros(1, 16, 16, dtype=torch.uint8), "1x16x16"),
        (np.zeros((16, 16, 4), dtype=np.uint8), "16x16x4"),
    ],
)
def test_what_does_not_fit_is_refused(
    small: tuple[trained_model.Model, Federation], given: object, text: str
) -> None:
    (found,) = small[0].predict([given])  # type: ignore[list-item]
    assert text in found.problem and found.problem.startswith("input 0: ")


def test_a_batch_of_floats_or_of_another_size_is_refused(
    small: tuple[trained_model.Model, Federation],
) -> None:
    model, _ = small
    with pytest.raises(InputError, match=r"expected uint8.*got float32"):
        model(torch.zeros(2, 3, 16, 16))
    with pytest.raises(InputError, match=r"RGB images of 16x16.*got \(2, 3, 8, 8\)"):
        model(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
    for wrong in (3, [None]):
        with pytest.raises(InputError, match="path"):
            model.predict(wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="top"):
        model.predict(photo(1), top=0)


def test_a_training_that_did_not_resize_takes_its_own_size_only(
    folder: Path, tmp_path: Path
) -> None:
    square = tmp_path / "square"
    for path in folder.rglob("*.png"):
        out = square / path.relative_to(folder)
        out.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).resize((16, 16)).save(out)
    exported(tmp_path / "out", square)
    model = trained_model.load(tmp_path / "out")
    (refused,) = model.predict(photo(3, 400, 300))
    assert "has 400x300 pixels, the model takes 16x16" in refused.problem
    (taken,) = model.predict(photo(3, 400, 300), resize="squash")
    (by_hand,) = model.predict(photo(3, 400, 300).resize((16, 16), Image.Resampling.BILINEAR))
    assert taken.probabilities == by_hand.probabilities
    with pytest.raises(InputError, match="expected squash, crop, pad, got 'stretch'"):
        model.predict(photo(3), resize="stretch")


def test_another_resize_than_the_trainings_is_refused(
    small: tuple[trained_model.Model, Federation],
) -> None:
    model, _ = small
    with pytest.raises(InputError, match="resized by 'crop', got 'pad'"):
        model.predict(photo(1), resize="pad")
    assert model.predict(photo(1), resize="crop") == model.predict(photo(1))


def test_a_grey_model_takes_grey_pictures(tmp_path: Path) -> None:
    fed = Federation(harness.tiny(tmp_path))
    predictor = Predictor.of(fed.net.eval().global_head)
    packed = trained_model.pack(fed.config, described(fed), fed.net, predictor, {})
    model = trained_model.unpack(packed)
    digit = fed.data.test.inputs[3]
    Image.fromarray(digit[0].numpy()).save(tmp_path / "digit.png")
    one, two = model.predict([tmp_path / "digit.png", digit])
    assert one.probabilities == two.probabilities and len(one.classes) == 5
    (colour,) = model.predict(photo(1, 8, 8))
    assert "is in colour, the model takes grey images" in colour.problem


def test_masked_classes_are_never_named(folder: Path, tmp_path: Path) -> None:
    mask = torch.tensor([0.0, -torch.inf, 0.0])
    exported(tmp_path / "out", folder, mask, **{"image-size": 16})
    model = trained_model.load(tmp_path / "out")
    assert model.predicted_classes == ["cat", "owl"]
    (found,) = model.predict(photo(2))
    assert set(found.classes) == {"cat", "owl"} and sum(found.probabilities) == pytest.approx(1)


def test_features_are_taken_as_arrays() -> None:
    taker = Taker((4,), torch.float32, Decoding())
    assert taker.taken(np.arange(4.0)).dtype is torch.float32
    for wrong, text in ((np.arange(4), "expected float32"), (photo(1), "give arrays")):
        with pytest.raises(DataError, match=text):
            taker.taken(wrong)


def test_logits_that_are_not_finite_are_no_prediction() -> None:
    found = Prediction.of("x", torch.tensor([1.0, torch.nan]), ["a", "b"], 2)
    assert found.problem == "x: the model's logits are not finite"


def test_the_command(folder: Path, tmp_path: Path) -> None:
    exported(tmp_path / "model", folder, **{"image-size": 16})
    (tmp_path / "bad.png").write_text("x")
    args = ("predict", tmp_path / "model", folder / "test/cat", tmp_path / "bad.png")
    done = harness.fedloge(*args, folder=tmp_path)
    assert done.code == 2 and "Traceback" not in done.err
    assert done.err.strip() == f"{tmp_path / 'bad.png'}: not an image"
    assert len(done.out.splitlines()) == 4 and done.out.count("%") == 12
    table = harness.fedloge(*args, "--csv", "--top", "2", folder=tmp_path)
    rows = list(csv.DictReader(io.StringIO(table.out)))
    assert [Path(row["photo"]).name for row in rows] == [
        "0.png",
        "1.png",
        "2.png",
        "3.png",
        "bad.png",
    ]
    assert rows[0]["class"] in ("cat", "dog", "owl") and float(rows[0]["probability-2"]) <= 0.5
    assert rows[4]["class"] == "" and "not an image" in rows[4]["problem"]
    fine = harness.fedloge(*args[:-1], "--json", folder=tmp_path)
    assert fine.code == 0 and len(json.loads(fine.out)) == 4
    nothing = harness.fedloge("predict", tmp_path, folder / "test/cat", folder=tmp_path)
    assert nothing.code == 2 and "neither an exported model nor a run" in nothing.err
