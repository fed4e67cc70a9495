from __future__ import annotations

from pathlib import Path
from typing import Any

import harness
import pytest
from flwr.app import Context, Message, RecordDict
from one_message import ask, reason, work

from fedloge import messages as wire
from fedloge.client.client import personal_folder
from fedloge.client.client_app import app
from fedloge.client.own_site import own_site
from fedloge.config import Config
from fedloge.engines.own_grid import take_identity
from fedloge.federation import open_federation
from fedloge.messages import Stamp
from fedloge.methods.method import Part


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return harness.tiny(tmp_path)


def test_whoami_says_partition_and_images(config: Config) -> None:
    federation = open_federation(config)
    content = ask(config, "query.whoami", RecordDict())
    assert dict(content[wire.METRICS]) == {
        "partition-id": 1,
        wire.NUM_EXAMPLES: len(federation.partition.train[1]),
    }
    assert content["identity"]["fingerprint"] == federation.fingerprint


def test_training_answers_shared_tensors_and_keeps_the_rest(config: Config, tmp_path: Path) -> None:
    federation = open_federation(config)
    content = ask(config, "train", work(config))
    assert set(content[wire.ARRAYS]) == set(federation.tensors(Part.SHARED))
    metrics = wire.metrics_of(content)
    assert metrics[wire.NUM_EXAMPLES] == len(federation.partition.train[1])
    assert {"train/loss", "train/loss-fixed", "train/loss-global", "train/loss-local"} < set(
        metrics
    )
    stored = tmp_path / "run/heads/client-00001"
    assert [p.name for p in stored.iterdir()] == ["round-000001.safetensors"]


def test_a_node_keeps_its_state_where_its_config_says(config: Config, tmp_path: Path) -> None:
    ask(config, "train", work(config), **{"state-dir": str(tmp_path / "state")})
    assert (tmp_path / "state/run-1/client-00001/round-000001.safetensors").exists()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["../up", "/etc", "a/b", "", ".", "..", "x" * 101, "a\nb"])
@pytest.mark.parametrize("key", ["run_name", "run_id"])
def test_a_name_from_the_wire_cannot_climb_out(config: Config, key: str, name: str) -> None:
    content = ask(config, "train", work(config, **{key: name}))
    assert "the server sent the run name" in reason(content)


@pytest.mark.parametrize("partition", [4, -1, "1", 1.0, None])
@pytest.mark.parametrize("kind", ["query.whoami", "train"])
def test_a_wrong_partition_id_is_refused(config: Config, kind: str, partition: Any) -> None:
    content = work(config) if kind == "train" else RecordDict()
    node: dict[str, Any] = {"simulated": True}
    node |= {"partition-id": partition} if partition is not None else {}
    take_identity()
    context = Context(1, 7, node, RecordDict(), dict(config.for_flower()))
    answer = app(Message(content, dst_node_id=7, message_type=kind), context).content
    assert "partition-id must be a whole number from 0" in reason(answer)


@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_another_configs_message_is_refused(config: Config, kind: str, tmp_path: Path) -> None:
    content = ask(config, kind, work(config, fingerprint="0" * 16))
    assert "client 1: the server runs 0000000000000000, this client computes" in reason(content)
    assert not (tmp_path / "run").exists()


def test_messages_of_other_apps_are_refused(config: Config) -> None:
    assert "not made by fedloge" in reason(ask(config, "train", RecordDict()))
    without = work(config)
    del without[wire.ARRAYS]
    assert "carries no 'arrays'" in reason(ask(config, "train", without))


def test_a_straggler_is_answered_with_the_reason(config: Config, tmp_path: Path) -> None:
    ask(config, "train", work(config, round=4))
    before = (tmp_path / "run/heads/client-00001/round-000004.safetensors").read_bytes()
    late = ask(config, "train", work(config, round=2))
    assert "must not overwrite" in reason(late)
    assert (tmp_path / "run/heads/client-00001/round-000004.safetensors").read_bytes() == before


def test_evaluation_stores_nothing_and_reports_every_personal_model(
    config: Config, tmp_path: Path
) -> None:
    content = ask(config, "evaluate", work(config))
    metrics = wire.metrics_of(content)
    assert {"personal/raw/accuracy", "personal/realigned/accuracy", "num-test"} < set(metrics)
    assert metrics["trained-rounds"] == 0
    assert wire.ARRAYS not in content
    assert not (tmp_path / "run").exists()


def test_where_personal_state_lies() -> None:
    stamp = Stamp("id-1", "name", "f", (0,), 1, 0)
    site = own_site({"state-dir": "/s"})
    assert personal_folder(site, {"runs-dir": "r"}, stamp) == Path("/s/id-1")
    assert personal_folder(None, {"runs-dir": "r"}, stamp) == Path("r/name/heads")
