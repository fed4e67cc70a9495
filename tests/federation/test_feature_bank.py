from __future__ import annotations

from pathlib import Path

import harness
import pytest
import torch
from torch import Tensor

from fedloge.data import Examples
from fedloge.federation import Federation
from fedloge.federation.feature_bank import FeatureBank
from fedloge.learning.client_data import EVALUATION_BATCH


class Extractor:
    """Two features an image, and how many images it was asked for."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor, self.calls, self.images = factor, 0, 0

    def __call__(self, images: Tensor) -> Tensor:
        self.calls += 1
        self.images += len(images)
        flat = images.flatten(1)
        return torch.stack([flat.sum(1), flat[:, 0]], dim=1) * self.factor


@pytest.fixture
def bank() -> FeatureBank:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (600, 1, 4, 4), generator=generator, dtype=torch.uint8)
    labels = torch.arange(600) % 3
    return FeatureBank(Examples(pixels, labels), lambda p: p.float())


def test_features_are_those_of_the_images_asked_for(bank: FeatureBank) -> None:
    indices = torch.tensor([599, 0, 300, 300, 255, 256])
    expected = Extractor()(bank.examples.inputs[indices].float())
    assert torch.equal(bank.features("v1", Extractor(), indices), expected)
    assert torch.equal(bank.fresh(Extractor(), indices), expected)


def test_each_image_is_computed_once_and_only_where_asked(bank: FeatureBank) -> None:
    extract = Extractor()
    bank.features("v1", extract, torch.tensor([3, 5]))
    assert (extract.calls, extract.images) == (1, EVALUATION_BATCH)
    bank.features("v1", extract, torch.tensor([9, 200]))
    assert extract.calls == 1
    bank.features("v1", extract, torch.arange(600))
    assert (extract.calls, extract.images) == (3, 600)


def test_a_new_version_is_computed_anew(bank: FeatureBank) -> None:
    indices = torch.tensor([7, 450])
    first = bank.features("v1", Extractor(), indices)
    assert torch.equal(bank.features("v2", Extractor(3.0), indices), first * 3)
    assert torch.equal(bank.features("v1", Extractor(), indices), first)


def test_who_else_asks_does_not_change_an_images_bits(tmp_path: Path) -> None:
    """A batch of another size may round otherwise, so batches are the bank's, not the asker's."""
    fed = Federation(harness.tiny(tmp_path))
    net = fed.net.eval()

    def extract(images: Tensor) -> Tensor:
        return fed.method.features(net, images)

    alone = fed.bank.features("a", extract, torch.tensor([17]))
    among = fed.bank.features("b", extract, torch.arange(len(fed.test)))
    assert torch.equal(alone[0], among[17])
    assert torch.allclose(fed.bank.fresh(extract, torch.tensor([17])), alone, atol=1e-5)


def test_nothing_asked_for_is_nothing_computed(bank: FeatureBank) -> None:
    extract = Extractor()
    assert len(bank.features("v1", extract, torch.empty(0, dtype=torch.int64))) == 0
    assert extract.calls == 0
