from __future__ import annotations

from pathlib import Path

import harness
import pytest
import torch

from fedloge.errors import PluginError
from fedloge.federation import Federation, open_federation
from fedloge.learning.calibration import Reliability
from fedloge.learning.guesses import Guesses
from fedloge.results.run import open_run

PROBES = "calibration,sensitivity"


def bins(folder: Path, model: str) -> torch.Tensor:
    rows = [row for row in harness.lines(folder, "calibration") if row["model"] == model]
    row = rows[-1]
    return torch.tensor([row["examples"], row["confidence"], row["right"]], dtype=torch.float64)


def test_sums_over_clients_are_those_of_all_their_images(tmp_path: Path) -> None:
    config = harness.tiny(tmp_path, rounds=2, probes=PROBES, validation_share=0.2)
    run = open_run(harness.run_local(config))
    fed = open_federation(run.config)
    calibration, right, images = Reliability.empty(), torch.zeros(10), torch.zeros(10)
    held = Reliability.empty()
    shared = run.model("global")
    for client in range(config.num_clients):
        own = torch.from_numpy(fed.partition.test[client])
        guesses = Guesses(run.model(client=client)(fed.test.inputs[own]), fed.test.labels[own])
        calibration += guesses.reliability or Reliability.empty()
        right += guesses.confusion.diagonal()
        images += guesses.confusion.sum(dim=1)
        out = fed.train.take(fed.partition.validation[client])
        held += Reliability.of(shared(out.inputs).softmax(dim=1), out.labels)
    last, classes = run.metric_lines[-1], run.last_class_line
    assert last["probe/calibration/personal/ece"] == pytest.approx(calibration.ece, abs=1e-6)
    assert last["probe/calibration/global/realigned/ece"] == pytest.approx(held.ece, abs=1e-6)
    found = bins(run.path, "probe/calibration/personal")
    torch.testing.assert_close(found, calibration.sums, atol=1e-4, rtol=0)
    shares = [None if not n else float(r) / float(n) for r, n in zip(right, images, strict=True)]
    assert classes["probe/sensitivity/personal"] == pytest.approx(shares)
    measured = [share for share in shares if share is not None]
    expected = sum(measured) / len(measured)
    assert last["probe/sensitivity/personal/mean"] == pytest.approx(expected)


def test_the_global_models_calibration_is_on_record(tmp_path: Path) -> None:
    run = open_run(harness.run_local(harness.tiny(tmp_path, rounds=1)))
    fed, last = open_federation(run.config), run.metric_lines[-1]
    guesses = Guesses(run.model("global")(fed.test.inputs), fed.test.labels)
    for name, value in guesses.quality().items():
        assert last[f"global/realigned/{name}"] == pytest.approx(value, abs=1e-6)
    assert guesses.reliability is not None
    found = bins(run.path, "global/realigned")
    torch.testing.assert_close(found, guesses.reliability.sums, atol=1e-3, rtol=0)
    assert {row["model"] for row in harness.lines(run.path, "calibration")} == {
        "global/fixed",
        "global/raw",
        "global/realigned",
    }


def test_where_no_global_network_exists_personal_models_are_still_probed(tmp_path: Path) -> None:
    """FedBN keeps its norm layers with the clients; held-out images of a global model make no sense."""
    config = harness.tiny(tmp_path, rounds=1, method="fedbn", probes=PROBES, validation_share=0.2)
    folder = harness.run_local(config)
    last = harness.lines(folder, "metrics")[-1]
    assert {key for key in last if key.startswith("probe/")} == {
        "probe/calibration/personal/ece",
        "probe/sensitivity/personal/mean",
    }


def test_an_unknown_probe_names_the_near_ones(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="calibration"):
        _ = Federation(harness.tiny(tmp_path, probes="calibrations")).probes
