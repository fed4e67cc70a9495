"""A federation on what a frozen network keeps of its examples is a federation like any other."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness import (
    differences,
    frozen,
    lines,
    newest_checkpoint,
    resume_local,
    run_local,
    tiny,
)
from image_folders import png, write_folder

from fedloge.config import from_flat
from fedloge.errors import ConfigError
from fedloge.federation import Federation, open_federation, open_site, settled
from fedloge.federation.kept_inputs import KeptPreparation
from fedloge.methods import fedloge as fedloge_method
from fedloge.results import trained_model
from fedloge.results.export import export_global
from fedloge.results.personalize import base_of, personalize
from fedloge.results.recorded_run import RecordedRun
from fedloge.rng import rng


def test_nothing_but_the_head_is_sent(tmp_path: Path) -> None:
    config = frozen(tmp_path)
    fed = Federation(config)
    assert fed.data.network_shape == (64,)
    assert fed.backbone_is_fixed
    run = run_local(config)
    assert set(newest_checkpoint(run)) == {"shared.head.weight", "shared.head.bias"}
    assert json.loads((run / "run.json").read_text())["parameters"] == 65 * 10
    # Chance is 0.1.
    assert lines(run, "metrics")[-1]["global/raw/all"] > 0.3
    # A second process finds the features, and computes the same.
    assert differences(run, run_local(frozen(tmp_path, name="again"))) == []


def test_a_run_is_resumed_to_the_same_bits(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"method": "fedrod", "rounds": 4}
    whole = run_local(frozen(tmp_path, name="whole", **changes))
    begun = run_local(frozen(tmp_path, name="begun", **(changes | {"rounds": 2})))
    assert differences(whole, resume_local(begun, rounds=4)) == []


def test_a_new_client_gets_its_model_from_raw_images(tmp_path: Path) -> None:
    run = run_local(frozen(tmp_path))
    fed = Federation(tiny(tmp_path))
    few = fed.train.take(np.arange(0, len(fed.train), 4)), fed.test
    made = personalize(base_of(run), *few)
    assert made.test == len(fed.test) and not made.held_out
    tuned = made.model(fed.test.inputs).argmax(1) == fed.test.labels
    assert float(tuned.double().mean()) == pytest.approx(
        made.figures["personalized"]["accuracy"], abs=0.005
    )
    # Chance is 0.1.
    assert made.figures["shared"]["accuracy"] > 0.3


def test_features_are_scaled_to_length_8(tmp_path: Path) -> None:
    fed = Federation(frozen(tmp_path))
    features = fed.method.features(fed.net, fed.data.preparation.prepare(fed.train.inputs))
    assert float(features.square().sum(1).mean().sqrt()) == pytest.approx(8, rel=1e-3)
    torch.testing.assert_close(features.mean(0), torch.zeros(64), atol=1e-3, rtol=0)
    l2 = Federation(frozen(tmp_path, feature_scale="l2"))
    lengths = l2.net.backbone(l2.data.preparation.prepare(l2.train.inputs)).norm(dim=1)
    torch.testing.assert_close(lengths, torch.full_like(lengths, 8.0))


@pytest.mark.parametrize("part", ["adapter", "last-stage", "low-rank", "norm"])
def test_other_parts_train_and_export(tmp_path: Path, part: str) -> None:
    changes: dict[str, Any] = {"train_part": part, "rounds": 1}
    if part in ("low-rank", "norm"):
        changes |= {"imbalance_factor": 0.01, "num_clients": 2, "clients_per_round": 2}
    run = run_local(frozen(tmp_path, **changes))
    sent = newest_checkpoint(run)
    assert len(sent) > 2
    assert not any("running" in name or "original" in name for name in sent)
    # The whole network: from raw images, and without the cache.
    export_global(RecordedRun.open(run), tmp_path / "out", "raw")
    fed = Federation(tiny(tmp_path))
    model = trained_model.load(tmp_path / "out")
    accuracy = (model(fed.test.inputs).argmax(1) == fed.test.labels).double().mean()
    # The kept outputs are rounded to float16; an image or two may turn over.
    expected = lines(run, "metrics")[-1]["global/raw/all"]
    assert float(accuracy) == pytest.approx(expected, abs=0.005)


def test_fedloge_says_what_trains(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fedloge_method._warn_of_idle_w.cache_clear()
    with caplog.at_level(logging.WARNING):
        run_local(frozen(tmp_path, method="fedloge", rounds=1))
    assert sum("nothing trains against the fixed classifier" in m for m in caplog.messages) == 1
    caplog.clear()
    fed = Federation(frozen(tmp_path, method="fedloge", train_part="adapter"))
    assert fed.fixed is not None
    assert fed.fixed.gamma == pytest.approx(3)  # 24 over the features' length
    assert not caplog.messages


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "fedbabu"}, "method 'fedbabu' has nothing to train"),
        ({"method": "fedper"}, "method 'fedper' has nothing to share.*method=local-only"),
        ({"method": "fedrep"}, "method 'fedrep' has nothing to share.*method=local-only"),
        ({"method": "fedbn"}, "differs from fedavg by its norm layers"),
        ({"train_part": "all", "feature_views": 2}, "feature-views is not read here, got 2"),
        ({"augment": "crop"}, "augment is not read here, got 'crop'"),
        ({"train_part_options": {"rank": 2}}, "there are no options, got 'rank'"),
    ],
)
def test_what_makes_no_sense_is_refused(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        run_local(frozen(tmp_path, **changes))


def test_the_view_is_drawn_for_each_example() -> None:
    inputs = torch.arange(2000.0).view(1000, 2, 1).half()
    kept = KeptPreparation()
    drawn = kept.prepare(kept.augment(inputs, rng(0, "train")))
    assert torch.equal(kept.prepare(inputs), inputs[:, 0].float())
    mirrored = (drawn == inputs[:, 1].float()).all(dim=1)
    assert torch.equal(drawn[~mirrored], inputs[:, 0].float()[~mirrored])
    assert 0.45 < float(mirrored.double().mean()) < 0.55
    single = inputs[:, :1]
    assert torch.equal(kept.augment(single, rng(0, "train")), single)


def test_the_tail_alone_is_computed(tmp_path: Path) -> None:
    fed = Federation(frozen(tmp_path))
    assert len(fed.data.train) == len(fed.train) < len(fed.images.train)
    counts = np.bincount(fed.train.classes.numpy())
    assert (counts[0], counts[-1]) == (124, 12)  # imbalance factor 1/10


def test_a_site_computes_its_own(tmp_path: Path) -> None:
    for client in range(2):
        names = [f"train/cat/{n}.png" for n in range(5)] + [f"train/dog/{n}.png" for n in range(3)]
        content = {name: png((9 * n, client, 1), (16, 16)) for n, name in enumerate(names)}
        write_folder(tmp_path / f"client-{client}", content)
    keys = {
        "dataset": "image-folder",
        "data-path": str(tmp_path),
        "long-tail": "none",
        "partitioner": "on-node",
        "partitioner-options": {"classes": "cat, dog"},
        "image-size": 16,
        "num-clients": 2,
        "clients-per-round": 2,
        "method": "fedavg",
        "model": "resnet8",
        "train-part": "none",
        "cache-dir": str(tmp_path / "cache"),
    }
    config = from_flat(keys)
    server, site = open_site(config), open_site(config, 0)
    assert site.data.train.inputs.shape == (8, 1, 64)
    assert server.data.train.inputs.shape == (0, 1, 64)
    assert server.fingerprint == site.fingerprint
    refused = open_site(config.replace(feature_scale="standard"), 0)
    with pytest.raises(ConfigError, match="needs statistics over the examples of all sites"):
        _ = refused.net


def test_a_data_set_that_is_loaded_already(tmp_path: Path) -> None:
    """Ray's workers and a settled federation get the images, and find what is kept of them."""
    fed = Federation(frozen(tmp_path))
    again = Federation(frozen(tmp_path), fed.images)
    assert torch.equal(again.train.inputs, fed.train.inputs)
    assert again.fingerprint == fed.fingerprint


def test_sites_by_folder_are_counted_first(tmp_path: Path) -> None:
    """With num-clients 0 the data are loaded twice over, once to count the clients."""
    names = [f"{site}/{c}/{n}.png" for site in "ab" for c in ("cat", "dog") for n in range(6)]
    content = {name: png((9 * n, 1, 1), (16, 16)) for n, name in enumerate(names)}
    write_folder(tmp_path / "photos", content)
    keys = {
        "dataset": "image-folder",
        "data-path": str(tmp_path / "photos"),
        "partitioner": "natural",
        "num-clients": 0,
        "clients-per-round": 2,
        "method": "fedavg",
        "model": "resnet8",
        "train-part": "none",
        "image-size": 16,
        "cache-dir": str(tmp_path / "cache"),
    }
    config = settled(from_flat(keys))
    assert config.num_clients == 2
    assert open_federation(config).data.network_shape == (64,)
