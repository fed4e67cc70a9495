"""A policy that forbids each thing, and the message that it refuses, in the real ClientApp."""

from __future__ import annotations

import hashlib
import json
import tomllib
from pathlib import Path
from typing import Any

import harness
import image_folders
import pytest
from flwr.app import RecordDict
from one_message import ask, reason, work

from fedloge import messages as wire
from fedloge.client.site_policy import SitePolicy, read_policy
from fedloge.config import Config
from fedloge.errors import ConfigError
from fedloge.federation import open_federation

ROOT = Path(__file__).parents[2]
PLUGIN = """
from fedloge.methods.fedavg import FedAvg
from pathlib import Path
Path(__file__).with_suffix(".ran").touch()

class Mine(FedAvg):
    name = "mine"
"""


def at_site(tmp_path: Path, **policy: Any) -> dict[str, Any]:
    """The node config of a site with this policy."""
    file = tmp_path / "policy.toml"
    lines = [f"{key.replace('_', '-')} = {json.dumps(value)}" for key, value in policy.items()]
    file.write_text("\n".join(lines))
    return {"state-dir": str(tmp_path / "state"), "policy": str(file)}


NOISY = {"local_dp_clip": 1.0, "norm": "group"}
# What is asked for, the policy, the rule, and what the refusal says beside it.
FORBIDDEN: dict[str, tuple[dict[str, Any], dict[str, Any], str, str]] = {
    "a method": ({}, {"methods": ["fedavg"]}, "methods", "method 'fedloge' is not allowed, only fedavg"),
    "a model": ({}, {"models": ["resnet8"]}, "models", "model 'cnn' is not allowed, only resnet8"),
    "a data source": ({"dataset": "cifar10"}, {}, "datasets", "dataset 'cifar10' is not allowed"),
    "a partitioner": ({"partitioner": "explicit", "partitioner_options": {"file": "x"}}, {}, "partitioners", ""),
    "a probe": ({"probes": "calibration"}, {"probes": []}, "probes", "'calibration' is not allowed, only none"),
    "test images of each class": ({"probes": "sensitivity"}, {}, "class-counts", "probe 'sensitivity' sends counts"),
    "a probe of another's": ({"probes": "other.package:Probe"}, {}, "plugins", "is a plug-in (no file here)"),
    "a data source of another's": ({"dataset": "no.py:it", "imbalance_factor": 0.02}, {}, "plugins", "plug-in"),
    "a model of another's": ({"model": "torch.nn.Linear"}, {}, "plugins", "model 'torch.nn.Linear' is a plug-in ("),
    "a partitioner of another's": ({"partitioner": "os.path:join"}, {}, "plugins", "partitioner 'os.path:join'"),
    "held-out images of each class": ({"validation_share": 0.2}, {}, "class-counts", "validation-share sends counts"),
    "class counts": ({"method": "fedyoyo"}, {}, "class-counts", "method 'fedyoyo' sends counts of each class"),
    "class gradients": ({"method": "creff"}, {}, "class-sums", "method 'creff' sends sums over"),
    "class moments": ({"method": "ccvr"}, {"class_counts": True}, "class-sums", "method 'ccvr' sends sums"),
    "class means": ({"method": "rucr"}, {"class_counts": True}, "class-sums", "method 'rucr' sends sums"),
    "class directions": ({"method": "fednh"}, {"class_sums": True}, "class-counts", "method 'fednh' sends counts"),
    "many epochs": ({"local_epochs": 21}, {}, "max-local-epochs", "local-epochs is 21, 20 are allowed"),
    "many rounds": ({"rounds": 11}, {"max_rounds": 10}, "max-rounds", "rounds is 11, 10 are allowed"),
    "no masks": ({}, {"secure_aggregation": True}, "secure-aggregation", "shows the server this site's update"),
    "no noise": ({}, {"min_client_noise": 0.5}, "min-client-noise", "noise of 0.5 at the client is demanded"),
    "little noise": (NOISY | {"local_dp_noise": 0.4}, {"min_client_noise": 0.5}, "min-client-noise", "run adds 0.4"),
    "no epsilon": ({}, {"max_epsilon": 3.0}, "max-epsilon", "the run adds no noise here"),
    "a large delta": (NOISY | {"local_dp_delta": 1e-3}, {}, "max-delta", "1e-05 is allowed"),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["query.whoami", "train", "evaluate"])
@pytest.mark.parametrize("name", FORBIDDEN)
def test_what_is_forbidden_is_refused_by_its_rule(name: str, kind: str, tmp_path: Path) -> None:
    asked, policy, rule, words = FORBIDDEN[name]
    honest = harness.tiny(tmp_path)
    content = RecordDict() if kind == "query.whoami" else work(honest)
    node = at_site(tmp_path, **policy)
    said = reason(ask(honest.replace(**asked), kind, content, **node))
    assert said.startswith(f"this site's policy, {rule}: ") and words in said
    assert not list((tmp_path / "state").glob("[!.]*"))


def test_every_rule_is_tried() -> None:
    elsewhere = {"min-images-per-class", "max-megabytes-per-round", "keep-runs", "min-cohort"}
    elsewhere |= {"tell-epsilon", "uncovered-figures"}  # test_client_privacy.py
    assert {row[2] for row in FORBIDDEN.values()} | elsewhere == set(SitePolicy.names())


def test_a_site_without_a_masking_key_does_not_take_one_that_others_can_compute(
    tmp_path: Path,
) -> None:
    node = at_site(tmp_path, secure_aggregation=True)
    config = harness.tiny(tmp_path, secure_aggregation=True)
    said = reason(ask(config, "train", work(config), **node))
    assert "needs this site's own masking key" in said and "fedloge site-key" in said


def test_a_strict_site_takes_part_in_what_tells_nothing_of_classes(tmp_path: Path) -> None:
    node = {"state-dir": str(tmp_path / "state")}
    for method in ("fedloge", "fedavg", "fedrod", "fedetf", "fedgrab"):
        config = harness.tiny(tmp_path, method=method)
        answer = ask(config, "train", work(config, run_id=f"run-{method}"), **node)
        assert wire.failure_reason(answer) is None and wire.SUMS not in answer
        assert wire.failure_reason(ask(config, "query.whoami", RecordDict(), **node)) is None


@pytest.mark.parametrize("how", ["file", "module"])
def test_a_plugin_runs_only_if_its_digest_is_named(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / f"mine_{how}.py"
    file.write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    spec = f"{file}:Mine" if how == "file" else f"mine_{how}:Mine"
    config = harness.tiny(tmp_path, method=spec)
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    refused = reason(ask(config, "query.whoami", RecordDict(), **at_site(tmp_path)))
    assert "policy, plugins: " in refused and found in refused
    assert not file.with_suffix(".ran").exists(), "it has been executed"
    node = at_site(tmp_path, plugins=[found])
    assert wire.failure_reason(ask(config, "query.whoami", RecordDict(), **node)) is None
    file.write_text(PLUGIN + "\n# another\n")
    file.with_suffix(".ran").unlink()
    assert "policy, plugins" in reason(ask(config, "query.whoami", RecordDict(), **node))
    assert not file.with_suffix(".ran").exists()


@pytest.mark.parametrize(
    ("method", "kind"),
    [("fedyoyo", "train"), ("rucr", "train"), ("fednh", "train"), ("creff", "train"), ("ccvr", "evaluate")],
)  # fmt: skip
def test_nothing_is_told_of_a_class_of_few_images(method: str, kind: str, tmp_path: Path) -> None:
    config = harness.tiny(tmp_path, method=method)
    counts = open_federation(config).partition.train_counts[1]
    least = int(sorted(set(counts[counts > 0]))[1]) + 1
    small = (counts > 0) & (counts < least)
    assert small.any() and (counts >= least).any()
    node = at_site(tmp_path, class_counts=True, class_sums=True, min_images_per_class=least)
    sums = wire.decode(ask(config, kind, work(config), **node)[wire.SUMS])
    open_sums = wire.decode(ask(config, kind, work(config, run_id="run-2"))[wire.SUMS])
    for name, tensor in sums.items():
        rows, whole = tensor.flatten(1) if tensor.ndim > 1 else tensor[:, None], open_sums[name]
        told = rows.abs().sum(dim=1) > 0
        assert told.tolist() == (counts >= least).tolist(), name
        assert tensor[told].equal(whole[told]), name
        assert whole[small].abs().sum() > 0, "there was something to hold back"


def test_held_out_images_are_counted_by_themselves(tmp_path: Path) -> None:
    config = harness.tiny(tmp_path, method="fedavg", validation_share=0.3)
    node = at_site(tmp_path, class_counts=True, min_images_per_class=8)
    sums = wire.decode(ask(config, "evaluate", work(config), **node)[wire.SUMS])
    whole = wire.decode(ask(config, "evaluate", work(config))[wire.SUMS])["validation/examples"]
    expected = [n if n >= 8 else 0 for n in whole.tolist()]
    assert sums["validation/examples"].tolist() == expected
    assert 0 < sum(n > 0 for n in expected) < sum(n > 0 for n in whole.tolist())


def test_bytes_of_a_round_are_counted_over_its_messages(tmp_path: Path) -> None:
    config = harness.tiny(tmp_path)
    content = work(config)
    size = wire.num_bytes(content[wire.ARRAYS]) / 1e6
    node = at_site(tmp_path, max_megabytes_per_round=2.5 * size)
    assert wire.failure_reason(ask(config, "train", content, **node)) is None
    said = reason(ask(config, "evaluate", content, **node))
    assert "policy, max-megabytes-per-round: round 1 comes to" in said
    assert wire.failure_reason(ask(config, "train", work(config, round=2), **node)) is None
    small = at_site(tmp_path, max_megabytes_per_round=1.5 * size)
    said = reason(ask(config, "train", work(config, round=3), **small))
    assert "max-megabytes-per-round" in said, "what would be sent counts, too"


def test_personal_models_of_so_many_runs_are_kept(tmp_path: Path) -> None:
    config = harness.tiny(tmp_path)
    node = at_site(tmp_path, keep_runs=2)
    for run in ("one", "two", "one"):
        round = 2 if (tmp_path / "state" / run).exists() else 1
        answer = ask(config, "train", work(config, run_id=run, round=round), **node)
        assert wire.failure_reason(answer) is None
    said = reason(ask(config, "train", work(config, run_id="three"), **node))
    assert "policy, keep-runs: " in said and "of 2 runs" in said
    assert sorted(p.name for p in (tmp_path / "state").glob("[!.]*")) == ["one", "two"]


def test_a_round_beyond_those_allowed_is_refused_whatever_the_config_says(tmp_path: Path) -> None:
    config = harness.tiny(tmp_path)
    node = at_site(tmp_path, max_rounds=10)
    said = reason(ask(config, "train", work(config, round=11), **node))
    assert "policy, max-rounds: round 11" in said


def test_folders_are_the_sites_own(tmp_path: Path) -> None:
    own = image_folders.write_folder(tmp_path / "images", image_folders.files())
    theirs = tmp_path / "theirs"
    image_folders.write_folder(theirs, {"train/cat/z.png": image_folders.png((1, 2, 3))})
    config = harness.tiny(
        tmp_path,
        dataset="image-folder",
        image_size=8,
        long_tail="none",
        partitioner="on-node",
        partitioner_options={"classes": "cat, dog"},
        data_path=str(theirs),
        cache_dir=str(theirs / "cache"),
        table=str(theirs / "table.csv"),
    )
    node = {"state-dir": str(tmp_path / "state"), "data-path": str(own)}
    answer = ask(config, "query.whoami", RecordDict(), **node, **{"cache-dir": str(tmp_path / "c")})
    assert answer[wire.METRICS][wire.NUM_EXAMPLES] == 5
    assert any((tmp_path / "c").iterdir()) and not (theirs / "cache").exists()


def test_a_client_tells_no_count_of_a_small_class(tmp_path: Path) -> None:
    own = image_folders.write_folder(tmp_path / "images", image_folders.files())
    options = {"classes": "cat, dog", "share-class-counts": True}
    on_node = {"partitioner": "on-node", "partitioner_options": options, "long_tail": "none"}
    config = harness.tiny(tmp_path, dataset="image-folder", image_size=8, **on_node)
    node = at_site(tmp_path) | {"data-path": str(own)}
    assert "policy, class-counts: " in reason(ask(config, "query.whoami", RecordDict(), **node))
    node |= at_site(tmp_path, class_counts=True, min_images_per_class=3)
    answer = ask(config, "query.whoami", RecordDict(), **node)
    assert answer[wire.METRICS][wire.CLASS_COUNTS] == [3, 0]


def test_images_are_read_from_the_sites_folder_alone(tmp_path: Path) -> None:
    config = harness.tiny(
        tmp_path, dataset="image-folder", data_path="/etc", image_size=8, imbalance_factor=0.02
    )
    said = reason(ask(config, "query.whoami", RecordDict(), **{"state-dir": str(tmp_path)}))
    assert said.startswith("node config: data-path is missing")
    own = tmp_path / "images"
    node = {"state-dir": str(tmp_path / "state"), "data-path": str(own)}
    assert str(own) in reason(ask(config, "query.whoami", RecordDict(), **node))


def test_a_site_without_a_folder_for_its_state_takes_no_part(config: Config) -> None:
    said = reason(ask(config, "query.whoami", RecordDict(), simulated=False))
    assert said.startswith("node config: state-dir is missing")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("method = ['fedavg']", "unknown option 'method' (did you mean 'methods'?)"),
        ("class-counts = 1", "class-counts: input should be a valid boolean"),
        ("plugins = ['abc']", "expected SHA-256 in 64 hexadecimal digits"),
        ("max-rounds = 0", "max-rounds"),
        ("max-rounds =", "not valid TOML"),
        (None, "no such policy"),
    ],
)
def test_a_policy_that_cannot_be_read_forbids_everything(
    text: str | None, words: str, config: Config, tmp_path: Path
) -> None:
    node = at_site(tmp_path)
    Path(node["policy"]).unlink() if text is None else Path(node["policy"]).write_text(text)
    for kind, content in (("query.whoami", RecordDict()), ("train", work(config))):
        assert words in reason(ask(config, kind, content, **node))
    with pytest.raises(ConfigError):
        read_policy(Path(node["policy"]))


def test_the_example_says_what_holds_without_one() -> None:
    file = ROOT / "clients/policy.toml"
    assert read_policy(file) == SitePolicy()
    assert set(tomllib.loads(file.read_text())) == set(SitePolicy.names())


def test_a_simulation_is_open(tmp_path: Path) -> None:
    config = harness.tiny(tmp_path, method="ccvr", local_epochs=30)
    assert wire.failure_reason(ask(config, "query.whoami", RecordDict())) is None


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return harness.tiny(tmp_path)
