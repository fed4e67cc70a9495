from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from fedloge.errors import GeometryError
from fedloge.geometry import collapse
from fedloge.geometry.collapse import (
    AgreementSums,
    alignment,
    cdnv,
    spread,
    within_between,
)
from fedloge.geometry.feature_sums import FeatureSums
from fedloge.geometry.simplex import simplex_etf

Case = tuple[Tensor, Tensor, Tensor, Tensor]  # features, labels, head's rows, head's bias


def independently(h: Tensor, y: Tensor, w: Tensor, b: Tensor) -> dict[str, float]:
    """Every measure by its definition, example by example and pair by pair, in NumPy."""
    x, labels, rows, bias = (t.numpy().astype(float) for t in (h, y, w, b))
    seen = [c for c in range(len(rows)) if (labels == c).any()]
    mu = {c: np.mean([v for v, k in zip(x, labels, strict=True) if k == c], axis=0) for c in seen}
    s2 = {c: np.mean([((v - mu[c]) ** 2).sum() for v in x[labels == c]]) for c in seen}
    centre = np.mean(list(mu.values()), axis=0)
    m = {c: mu[c] - centre for c in seen}
    norms = np.array([np.sqrt((m[c] ** 2).sum()) for c in seen])
    pairs = list(itertools.combinations(seen, 2))
    z = {c: m[c] / np.sqrt((m[c] ** 2).sum()) for c in seen}
    cos = np.array([z[a] @ z[c] for a, c in pairs])
    kernel = np.array([np.log(1 / np.linalg.norm(z[a] - z[c])) for a, c in pairs])
    within = np.mean(
        [np.outer(v - mu[k], v - mu[k]) for v, k in zip(x, labels, strict=True)], axis=0
    )
    between = np.mean([np.outer(v, v) for v in m.values()], axis=0)
    align = np.array([rows[c] @ m[c] / np.linalg.norm(rows[c]) for c in seen]) / norms
    hits = [
        np.argmax(rows @ v + bias) == min(seen, key=lambda c: ((v - mu[c]) ** 2).sum()) for v in x
    ]

    def nc1(power: int) -> float:
        return float(
            np.mean(
                [(s2[a] + s2[c]) / 2 / np.linalg.norm(mu[a] - mu[c]) ** power for a, c in pairs]
            )
        )

    return {
        "cdnv": nc1(2),
        "cdnv_fourth": nc1(4),
        "within_between": float(
            np.trace(within @ np.linalg.pinv(between, rcond=1e-10)) / len(seen)
        ),
        "norm_cov": float(norms.std() / norms.mean()),
        "log_norm_variance": float(np.log(norms).var()),
        "cos_mean": float(cos.mean()),
        "cos_std": float(cos.std()),
        "cos_distance": float(np.abs(cos + 1 / (len(seen) - 1)).mean()),
        "log_kernel_mean": float(kernel.mean()),
        "log_kernel_variance": float(kernel.var()),
        "alignment_mean": float(align.mean()),
        "alignment_variance": float(align.var()),
        "agreement": float(np.mean(hits)),
    }


def by_sums(sums: FeatureSums, agreement: AgreementSums, w: Tensor) -> dict[str, float]:
    s, a = spread(sums), alignment(sums, w)
    return {
        "cdnv": cdnv(sums),
        "cdnv_fourth": cdnv(sums, power=4),
        "within_between": within_between(sums),
        **vars(s),
        "alignment_mean": a.mean,
        "alignment_variance": a.variance,
        "agreement": agreement.share,
    }


def all_at_once(h: Tensor, y: Tensor, w: Tensor, b: Tensor) -> dict[str, float]:
    sums = FeatureSums.of(h, y, len(w))
    return by_sums(sums, AgreementSums.of(h, h @ w.T + b, sums), w)


def random_case(seed: int, classes: int, dim: int, examples: int) -> Case:
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (examples,), generator=g)
    y[:2] = torch.tensor([0, 1])
    centres = torch.randn(classes, dim, generator=g, dtype=torch.float64)
    h = centres[y] + 0.7 * torch.randn(examples, dim, generator=g, dtype=torch.float64) + 1.5
    w = centres + torch.randn(classes, dim, generator=g, dtype=torch.float64)
    return h, y, w, torch.randn(classes, generator=g, dtype=torch.float64)


def collapsed_case() -> Case:
    """Every feature on its class mean; the means in no special place."""
    _, y, w, b = random_case(1, 6, 9, 50)
    return torch.randn(6, 9, dtype=torch.float64)[y], y, w, b


def simplex_case() -> Case:
    w = simplex_etf(5, 8, gamma=2.0, seed=3).double()
    y = torch.arange(5).repeat(4)
    return w[y] + 0.25, y, w, torch.zeros(5, dtype=torch.float64) - 0.25 * w.sum(dim=1)


def absent_case() -> Case:
    h, y, w, b = random_case(2, 9, 6, 60)
    kept = (y != 3) & (y != 8)
    return h[kept], y[kept], w, b


CASES = {
    "simplex": simplex_case,
    "collapsed": collapsed_case,
    "random": lambda: random_case(0, 7, 12, 80),
    "more classes than features": lambda: random_case(5, 12, 4, 150),
    "absent classes": absent_case,
}


@pytest.mark.parametrize("case", CASES)
def test_every_measure_is_what_its_definition_says(case: str) -> None:
    given = CASES[case]()
    assert all_at_once(*given) == pytest.approx(independently(*given), rel=1e-6, abs=1e-6)


def test_a_simplex_has_collapsed_by_every_measure() -> None:
    found = all_at_once(*simplex_case())
    expected = dict.fromkeys(found, 0.0) | {
        "cos_mean": -1 / 4,
        "log_kernel_mean": 0.5 * math.log(4 / 10),
        "alignment_mean": 1.0,
        "agreement": 1.0,
    }
    assert found == pytest.approx(expected, abs=1e-6)


def test_an_absent_class_is_left_out_and_not_a_zero_vector() -> None:
    h, y, w, b = simplex_case()
    with_room = torch.cat([w, torch.ones(2, 8).double()])
    found = all_at_once(h, y, with_room, torch.cat([b, torch.full((2,), -99.0).double()]))
    assert found == pytest.approx(all_at_once(h, y, w, b), abs=1e-9)


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    classes=st.integers(2, 8),
    dim=st.integers(2, 8),
    owners=st.lists(st.integers(0, 4), min_size=12, max_size=40),
)
def test_batches_and_clients_add_up(seed: int, classes: int, dim: int, owners: list[int]) -> None:
    h, y, w, b = random_case(seed, classes, dim, len(owners))
    owner = torch.tensor(owners)
    sums = FeatureSums.of(h[:0], y[:0], classes)
    for client in range(5):
        mine = FeatureSums.of(h[:0], y[:0], classes)
        for batch in (owner == client).nonzero()[:, 0].split(3):
            mine += FeatureSums.of(h[batch], y[batch], classes)
        sums += mine
    agreement = AgreementSums()
    for client in range(5):
        h_k = h[owner == client]
        agreement += AgreementSums.of(h_k, h_k @ w.T + b, sums)
    assert agreement.examples == len(owners)
    streamed = by_sums(sums, agreement, w)
    assert streamed == pytest.approx(all_at_once(h, y, w, b), rel=1e-6, abs=1e-6, nan_ok=True)


def test_what_cannot_be_measured_is_nan_and_not_zero() -> None:
    one_class = FeatureSums.of(torch.randn(4, 3), torch.full((4,), 2), 5)
    measured = by_sums(one_class, AgreementSums(), torch.ones(5, 3))
    assert all(math.isnan(value) for value in measured.values()), measured
    nothing = FeatureSums.of(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), 5)
    measured = by_sums(nothing, AgreementSums(), torch.ones(5, 3))
    assert all(math.isnan(value) for value in measured.values()), measured


def test_a_zero_row_has_no_alignment_and_spoils_none() -> None:
    h, y, w, _ = simplex_case()
    w[1] = 0
    assert alignment(FeatureSums.of(h, y, 5), w).mean == pytest.approx(1)


def test_without_moments() -> None:
    h, y, *_ = simplex_case()
    plain = FeatureSums.of(h, y, 5, moments=False)
    assert (plain + FeatureSums.of(h, y, 5)).moments is None
    assert cdnv(plain) == cdnv(FeatureSums.of(h, y, 5))
    with pytest.raises(GeometryError, match="second moments"):
        within_between(plain)
    with pytest.raises(GeometryError, match="labels from 0 to 3, got 0 to 4"):
        FeatureSums.of(h, y, 4)


class Whole(nn.Module):
    def __init__(self, backbone: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.backbone(x))
        return out


@pytest.fixture
def parts() -> tuple[nn.Module, nn.Linear, TensorDataset]:
    backbone = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU())
    data = TensorDataset(torch.randn(37, 6), torch.arange(37) % 4)
    return backbone, nn.Linear(5, 4), data


def test_any_network_and_loader(parts: tuple[nn.Module, nn.Linear, TensorDataset]) -> None:
    backbone, head, data = parts
    loader = DataLoader(data, batch_size=10, shuffle=True)
    found = collapse(backbone, loader, head)
    assert backbone.training and backbone[1].num_batches_tracked == 0  # type: ignore[index]
    whole = Whole(backbone, head)
    whole.head.eval()
    same = collapse(whole, loader, head)
    assert whole.training and not whole.head.training
    backbone.eval()
    x, y = data.tensors
    with torch.no_grad():
        h = backbone(x)
    expected = independently(h, y, head.weight.detach(), head.bias.detach())
    for measured in (found, same):
        flat = {
            **vars(measured),
            **vars(measured.spread),
            "alignment_mean": measured.alignment.mean,
            "alignment_variance": measured.alignment.variance,
        }
        assert {key: flat[key] for key in expected} == pytest.approx(expected, rel=1e-6, abs=1e-6)
        assert measured.classes_seen == 4


def test_agreement_on_examples_held_out(
    parts: tuple[nn.Module, nn.Linear, TensorDataset],
) -> None:
    backbone, head, data = parts
    backbone.eval()
    loader, held_out = [data[:20]], [data[20:30], data[30:]]
    found = collapse(backbone, loader, head, held_out=held_out)
    with torch.no_grad():
        h = backbone(data.tensors[0])
        sums = FeatureSums.of(h[:20], data.tensors[1][:20], 4)
        expected = AgreementSums.of(h[20:], head(h[20:]), sums)
    assert found.agreement == expected.share and expected.examples == 17


def test_loaders_and_networks_that_do_not_fit(
    parts: tuple[nn.Module, nn.Linear, TensorDataset],
) -> None:
    backbone, head, data = parts

    def once() -> Iterator[tuple[Tensor, Tensor]]:
        yield data[:]

    with pytest.raises(GeometryError, match="starts anew"):
        collapse(backbone, once(), head)
    with pytest.raises(GeometryError, match="a batch or more"):
        collapse(backbone, [], head)
    with pytest.raises(GeometryError, match=r"\(examples, 7\).*got \(37, 5\)"):
        collapse(backbone, [data[:]], nn.Linear(7, 4))
    assert backbone.training
