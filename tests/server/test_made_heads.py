"""Global models that probes make of clients' sums: they are kept, and can be used like any other."""

from __future__ import annotations

import shutil
from pathlib import Path

import harness
import pytest
import torch

from fedloge.errors import InputError, UpdateError
from fedloge.federation import open_federation
from fedloge.learning.probes import BalancedClosedForm, ProbeTask
from fedloge.methods.method import Part, Predictor
from fedloge.models.head import LinearHead
from fedloge.results import trained_model
from fedloge.results.export import chosen_global, export_global
from fedloge.results.run import open_run
from fedloge.server.checkpoint import CheckpointStore
from fedloge.server.made_heads import head_tensors, made_heads


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rounds 2 and 3 are kept, of which 3 was evaluated."""
    return harness.run_local(
        harness.tiny(
            tmp_path_factory.mktemp("runs"),
            method="ccvr",
            method_options={"virtual-features": 20, "epochs": 1},
            rounds=3,
            evaluate_every=3,
            probes="closed-form-balanced",
            validation_share=0.2,
        )
    )


@pytest.mark.parametrize("by_validation", [False, True])
@pytest.mark.parametrize("name", ["", "raw", "fed3r", "fedcof", "fed3r-balanced"])
def test_a_model_of_a_probe_is_exported_as_it_was_measured(
    run: Path, name: str, by_validation: bool, tmp_path: Path
) -> None:
    manifest = export_global(open_run(run), tmp_path / "out", name, by_validation)
    assert manifest["model"] == f"global/{name or 'calibrated'}"
    recorded = harness.lines(run, "metrics")[-1][f"{manifest['model']}/all"]
    assert harness.accuracy(trained_model.load(tmp_path / "out"), run) == pytest.approx(
        recorded, abs=1e-12
    )


def test_a_round_that_was_not_evaluated_has_none(run: Path, tmp_path: Path) -> None:
    opened = open_run(shutil.copytree(run, tmp_path / run.name))
    files, info = opened.files, opened.info
    CheckpointStore(files.checkpoints, info["run-id"], info["fingerprint"]).rewind(2)
    with pytest.raises(InputError, match=r"checkpoint of round 2 has none; .* or choose raw"):
        chosen_global(opened)
    assert chosen_global(opened, "raw").origin["round"] == 2
    with pytest.raises(InputError, match="unknown global model 'row'"):
        chosen_global(opened, "row")


def test_heads_come_back_as_they_were() -> None:
    weight, bias = torch.rand(3, 2), torch.rand(3)
    mask = torch.tensor([0.0, -torch.inf, 0.0])
    given = {
        "tau-norm": Predictor(LinearHead(weight)),
        "fed3r": Predictor(LinearHead(weight, bias, mask), "unit_features"),
    }
    found = made_heads(head_tensors(given))
    assert found.keys() == given.keys()
    assert found["fed3r"].extractor == "unit_features"
    assert found["tau-norm"].head.bias is None and found["tau-norm"].head.mask is None
    h = torch.rand(5, 2)
    for name in given:
        assert torch.equal(found[name].head.logits(h), given[name].head.logits(h))


@pytest.mark.parametrize(
    "given", [{}, {"weights": torch.ones(3)}, {"weights": torch.ones(10), "more": torch.ones(1)}]
)
def test_weights_that_do_not_fit_are_refused(
    given: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    fed = open_federation(harness.tiny(tmp_path, method="fedavg"))
    probe = BalancedClosedForm(ProbeTask(fed.config, 10, fed.method))
    net = fed.load(fed.initial[Part.SHARED], fed.initial[Part.PERSONAL]).eval()
    with pytest.raises(UpdateError, match="a weight for each of 10 classes"):
        probe.collect_again(net, fed.client_data(0, 1, fed.initial[Part.SHARED]), given)
