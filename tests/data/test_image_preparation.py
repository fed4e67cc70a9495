from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloge.data import ImagePreparation, augment, normalise, preparation_of
from fedloge.data.image_preparation import channel_statistics, crop_padding


def images(n: int, side: int, channels: int = 3) -> torch.Tensor:
    drawn = np.random.default_rng(0).integers(1, 256, (n, channels, side, side), dtype=np.uint8)
    return torch.from_numpy(drawn)


def naive(pixels: np.ndarray, kind: str, rng: np.random.Generator) -> np.ndarray:
    """The same, an image at a time."""
    n, _, height, width = pixels.shape
    pad = crop_padding(height, width)
    offsets = rng.integers(0, 2 * pad + 1, size=(n, 2))
    flips = rng.random(n) < 0.5 if kind == "crop-flip" else np.zeros(n, bool)
    out = np.empty_like(pixels)
    for i, (image, (top, left), flip) in enumerate(zip(pixels, offsets, flips, strict=True)):
        padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad)))
        cropped = padded[:, top : top + height, left : left + width]
        out[i] = cropped[:, :, ::-1] if flip else cropped
    return out


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(0, 9),
    channels=st.sampled_from([1, 3]),
    height=st.integers(1, 33),
    width=st.integers(1, 33),
    kind=st.sampled_from(["crop", "crop-flip"]),
    seed=st.integers(0, 99),
)
def test_a_batch_is_augmented_as_its_images_one_by_one(n, channels, height, width, kind, seed):
    pixels = np.random.default_rng(1).integers(0, 256, (n, channels, height, width), np.uint8)
    given_pixels = pixels.copy()
    out = augment(torch.from_numpy(pixels), kind, np.random.default_rng(seed))
    assert out.dtype == torch.uint8
    assert np.array_equal(out.numpy(), naive(pixels, kind, np.random.default_rng(seed)))
    assert np.array_equal(pixels, given_pixels)


def test_none_changes_nothing_and_draws_nothing() -> None:
    generator = np.random.default_rng(0)
    before = generator.bit_generator.state
    assert torch.equal(augment(images(5, 8), "none", generator), images(5, 8))
    assert generator.bit_generator.state == before


def test_all_crops_and_both_flips_occur() -> None:
    # A lone bright pixel in the middle shows where the image went: +-1 for a small image.
    pixels = torch.zeros(2000, 1, 5, 5, dtype=torch.uint8)
    pixels[:, :, 2, 1] = 255
    out = augment(pixels, "crop-flip", np.random.default_rng(0))
    places = out[:, 0].nonzero()[:, 1:]
    rows, columns = places.T
    assert len(places) == 2000
    assert rows.unique().tolist() == [1, 2, 3]
    # Unflipped 0..2, flipped 2..4: each of the six a sixth, the shared one a third.
    share = torch.bincount(columns, minlength=5) / 2000
    assert torch.allclose(share, torch.tensor([1, 1, 2, 1, 1]) / 6, atol=0.04)


@pytest.mark.parametrize(("side", "padding"), [(8, 1), (15, 1), (16, 4), (32, 4)])
def test_padding(side, padding) -> None:
    assert crop_padding(side, side) == padding
    assert crop_padding(side, 100) == padding


def test_normalise_by_hand() -> None:
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 2, 1, 1)
    out = normalise(pixels, (0.0, 0.5), (1.0, 0.25))
    assert out.dtype == torch.float32
    expected = torch.tensor([[0.0, -2.0], [0.2, -1.2], [1.0, 2.0]])
    assert torch.allclose(out.view(3, 2), expected, atol=1e-6)


def test_a_preparation_augments_as_it_says_and_normalises() -> None:
    crop = ImagePreparation((0.5,) * 3, (0.25,) * 3, "crop")
    varied = crop.augment(images(9, 8), np.random.default_rng(3))
    assert torch.equal(varied, augment(images(9, 8), "crop", np.random.default_rng(3)))
    assert not torch.equal(varied, images(9, 8))
    prepared = crop.prepare(images(9, 8))
    assert torch.equal(prepared, normalise(images(9, 8), (0.5,) * 3, (0.25,) * 3))
    assert prepared.is_contiguous(memory_format=torch.channels_last)


def test_a_model_that_is_used_elsewhere_normalises_but_does_not_augment() -> None:
    crop = ImagePreparation((0.1, 0.2, 0.3), (1.0, 0.5, 0.25), "crop-flip")
    again = preparation_of(json.loads(json.dumps(crop.described())))
    assert again == ImagePreparation(crop.mean, crop.std, "none")
    assert torch.equal(again.prepare(images(2, 8)), crop.prepare(images(2, 8)))


def test_channel_statistics() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 3, 5, 4), dtype=np.uint8)
    pixels[:, 2] = 7
    mean, std = channel_statistics(pixels)
    scaled = pixels / 255
    assert mean == pytest.approx(scaled.mean((0, 2, 3)), abs=1e-14)
    assert std[:2] == pytest.approx(scaled.std((0, 2, 3))[:2], abs=1e-14)
    assert std[2] == 1, "a constant channel can still be divided by"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_the_device_makes_no_difference() -> None:
    on_cpu = augment(images(64, 32), "crop-flip", np.random.default_rng(0))
    on_gpu = augment(images(64, 32).cuda(), "crop-flip", np.random.default_rng(0))
    assert on_gpu.is_cuda
    assert torch.equal(on_cpu, on_gpu.cpu())
