"""Heads that need no training: the client's own prior, and tau chosen on validation examples."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from fedloge.errors import ConfigError
from fedloge.geometry.realignment import tau_norm
from fedloge.learning.client_data import ClientData
from fedloge.methods import METHODS, make_method
from fedloge.methods.chosen_tau import TAUS, best_of
from fedloge.methods.method import Part, Task
from fedloge.methods.personal_heads import log_shares, own_prior, own_prior_tuned, personal_models

PIXELS = torch.tensor([[9, 0, 3, 1, 0, 2, 5, 7]] * 4)
LABELS = torch.tensor([0, 0, 0, 2])


def test_log_shares_by_hand() -> None:
    found = log_shares(torch.tensor([3, 0, 1]))
    assert found.tolist() == pytest.approx([-0.28768, 0.0, -1.38629], abs=1e-5)


def test_own_prior_adds_the_shares_and_masks_the_rest(
    task: Callable[..., Task], client: Callable[..., ClientData]
) -> None:
    made = task(method="fedavg", personal_heads="own-prior", method_options="tune-epochs = 0")
    method = make_method(made)
    net, data = method.build().eval(), client(made, PIXELS, LABELS)
    found = personal_models(method, net, data)
    assert found.keys() == {"raw", "tuned", "own-prior"}
    h = torch.rand(5, 8)
    raw, own = found["raw"].head.logits(h), found["own-prior"].head.logits(h)
    wanted = raw[:, [0, 2]] + torch.tensor([0.75, 0.25]).log()
    torch.testing.assert_close(own[:, [0, 2]], wanted)
    assert bool((own[:, [1, 3]] == -torch.inf).all())


def test_a_tuned_prior_is_five_slow_passes_from_it(
    task: Callable[..., Task], client: Callable[..., ClientData]
) -> None:
    made = task(method="fedavg", personal_heads="own-prior,own-prior-tuned", batch_size=4)
    method = make_method(made)
    net, data = method.build().eval(), client(made, PIXELS, LABELS)
    found = personal_models(method, net, data)
    begun, tuned = found["own-prior"].head, found["own-prior-tuned"].head
    features, labels = data.train_features(net, method.features)
    # Gradient descent on the two classes that the client has: all four examples are one batch.
    weight = begun.weight[[0, 2]].clone().requires_grad_()
    bias = begun.offset()[[0, 2]].clone().requires_grad_()
    for _ in range(5):
        loss = torch.nn.functional.cross_entropy(features @ weight.T + bias, labels // 2)
        steps = torch.autograd.grad(loss, [weight, bias])
        with torch.no_grad():
            weight -= 0.01 * steps[0]
            bias -= 0.01 * steps[1]
    torch.testing.assert_close(tuned.weight[[0, 2]], weight.detach())
    torch.testing.assert_close(tuned.offset()[[0, 2]], bias.detach())
    assert torch.equal(tuned.weight[[1, 3]], begun.weight[[1, 3]])
    assert bool((tuned.logits(features)[:, [1, 3]] == -torch.inf).all())
    # The head of the network, and with it all other personal models, is as it was.
    assert torch.equal(begun.weight, found["raw"].head.weight)


def test_a_tuned_prior_reads_the_features_that_its_head_reads(
    task: Callable[..., Task], client: Callable[..., ClientData]
) -> None:
    made = task(method="fednh")
    method = make_method(made)
    net = cast(Any, method.build().eval())
    found = own_prior_tuned(method, net, client(made, PIXELS, LABELS))
    assert found is not None and found.extractor == "unit_features"
    # By steps of .01 on features of norm 1 no row moves further than by the sum of the steps.
    moved = found.head.weight - net.prototypes.scale * net.prototypes.weight
    assert 0 < float(moved.norm(dim=1).max()) <= 5 * 4 * 0.01


@pytest.mark.parametrize("name", METHODS)
def test_every_method_with_a_global_model_has_it(
    name: str, task: Callable[..., Task], client: Callable[..., ClientData]
) -> None:
    options = "gamma = 1.0" if name == "fedloge" else ""
    made = task(method=name, method_options=options)
    method = make_method(made)
    net, data = method.build().eval(), client(made, PIXELS, LABELS)
    found = own_prior(method, net, data)
    # Regression's outputs are no logits, so fed3r has none.
    assert (found is None) == (method.primary_global is None or name == "fed3r")
    tuned = own_prior_tuned(method, net, client(made, PIXELS, LABELS))
    assert (tuned is None) == (found is None)
    if found is not None:
        x = torch.rand(6, 1, 1, 8)
        logits = found.head.logits(getattr(method, found.extractor)(net, x))
        assert logits.shape == (6, 4)
        # With the same share for all classes it predicts as the model as it was averaged.
        alike = own_prior(method, net, client(made, PIXELS, torch.arange(4)))
        averaged = method.averaged_model(net)
        assert alike is not None and averaged is not None
        h = getattr(method, averaged.extractor)(net, x)
        assert torch.equal(alike.head.predict(h), averaged.head.predict(h))
        assert tuned is not None and tuned.extractor == found.extractor
        assert not tuned.head.logits(h).isnan().any()


def test_fednhs_logits_are_those_of_training(task: Callable[..., Task]) -> None:
    method = make_method(task(method="fednh"))
    net = method.build()
    x = torch.rand(6, 1, 1, 8)
    found = cast(Any, method.averaged_model(net))
    trained = cast(Any, net).prototypes(net.backbone(x))
    torch.testing.assert_close(found.head.logits(getattr(method, found.extractor)(net, x)), trained)


def test_an_unknown_head_is_refused(task: Callable[..., Task]) -> None:
    with pytest.raises(ConfigError, match="unknown head 'own'"):
        task(personal_heads="own")


def test_a_run_records_it_and_it_beats_the_raw_head_under_label_skew(
    run_once: Callable[..., Path],
) -> None:
    folder = run_once(
        "fedavg",
        "loss = balanced-softmax",
        rounds=6,
        personal_heads="own-prior",
        partitioner_options="alpha = 0.3",
    )
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["personal/own-prior/mean"] > last["personal/raw/mean"]


def test_the_best_tau_by_hand() -> None:
    right = torch.tensor([[9.0, 0.0], [8.0, 1.0], [5.0, 1.0], [8.0, 1.0]])
    # Shares .9 and 0, .8 and .5, .5 and .5, and the second again.
    assert best_of(right, torch.tensor([10.0, 2.0])) == (1, pytest.approx(0.65))


def test_tau_is_chosen_on_the_examples_that_are_held_out(
    run_once: Callable[..., Path],
    federation: Callable[..., Any],
    trained: Callable[[Path], dict[str, Tensor]],
) -> None:
    options, held = "post-hoc = 'tau-norm = auto'", {"validation_share": 0.3}
    folder = run_once("fedavg", options, **held)
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    fed = federation("fedavg", options, **held)
    shared = {k: t for k, t in trained(folder).items() if not k.startswith("server.")}
    net = fed.load(shared, fed.initial[Part.PERSONAL]).eval()
    features, labels = [], []
    for number in range(4):
        data = fed.client_data(number, 2, shared)
        with torch.no_grad():
            features.append(net.backbone(data.preparation.prepare(data.validation.inputs)))
        labels.append(data.validation.classes)
    h, y = torch.cat(features), torch.cat(labels)
    scores = []
    for tau in TAUS:
        right = (h @ tau_norm(net.head.weight.detach(), tau).T).argmax(dim=1) == y
        scores.append(
            float(torch.stack([right[y == c].double().mean() for c in y.unique()]).mean())
        )
    assert last["probe/tau-norm/balanced"] == pytest.approx(max(scores))
    assert last["probe/tau-norm/tau"] == TAUS[scores.index(max(scores))]
    assert "global/tau-norm/all" in last


def test_without_validation_examples_there_is_no_choice(federation: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="set validation-share"):
        _ = federation("fedrod", "post-hoc = 'tau-norm = auto'").probes
