from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import grad

from fedloge import config as configs
from fedloge.errors import ConfigError, GeometryError
from fedloge.methods.fedloge import FedLoGe
from fedloge.methods.head_tuning import tuned_head
from fedloge.methods.personal_heads import personal_models

RECIPES = Path(__file__).parents[2] / "experiments/recipes/ablation"


def test_each_loss_moves_its_own_part(federation: Callable[..., Any]) -> None:
    fed = federation("fedloge")
    net, data = fed.net, fed.client_data(0, 1, {})
    x, y = next(iter(data.plain_batches()))
    losses = fed.method.loss(net, x, y, data)
    parts = {
        "fixed": list(net.backbone.parameters()),
        "global": list(net.global_head.parameters()),
        "local": list(net.local_head.parameters()),
    }
    for loss in parts:
        for part, parameters in parts.items():
            slopes = grad(losses[loss], parameters, retain_graph=True, allow_unused=True)
            assert [g is not None for g in slopes] == [loss == part] * len(parameters)
    assert not net.classifier.weight.requires_grad


def test_the_fixed_classifier_is_the_configured_one(federation: Callable[..., Any]) -> None:
    zeros = {}
    for kind in ("etf", "sparse-etf"):
        weight = federation("fedloge", f"prototypes = {kind}, gamma = 0.5").net.classifier.weight
        torch.testing.assert_close(weight.norm(dim=1), torch.full((10,), 0.5))
        zeros[kind] = (weight == 0).float().mean().item()
    assert zeros["etf"] == 0 and zeros["sparse-etf"] == pytest.approx(0.6, abs=0.01)


NARROW = """
import math
from torch import Tensor, nn
from fedloge.models.backbone import Backbone

class Narrow(Backbone):
    out_features = 4

    def __init__(self, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(input_shape), 4))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layers(inputs)
"""


def test_basis_vectors_serve_more_classes_than_features(
    run_once: Callable[..., Path], trained: Callable[[Path], dict[str, Tensor]], tmp_path: Path
) -> None:
    """Ten classes, four features: no simplex, and no orthoplex."""
    path = tmp_path / "narrow.py"
    path.write_text(NARROW)
    model = f"{path}:Narrow"
    folder = run_once("fedloge", "prototypes = basis, gamma = 2.0", model=model)
    assert (folder / "metrics.jsonl").read_text().count("\n") == 2
    assert trained(folder)["global_head.weight"].shape == (10, 4)
    with pytest.raises(GeometryError, match="no simplex of 10 classes"):
        run_once("fedloge", "prototypes = etf, gamma = 2.0", model=model)


def test_without_prototypes_the_backbone_is_fedavgs_bit_for_bit(
    run_once: Callable[..., Path], trained: Callable[[Path], dict[str, Tensor]]
) -> None:
    run = run_once("fedloge", "prototypes = none")
    mine, theirs = trained(run), trained(run_once("fedavg"))
    renamed = {name.replace("head.", "classifier."): t for name, t in theirs.items()}
    assert len(renamed) == len(theirs) and renamed.keys() < mine.keys()
    assert all(torch.equal(t, mine[name]) for name, t in renamed.items())
    assert '"global/trained/all"' in (run / "metrics.jsonl").read_text()


@pytest.mark.parametrize("kind", ["norm", "sum"])
def test_local_realignment_by_hand(federation: Callable[..., Any], kind: str) -> None:
    fed = federation("fedloge", f"personal-realignment = {kind}", num_clients=20)
    client = next(k for k in range(20) if (fed.partition.train_counts[k] == 0).any())
    data = fed.client_data(client, 1, {}, rounds_trained=1)
    head = fed.method.personal_predictors(fed.net, data)["realigned"].head
    psi, phi = fed.net.global_head.weight.detach(), fed.net.local_head
    h = torch.randn(5, 128, generator=torch.Generator().manual_seed(0))
    logits = h @ psi.T * phi.weight.detach().norm(dim=1)
    if kind == "sum":
        logits = logits + phi(h).detach()
    logits[:, data.counts == 0] = -torch.inf
    torch.testing.assert_close(head.logits(h), logits)


def test_a_client_that_never_trained_predicts_with_the_global_head(
    federation: Callable[..., Any],
) -> None:
    fed = federation("fedloge")
    data = fed.client_data(0, 1, {})
    models = fed.method.personal_predictors(fed.net, data)
    psi = fed.net.global_head.weight.detach()
    assert torch.equal(models["raw"].head.weight, psi)
    # LA-FR with a phi of equal norms: psi at its own norms, the client's absent classes masked.
    assert torch.equal(models["realigned"].head.weight, psi)
    assert torch.equal(models["realigned"].head.mask == 0, data.counts > 0)


def test_the_classifier_and_the_local_head_add_up(federation: Callable[..., Any]) -> None:
    fed = federation("fedloge", num_clients=20)
    client = next(k for k in range(20) if (fed.partition.train_counts[k] == 0).any())
    h = torch.randn(5, 128, generator=torch.Generator().manual_seed(0))
    for trained in (0, 1):
        data = fed.client_data(client, 1, {}, rounds_trained=trained)
        head = fed.method.personal_predictors(fed.net, data)["with-fixed"].head
        logits = fed.net.classifier(h).detach()
        if trained:
            logits = logits + fed.net.local_head(h).detach()
        logits[:, data.counts == 0] = -torch.inf
        torch.testing.assert_close(head.logits(h), logits)


def test_adjusted_losses_by_hand(federation: Callable[..., Any]) -> None:
    options = "fixed-adjustment = 1.0, global-adjustment = 0.5"
    fed, plain = federation("fedloge", options), federation("fedloge")
    data = fed.client_data(0, 1, {})
    x, y = next(iter(data.plain_batches()))
    found, before = (f.method.loss(f.net, x, y, data) for f in (fed, plain))
    h, n = fed.net.backbone(x), data.counts.float()
    for name, head, tau in (
        ("fixed", fed.net.classifier, 1.0),
        ("global", fed.net.global_head, 0.5),
    ):
        # Balanced softmax by its definition: classes weighted by their counts to the power of tau.
        weighted = head(h).exp() * n**tau
        mine = -(weighted.gather(1, y[:, None])[:, 0] / weighted.sum(dim=1)).log().mean()
        torch.testing.assert_close(found[name], mine)
        assert found[name] != before[name]
    assert found["local"] == before["local"]
    assert not fed.method.uniform_step and plain.method.uniform_step


def test_the_model_it_is_judged_by_is_chosen(
    federation: Callable[..., Any], refuses: Callable[[str, str], None]
) -> None:
    chosen = "global-model = fixed, personal-model = with-fixed"
    method = federation("fedloge", chosen).method
    assert (method.primary_global, method.primary_personal) == ("fixed", "with-fixed")
    ablation = federation("fedloge", f"prototypes = none, {chosen}").method
    assert (ablation.primary_global, ablation.primary_personal) == ("trained", "with-trained")
    refuses("fedloge", "personal-model = tuned")
    with pytest.raises(ConfigError, match="set personal-heads=own-prior"):
        _ = federation("fedloge", "personal-model = own-prior").method


def test_a_clients_prior_is_added_to_the_fixed_classifier(federation: Callable[..., Any]) -> None:
    options = "fixed-adjustment = 1.0, personal-model = own-prior"
    fed = federation("fedloge", options, personal_heads="own-prior", num_clients=20)
    assert fed.method.primary_personal == "own-prior"
    client = next(k for k in range(20) if (fed.partition.train_counts[k] == 0).any())
    data = fed.client_data(client, 1, {}, rounds_trained=1)
    head = personal_models(fed.method, fed.net, data)["own-prior"].head
    h = torch.randn(5, 128, generator=torch.Generator().manual_seed(0))
    expected = fed.net.classifier(h).detach() + (data.counts / data.counts.sum()).log()
    torch.testing.assert_close(head.logits(h), expected)


def test_the_three_losses_are_fixed_and_tau_norm_is_there_to_compare(
    federation: Callable[..., Any], has_no_option: Callable[[str, str], None]
) -> None:
    has_no_option("fedloge", "loss = balanced-softmax")
    fed = federation("fedloge", 'post-hoc = "tau-norm = 0.5"')
    psi = fed.net.global_head.weight.detach()
    found = fed.method.global_predictors(fed.net)
    assert found.keys() == {"fixed", "raw", "tau-norm", "realigned"}
    expected = psi / psi.norm(dim=1)[:, None].sqrt()
    torch.testing.assert_close(found["tau-norm"].head.weight, expected)


def test_the_ablation_recipes_differ_in_the_classifier_alone() -> None:
    recipes = {path.stem: configs.load(path) for path in sorted(RECIPES.glob("*.toml"))}
    kinds = {name: recipe.method_options["prototypes"] for name, recipe in recipes.items()}
    assert kinds == {"etf": "etf", "none": "none", "sse-c": "sparse-etf"}
    different = configs.differences(list(recipes.values()))
    assert different.keys() == {"method-options.prototypes"}


def test_tuned_personal_models_are_measured_besides_when_asked(
    federation: Callable[..., Any],
) -> None:
    fed = federation("fedloge", "tune-epochs = 2")
    data = fed.client_data(0, 1, {}, rounds_trained=1)
    before = fed.net.local_head.weight.detach().clone()
    models = fed.method.personal_predictors(fed.net, data)
    assert models.keys() == {"raw", "realigned", "with-fixed", "tuned", "tuned-realigned"}
    tuned = tuned_head(fed.method, fed.net, fed.net.local_head, data, epochs=2)
    assert torch.equal(models["tuned"].head.weight, tuned.weight)
    assert not torch.equal(tuned.weight, before)
    psi = fed.net.global_head.weight.detach()
    expected = psi * tuned.weight.norm(dim=1)[:, None]
    torch.testing.assert_close(models["tuned-realigned"].head.weight, expected)
    # The client's own head, which the next round goes on from, is not the tuned one.
    assert torch.equal(fed.net.local_head.weight, before)


def rounds(**losses: list[float]) -> list[dict[str, float]]:
    return [
        {"round": r + 1} | {f"train/loss-{name}": values[r] for name, values in losses.items()}
        for r in range(len(next(iter(losses.values()))))
    ]


def test_a_backbone_that_does_not_train_is_said_and_gamma_named() -> None:
    config = configs.Config()
    stuck = rounds(fixed=[2.30] * 9 + [2.28])
    (said,) = FedLoGe.remarks(config, 10, stuck)
    assert "2.28 after round 10" in said and "log 10 = 2.30" in said and "gamma" in said
    assert FedLoGe.remarks(config, 10, stuck[:9]) == [], "nine rounds are too few to judge by"
    assert FedLoGe.remarks(config, 10, rounds(fixed=[2.30] * 5 + [1.9] * 5)) == []
    # Of a hundred classes the same loss is far from guessing.
    assert FedLoGe.remarks(config, 100, stuck) == []


def test_heads_that_swing_on_long_features_are_said() -> None:
    calm, wild = [1.0] * 10, [4.0 + r / 10 for r in range(10)]
    fixed = [0.5] * 20
    (said,) = FedLoGe.remarks(
        configs.Config(), 10, rounds(fixed=fixed, **{"global": calm + wild, "local": calm + wild})
    )
    assert "have risen, from 2.00" in said and "gamma" in said
    steady = rounds(fixed=fixed, **{"global": calm * 2, "local": calm * 2})
    assert FedLoGe.remarks(configs.Config(), 10, steady) == []


def test_a_run_says_it_once(
    run_once: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    run_once("fedloge", "gamma = 0.0001", rounds=12)
    said = [text for text in caplog.messages if "the backbone hardly trains" in text]
    assert len(said) == 1 and "after round 10" in said[0]
