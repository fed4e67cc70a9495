"""Heads in closed form before round 1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from harness import differences, lines, newest_checkpoint, resume_local, run_local, tiny
from safetensors.torch import load_file

from fedloge.client.client import Client
from fedloge.client.site_policy import SitePolicy
from fedloge.errors import ConfigError, PolicyError
from fedloge.federation import Federation
from fedloge.geometry.closed_form import FeatureSums, ridge
from fedloge.messages import Stamp
from fedloge.methods.method import Part, plain_features
from fedloge.server.first_heads import closed_form_start

CLOSED: dict[str, Any] = {"init_head": "closed-form", "method": "fedavg"}


def test_all_rows_have_the_mean_length_times_the_scale() -> None:
    h, labels = torch.randn(40, 3), torch.tensor([0] * 35 + [2] * 5)
    known = FeatureSums.of(h, labels, 3)
    weight, bias = closed_form_start(known, 10.0)
    plain, offset = ridge(known)
    norms = plain[[0, 2]].norm(dim=1)
    assert weight[[0, 2]].norm(dim=1).tolist() == pytest.approx([10 * float(norms.mean())] * 2)
    assert bias[2].item() == pytest.approx(10 * float(norms.mean() / norms[1] * offset[2]))
    assert not weight[1].any() and bias[1] == 0


def test_round_1_begins_with_the_solve_on_all_examples(tmp_path: Path) -> None:
    # With a rate of next to nothing, the head after round 1 is the one before it.
    folder = run_local(tiny(tmp_path, rounds=1, lr=1e-9, norm="group", **CLOSED))
    fed = Federation(tiny(tmp_path, norm="group", **CLOSED))
    net = fed.load(fed.initial[Part.SHARED])
    parts = [plain_features(fed.method, net, fed.client_data(k, 1, {})) for k in range(4)]
    h, labels = torch.cat([h for h, _ in parts]), torch.cat([y for _, y in parts])
    weight, bias = closed_form_start(FeatureSums.of(h, labels, fed.data.num_classes), 10.0)
    found = newest_checkpoint(folder)
    torch.testing.assert_close(found["shared.head.weight"].double(), weight, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["shared.head.bias"].double(), bias, rtol=1e-4, atol=1e-5)
    drawn = run_local(
        tiny(tmp_path, name="drawn", rounds=1, lr=1e-9, norm="group", method="fedavg")
    )
    better, worse = (lines(run, "metrics")[-1]["global/raw/all"] for run in (folder, drawn))
    assert better > worse + 0.2


@pytest.mark.parametrize("method", ["fedloge", "creff"])
def test_a_resumed_run_is_the_run_that_never_stopped(tmp_path: Path, method: str) -> None:
    options = {"match-steps": 2, "retrain-epochs": 1} if method == "creff" else {}
    changes = {**CLOSED, "method": method, "method_options": options}
    whole = run_local(tiny(tmp_path / "whole", rounds=2, **changes))
    halves = run_local(tiny(tmp_path / "halves", rounds=1, **changes))
    first = load_file(next((halves / "checkpoint").glob("round-000000.safetensors")))
    resume_local(halves, rounds=2, from_round=0)
    assert first and not differences(whole, halves)


@pytest.mark.parametrize("method", ["fedper", "fedbabu", "fednh", "centralised", "local-only"])
def test_a_method_without_a_shared_head_is_refused(tmp_path: Path, method: str) -> None:
    with pytest.raises(ConfigError, match="init-head: clients of method"):
        _ = Federation(tiny(tmp_path, **{**CLOSED, "method": method})).opening


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({}, "class-counts.*init-head"),
        (
            {"class-counts": True, "class-sums": True},
            "init-head sends .*whose rows are not the classes",
        ),
    ],
)
def test_a_site_s_policy_holds_before_round_1_too(
    tmp_path: Path, rules: dict[str, bool], said: str
) -> None:
    fed = Federation(tiny(tmp_path, **CLOSED))
    policy = SitePolicy.model_validate(rules)
    stamp = Stamp("id", "run", fed.fingerprint, (0,), 0, 0)
    client = Client(fed, 1, tmp_path, policy)
    with pytest.raises(PolicyError, match=said):
        client.evaluate(stamp, fed.initial[Part.SHARED])
