"""Plug-ins in one file each, in real runs: a text-like source with its own model, and a probe."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness import lines, newest_checkpoint, run_local, tiny

from fedloge.config import Config
from fedloge.federation import Federation

HERE = Path(__file__).parent
PROBE = f"{HERE / 'feature_length.py'}:FeatureLength"


def tokens(runs_dir: Path, **changes: object) -> Config:
    return tiny(
        runs_dir,
        dataset=f"{HERE / 'tokens.py'}:sentences",
        model=f"{HERE / 'tokens.py'}:BagOfTokens",
        model_options={"width": 12},
        rounds=8,
        local_epochs=3,
        batch_size=8,
        lr=0.3,
        evaluate_every=8,
        long_tail="exp",
        **changes,
    )


@pytest.mark.parametrize("method", ["fedavg", "fedloge", "ditto", "creff", "ccvr"])
def test_token_ids_train_through_the_same_loop(tmp_path: Path, method: str) -> None:
    options = {"gamma": 3.0} if method == "fedloge" else {}
    folder = run_local(tokens(tmp_path, method=method, method_options=options))
    last = lines(folder, "metrics")[-1]
    raw = last["global/raw/all"]
    assert raw > 0.6, "chance is a quarter, with four classes"
    assert newest_checkpoint(folder)["shared.backbone.embedding.weight"].shape == (40, 12)


def test_a_probe_of_one_file_is_measured_over_clients(tmp_path: Path) -> None:
    config = tiny(tmp_path, method="fedavg", probes=PROBE, rounds=1)
    folder = run_local(config)
    row, classes = lines(folder, "metrics")[-1], lines(folder, "classes")[-1]
    fed = Federation(config)
    fed.load(
        {
            name.removeprefix("shared."): tensor
            for name, tensor in newest_checkpoint(folder).items()
            if name.startswith("shared.")
        }
    ).eval()
    # All examples at once; the run had them client by client.
    features = fed.method.features(fed.net, fed.data.preparation.prepare(fed.train.inputs))
    lengths = features.detach().norm(dim=1)
    assert row["probe/feature-length/mean"] == pytest.approx(float(lengths.mean()), rel=1e-5)
    few = float(lengths[fed.train.classes == 9].mean())
    assert classes["probe/feature-length/mean"][9] == pytest.approx(few, rel=1e-5)


def test_without_the_probe_nothing_of_it_is_sent_or_recorded(tmp_path: Path) -> None:
    folder = run_local(tiny(tmp_path, method="fedavg", rounds=1))
    assert not any(key.startswith("probe/") for key in lines(folder, "metrics")[-1])
