"""What must hold of any method, whatever it does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from fedloge.federation import open_federation
from fedloge.methods import METHODS
from fedloge.methods.method import Part
from fedloge.results import trained_model
from fedloge.results.export import export_client, export_global
from fedloge.results.run import open_run

# Quicker than their defaults.
OPTIONS = {
    "ccvr": "virtual-features = 20, epochs = 2",
    "creff": "match-steps = 5, retrain-epochs = 5, features-per-class = 5",
    "fedetf": "tune-epochs = 2",
    "fedrep": "head-epochs = 1",
}
RECORDS = ("metrics.jsonl", "clients.jsonl", "classes.jsonl")


def heads(folder: Path) -> dict[str, dict[str, Tensor]]:
    return {
        client.name: load_file(max(client.glob("round-*.safetensors")))
        for client in (folder / "heads").glob("*")
    }


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(t, other[n]) for n, t in one.items())


@pytest.mark.parametrize("method", METHODS)
def test_two_rounds(
    method: str,
    run_twice: Callable[..., Any],
    run_once: Callable[..., Path],
    trained: Callable[[Path], dict[str, Tensor]],
    tmp_path: Path,
) -> None:
    options = OPTIONS.get(method, "")
    run = run_twice(method, options)

    # No personal tensor in any message: only what is shared, and what the method says it sends.
    opened = open_run(run.folder)
    fed = open_federation(opened.config)
    probed = {f"{probe.name}/{name}" for probe in fed.probes for name in probe.template(fed.net)}
    announced = fed.method.uplink(fed.net).keys() | probed
    assert run.sent == fed.initial[Part.SHARED].keys() | announced
    assert not run.sent & fed.initial[Part.PERSONAL].keys()

    # The primary figures are there.
    for kind, name, figure in (
        ("global", fed.method.primary_global, "all"),
        ("personal", fed.method.primary_personal, "mean"),
    ):
        assert (f"{kind}/{name}/{figure}" in run.metrics[-1]) == (name is not None)

    # A run that stopped after one round and was resumed is the run that never stopped.
    same_run = {"imbalance_factor": opened.config.imbalance_factor, "name": "halves"}
    run_once(method, options, rounds=1, **same_run)
    halves = run_once(method, options, rounds=2, resume=True, **same_run)
    assert same(trained(halves), trained(run.folder))
    mine, theirs = heads(halves), heads(run.folder)
    assert mine.keys() == theirs.keys() and all(same(mine[k], theirs[k]) for k in mine)
    for record in RECORDS:
        if (run.folder / record).exists():
            assert (halves / record).read_bytes() == (run.folder / record).read_bytes()

    # Each model can be taken out and gives the figures that the run recorded.
    if fed.method.primary_global in fed.method.global_predictors(fed.net):
        export_global(opened, tmp_path / "global")
        found = accuracy(trained_model.load(tmp_path / "global"), fed.test.inputs, fed.test.labels)
        assert found == pytest.approx(run.metrics[-1][f"global/{fed.method.primary_global}/all"])
    export_client(opened, 1, tmp_path / "client")
    own = torch.from_numpy(fed.partition.test[1])
    found = accuracy(
        trained_model.load(tmp_path / "client"), fed.test.inputs[own], fed.test.labels[own]
    )
    row = next(row for row in client_rows(run.folder) if (row["round"], row["client"]) == (2, 1))
    assert found == pytest.approx(row[f"personal/{fed.method.primary_personal}/accuracy"])


def accuracy(model: trained_model.Model, pixels: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        predicted = torch.cat([model(part).argmax(dim=1) for part in pixels.split(256)])
    return float((predicted == labels).double().mean())


def client_rows(folder: Path) -> Iterator[dict[str, Any]]:
    import json

    return map(json.loads, (folder / "clients.jsonl").read_text().splitlines())
