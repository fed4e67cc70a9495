from __future__ import annotations

from pathlib import Path

import harness
import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from fedloge.errors import ConfigError
from fedloge.federation import Federation
from fedloge.geometry.prototypes import prototypes
from fedloge.methods.method import Part
from fedloge.models.cosine_head import CosineHead, scaled_cosines


def test_cosines_by_hand() -> None:
    w = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    h = torch.tensor([[3.0, 4.0]])
    torch.testing.assert_close(scaled_cosines(h, w, 10.0), torch.tensor([[6.0, 8.0]]))
    head = CosineHead(w, 10.0, learn_scale=True)
    torch.testing.assert_close(head(7 * h), torch.tensor([[6.0, 8.0]]))
    assert [name for name, p in head.named_parameters() if p.requires_grad] == ["scale"]


@pytest.mark.parametrize("method", ["ebv", "fedloge"])
def test_the_loss_is_smoothed_cross_entropy_over_the_temperature(
    method: str, tmp_path: Path
) -> None:
    options = {"prototypes": "basis"} | ({"fixed-head": "cosine"} if method == "fedloge" else {})
    fed = Federation(harness.tiny(tmp_path, method=method, method_options=options))
    net = fed.net.eval()
    data = fed.client_data(0, 1, fed.initial[Part.SHARED])
    x, y = next(iter(data.batches(1)))
    rows = prototypes(10, 128, "basis", gamma=1.0, seed=0).matrix
    logits = normalize(net.backbone(x)) @ rows.T / 0.07
    log_p = logits.log_softmax(dim=1)
    expected = -(0.9 * log_p.gather(1, y[:, None])[:, 0] + 0.1 * log_p.mean(dim=1)).mean()
    torch.testing.assert_close(fed.method.loss(net, x, y, data)["fixed"], expected)
    torch.testing.assert_close(cross_entropy(logits, y, label_smoothing=0.1), expected)


def test_a_personal_model_names_only_classes_it_was_trained_on(tmp_path: Path) -> None:
    options = {"alpha": 0.1}
    fed = Federation(harness.tiny(tmp_path, method="ebv", partitioner_options=options))
    fed.net.eval()
    for k in range(4):
        data = fed.client_data(k, 1, fed.initial[Part.SHARED])
        predictor = fed.method.personal_predictors(fed.net, data)["masked"]
        guesses = predictor.head.predict(torch.randn(50, 128))
        assert (data.counts[guesses] > 0).all()


@pytest.mark.parametrize("method", ["ebv", "fedloge"])
def test_more_classes_than_features_in_a_federation(method: str, tmp_path: Path) -> None:
    """Ten classes on a network of eight features: no simplex exists."""
    kind = {"prototypes": "sparse-basis", "sparsity": 0.4}
    config = harness.tiny(
        tmp_path,
        method=method,
        method_options=kind,
        model=f"{Path(__file__).parent.parent / 'plugins/narrow.py'}:Narrow",
        rounds=2,
    )
    rows = harness.lines(harness.run_local(config), "metrics")
    assert len(rows) == 2 and rows[-1]["failed"] == 0
    assert 0 <= rows[-1]["global/raw/all"] <= 1


def test_what_a_head_does_not_read_is_refused(tmp_path: Path) -> None:
    for options in (
        {"temperature": 0.1},
        {"fixed-head": "cosine", "gamma": 2.0},
        {"fixed-head": "cosine", "prototypes": "none"},
    ):
        with pytest.raises(ConfigError, match="fixed-head"):
            Federation(harness.tiny(tmp_path, method_options=options)).method  # noqa: B018
