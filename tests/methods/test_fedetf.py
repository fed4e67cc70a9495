from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fedloge.methods.method import Part


def test_unit_features_against_a_fixed_simplex(federation: Callable[..., Any]) -> None:
    fed = federation("fedetf")
    net, data = fed.net, fed.client_data(0, 1, {})
    before = net.fixed.weight.clone()
    x, y = next(iter(data.plain_batches()))
    h = fed.method.features(net, x)
    assert h.shape == (len(x), 10)
    torch.testing.assert_close(h.norm(dim=1), torch.ones(len(x)))
    cosines = before @ before.T
    torch.testing.assert_close(cosines, torch.full((10, 10), -1 / 9).fill_diagonal_(1))

    weighted = data.counts * (net.scale.value * h @ before.T).exp()
    by_hand = -(weighted / weighted.sum(dim=1, keepdim=True)).log().gather(1, y[:, None]).mean()
    torch.testing.assert_close(fed.method.loss(net, x, y, data)["balanced"], by_hand)

    fed.method.local_update(net, data)
    assert torch.equal(net.fixed.weight, before)
    assert net.scale.value.item() != 1.0
    assert torch.equal(net.own_projection.weight, federation("fedetf").net.projection.weight)


def test_only_backbone_projection_and_scale_travel(run_twice: Callable[..., Any]) -> None:
    run = run_twice("fedetf", "dim = 16, tune-epochs = 2")
    parts = {name.partition(".")[0] for name in run.sent}
    assert parts == {"backbone", "projection", "scale"}
    assert {"global/raw/all", "personal/raw/mean", "personal/tuned/mean"} <= run.metrics[-1].keys()


def test_tuning_moves_the_personal_model_alone(federation: Callable[..., Any]) -> None:
    def logits(epochs: int) -> tuple[dict[str, Tensor], float]:
        fed = federation("fedetf", f"tune-epochs = {epochs}", lr=0.1)
        data = fed.client_data(0, 1, {})
        before = {name: t.clone() for name, t in fed.tensors(Part.SHARED).items()}
        models = fed.method.personal_predictors(fed.net, data)
        assert all(torch.equal(before[n], t) for n, t in fed.tensors(Part.SHARED).items())
        x, y = next(iter(data.plain_batches()))
        found = {}
        with torch.no_grad():
            for name, model in models.items():
                found[name] = model.head.logits(getattr(fed.method, model.extractor)(fed.net, x))
        return found, float((found["tuned"].argmax(dim=1) == y).float().mean())

    untuned, before = logits(0)
    assert torch.equal(untuned["raw"], untuned["tuned"])
    tuned, after = logits(20)
    assert torch.equal(tuned["raw"], untuned["raw"])
    assert after > before


def test_options_out_of_range_are_refused(
    refuses: Callable[[str, str], None], has_no_option: Callable[[str, str], None]
) -> None:
    refuses("fedetf", "scale = 0")
    refuses("fedetf", "dim = -1")
    has_no_option("fedetf", "post-hoc = ga-fr")
