"""Outputs of a frozen network are computed once, and have the same bits however they come about."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fedloge.data import ImagePreparation
from fedloge.errors import ConfigError, RunError
from fedloge.models import Keeper, build_backbone

CPU = torch.device("cpu")
PREPARATION = ImagePreparation((0.5,) * 3, (0.5,) * 3, "none")


def pixels(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=generator)


class Counting(nn.Module):
    """A small network that counts its passes, and may stop in the middle as a kill does."""

    def __init__(self, until: int = 10**9) -> None:
        super().__init__()
        self.net = build_backbone("resnet8", (3, 16, 16), seed=0).eval()
        self.passes, self.until = 0, until

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        if self.passes > self.until:
            raise KeyboardInterrupt
        return self.net(x)


def keeper(folder: Path, net: nn.Module, views: int = 1) -> Keeper:
    return Keeper(net, "resnet8 up to features", PREPARATION, views, folder, CPU)


def test_they_are_the_networks_own(tmp_path: Path) -> None:
    net, images = Counting(), pixels(70)
    kept = keeper(tmp_path, net).outputs(images)
    assert kept.shape == (70, 1, 64) and kept.dtype == torch.float16
    expected = net.net(PREPARATION.prepare(images))
    torch.testing.assert_close(kept[:, 0].float(), expected, rtol=2e-3, atol=1e-4)


def test_they_are_computed_once(tmp_path: Path) -> None:
    net, images = Counting(), pixels(70)
    first = keeper(tmp_path, net).outputs(images)
    passes = net.passes
    assert torch.equal(keeper(tmp_path, net).outputs(images), first)
    assert net.passes == passes
    # Other images, weights, views: other outputs.
    keeper(tmp_path, net).outputs(pixels(70, seed=1))
    assert net.passes == 2 * passes
    keeper(tmp_path, net, views=2).outputs(images)
    assert net.passes == 4 * passes
    with torch.no_grad():
        next(net.parameters()).add_(1)
    assert not torch.equal(keeper(tmp_path, net).outputs(images), first)


def test_an_image_has_the_same_bits_in_any_company(tmp_path: Path) -> None:
    net, images = Counting(), pixels(130)
    whole = keeper(tmp_path, net).outputs(images)
    for part in (slice(0, 1), slice(64, 71), slice(100, 130)):
        assert torch.equal(keeper(tmp_path, net).outputs(images[part].clone()), whole[part])


def test_the_second_view_is_the_mirrored_image(tmp_path: Path) -> None:
    net, images = Counting(), pixels(9)
    both = keeper(tmp_path, net, views=2).outputs(images)
    assert torch.equal(both[:, :1], keeper(tmp_path, net).outputs(images))
    assert torch.equal(both[:, 1:], keeper(tmp_path, net).outputs(images.flip(-1)))


def test_an_interrupted_computation_goes_on(tmp_path: Path) -> None:
    images = pixels(64 * 5 + 3)
    expected = keeper(tmp_path / "whole", Counting()).outputs(images)
    with pytest.raises(KeyboardInterrupt):
        keeper(tmp_path, Counting(until=4)).outputs(images)
    # A torn row at the end, as a kill leaves it.
    (torn,) = tmp_path.glob("*.partial/values.float16")
    with torn.open("ab") as file:
        file.write(b"half a row")
    again = Counting()
    assert torch.equal(keeper(tmp_path, again).outputs(images), expected)
    # One pass for the shape, and three of six batches were there.
    assert again.passes == 1 + 3
    assert not list(tmp_path.glob("*.partial"))


def test_a_damaged_entry_is_made_anew(tmp_path: Path) -> None:
    images = pixels(70)
    expected = keeper(tmp_path, Counting()).outputs(images).clone()
    (values,) = tmp_path.glob("features-*/values.float16")
    values.write_bytes(values.read_bytes()[:-7])
    assert torch.equal(keeper(tmp_path, Counting()).outputs(images), expected)


class Times(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :4] * self.factor


def test_what_float16_cannot_hold_is_kept_in_float32(tmp_path: Path) -> None:
    images = pixels(3)
    kept = keeper(tmp_path, Times(1e6)).outputs(images)
    assert kept.dtype == torch.float32
    assert torch.equal(kept[:, 0], PREPARATION.prepare(images).flatten(1)[:, :4] * 1e6)
    with pytest.raises(ConfigError, match="its weights give features that are not finite"):
        keeper(tmp_path, Times(torch.inf)).outputs(images)


def test_no_images_have_a_shape_too(tmp_path: Path) -> None:
    assert keeper(tmp_path, Counting()).outputs(pixels(0)).shape == (0, 1, 64)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"file.* cannot be written .*set cache-dir"):
        keeper(tmp_path / "file/cache", Counting()).outputs(pixels(3))


def test_of_two_at_once_one_computes(tmp_path: Path) -> None:
    """The lock is the file's, so threads stand for processes here."""
    nets = Counting(), Counting()
    with ThreadPoolExecutor(2) as both:
        one, other = both.map(lambda net: keeper(tmp_path, net).outputs(pixels(200)), nets)
    assert sorted(net.passes for net in nets) == [0, 5]
    assert torch.equal(one, other)


def test_a_long_computation_is_announced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fedloge.models import kept_outputs

    monkeypatch.setattr(kept_outputs, "_LONG", -1.0)
    with caplog.at_level(logging.WARNING):
        keeper(tmp_path, Counting()).outputs(pixels(70))
    assert len(caplog.messages) == 1
    assert "for 70 examples are computed once" in caplog.messages[0]
