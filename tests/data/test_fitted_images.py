from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from fedloge.data.examples import DataSet, Examples
from fedloge.data.fitted_images import FittedImages, ImageStandard, fit_images
from fedloge.data.image_preparation import ImagePreparation
from fedloge.data.preparation import preparation_of
from fedloge.errors import ConfigError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shape", [(32, 32), (60, 40), (200, 300)])
def test_images_are_prepared_as_torchvision_does(mode: str, shape: tuple[int, int]) -> None:
    from torchvision.transforms import functional as F
    from torchvision.transforms._presets import ImageClassification

    rng = np.random.default_rng(0)
    # Smooth, as photos are: in noise a pixel's shift by rounding would be another picture.
    coarse = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize(shape[::-1], Image.Resampling.BICUBIC)
    theirs = ImageClassification(
        crop_size=48, resize_size=55, mean=MEAN, std=STD, interpolation=F.InterpolationMode(mode)
    )(image)
    standard = ImageStandard(48, 48 / 55, mode, MEAN, STD)  # type: ignore[arg-type]
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    ours = FittedImages(standard, "none").prepare(pixels)
    assert ours.shape == (1, 3, 48, 48)
    # One grey level is 0.017 of a deviation.
    assert float((ours[0] - theirs).abs().mean()) < 0.02
    assert float((ours[0] - theirs).abs().max()) < 0.1


def test_grey_images_become_rgb_and_empty_sets_stay_empty() -> None:
    standard = ImageStandard(8, 1.0, "bicubic", (0.5,) * 3, (0.5,) * 3)
    prepare = FittedImages(standard, "none").prepare
    pixels = torch.full((2, 1, 8, 8), 255, dtype=torch.uint8)
    assert torch.equal(prepare(pixels), torch.ones(2, 3, 8, 8))
    assert prepare(torch.zeros(0, 1, 5, 5, dtype=torch.uint8)).shape == (0, 3, 8, 8)


def test_squashed_images_keep_their_edges() -> None:
    standard = ImageStandard(8, 1.0, "bilinear", (0.0,) * 3, (1 / 255,) * 3, squash=True)
    pixels = torch.zeros(1, 3, 8, 16, dtype=torch.uint8)
    pixels[..., -4:] = 200
    assert FittedImages(standard, "none").prepare(pixels)[0, 0, 0].tolist()[-1] == 200


def test_a_description_gives_the_same_preparation() -> None:
    standard = ImageStandard(24, 0.9, "bicubic", MEAN, STD)
    made = FittedImages(standard, "crop-flip")
    assert preparation_of(made.described()) == FittedImages(standard, "none")


def test_what_is_no_image_is_refused() -> None:
    vectors = Examples(torch.zeros(3, 5), torch.zeros(3, dtype=torch.int64))
    preparation = ImagePreparation((0.0,), (1.0,), "none")
    data = DataSet("mine", vectors, vectors, ("a", "b"), preparation)
    with pytest.raises(ConfigError, match=r"'mine' have the shape \(5,\) and are float32"):
        fit_images(data, ImageStandard(8, 1.0, "bicubic", MEAN, STD))
