from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fedloge.data.speeches import load_speeches
from fedloge.geometry.prototypes import prototypes
from fedloge.labs import LABS, frame_lab, language_lab
from fedloge.labs.law_lab import COUNTS, split
from fedloge.labs.small_federation import dirichlet_parts, federated


def test_the_law_holds_at_one_place_and_for_equal_clients() -> None:
    found, figure = LABS["collapse"].run(0)
    rows = "largest gap of the rows"
    gaps = {f.what.partition(", ")[2]: f.measured for f in found if f.what.startswith(rows)}
    assert gaps["at one place"] < 1e-4
    assert gaps["FedAvg, alpha 100"] < 0.02 < gaps["FedAvg, alpha 0.1"]
    assert all(f.holds is not False for f in found)
    assert figure.axes


@pytest.mark.slow
def test_mixup() -> None:
    found, figure = LABS["mixup"].run(0)
    assert [f.holds for f in found[:4]] == [True] * 4
    iid, _, skewed = (f.measured for f in found[4:])
    assert skewed < iid  # seen here: averaging over skewed clients takes back what mixup pushed out
    assert len(figure.axes) == 6


def test_free_features_stand_at_the_frames_angles_and_trained_rows_merge() -> None:
    fixed = prototypes(frame_lab.CLASSES, frame_lab.FEATURES, "sparse-etf", gamma=3.0).matrix
    _, h = frame_lab.free_features(fixed.double(), seed=0)
    # Each class's best feature lies along its row, however rare the class is.
    assert torch.allclose(torch.cosine_similarity(h, fixed.double()), torch.ones(10).double())
    rows, _ = frame_lab.free_features(None, seed=0)
    merged = torch.corrcoef(rows[-3:])
    assert merged.min() > 0.95 > torch.corrcoef(rows[:3]).fill_diagonal_(0).max()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["frame", "ebv"])
def test_frame_and_basis_vectors(name: str) -> None:
    found, figure = LABS[name].run(0)
    claims = [f.holds for f in found if f.holds is not None]
    assert len(claims) >= 2
    assert all(claims)
    assert figure.axes


def test_authors_keep_their_tokens_in_every_split(tmp_path: Path) -> None:
    (tmp_path / "speeches").mkdir()
    table = ["fileid,president_id,year"]
    for author in ("adams", "burr", "clay"):
        text = f"the people of {author}, and the union. " * 60
        (tmp_path / "speeches" / f"{author}.txt").write_text(text)
        table.append(f"{author},{author},1799")
    (tmp_path / "metadata.csv").write_text("\n".join(table))
    data = load_speeches(tmp_path, characters=False)
    splits = language_lab.splits(data, seed=0)
    everyone = [sorted(torch.cat(parts).tolist()) for parts in splits.values()]
    assert everyone[0] == everyone[1] == everyone[2]
    assert data.train_manifest is not None
    sites = data.train_manifest.column("site")
    assert all(len({sites[i] for i in part.tolist()}) == 1 for part in splits["FedAvg, by author"])


def test_no_example_is_lost_in_a_split() -> None:
    counts = torch.stack(split(0.1, seed=3)).sum(dim=0)
    assert counts.tolist() == list(COUNTS)
    labels = torch.arange(4).repeat_interleave(25)
    parts = dirichlet_parts(labels, 3, 0.1, seed=0)
    assert sorted(torch.cat(parts).tolist()) == list(range(100))


def test_averaging_weighs_by_examples() -> None:
    net = nn.Linear(1, 1, bias=False)

    def to_own_size(local: nn.Module, own: torch.Tensor, generator: np.random.Generator) -> None:
        local.weight.data.fill_(float(len(own)))  # type: ignore[operator,union-attr]

    parts = [torch.arange(1), torch.arange(3), torch.arange(0)]
    shared = federated(net, parts, 1, to_own_size, seed=0)
    assert shared.weight.item() == pytest.approx((1 * 1 + 3 * 3) / 4)  # type: ignore[operator]
