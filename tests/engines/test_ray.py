"""The Ray engine: the local engine's bits, and what it does when workers and clients fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from safetensors.torch import load_file

from fedloge import messages as wire
from fedloge.config import Config
from fedloge.engines import local
from fedloge.engines.own_grid import SERVER_NODE, take_identity
from fedloge.engines.ray import largest_first, worker_options
from fedloge.errors import ConfigError

GOLDEN = Path(__file__).parents[1] / "golden/cifar10-lt-if0.02-alpha0.5-partition.json"

FAULTY = '''
import os, signal
from pathlib import Path
from fedloge.errors import UpdateError
from fedloge.methods.fedloge import FedLoGe

class Dies(FedLoGe):
    """Client 3 kills its worker, the first time it is asked."""
    name = "dies"
    def local_update(self, net, client):
        mark = Path(os.environ["FEDLOGE_TEST_MARK"])
        if client.client == 3 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().local_update(net, client)

class AlwaysDies(FedLoGe):
    """Client 3 kills every worker."""
    name = "always-dies"
    def local_update(self, net, client):
        if client.client == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().local_update(net, client)

class Raises(FedLoGe):
    """Client 3 has a bug."""
    name = "raises"
    def local_update(self, net, client):
        if client.client == 3:
            raise ZeroDivisionError("a bug of the user's")
        return super().local_update(net, client)
'''


def config(tmp_path: Path, name: str, **changes) -> Config:
    base = Config(num_clients=6, clients_per_round=4, rounds=2, evaluate_every=2, local_epochs=1)
    return base.replace(name=name, runs_dir=str(tmp_path), dirichlet_alpha=5.0, **changes)


def run_ray(
    settings: Config, env: dict[str, str] | None = None, before: str = ""
) -> subprocess.CompletedProcess[str]:
    """In a process of its own, so that a cluster never outlives its test."""
    code = (
        "import json, sys\n"
        "from fedloge.engines import ray as engine\n"
        "from fedloge import config\n"
        "settings = json.loads(sys.argv[1])\n"
        f"{before}"
        "engine.run(config.from_flat(settings))\n"
    )
    return subprocess.run(
        [sys.executable, "-c", code, json.dumps(settings.flat())],
        capture_output=True,
        text=True,
        timeout=500,
        env={**os.environ, **(env or {})},
    )


def assert_same_run(a: Path, b: Path) -> None:
    for name in ("metrics", "clients", "classes"):
        assert (a / f"{name}.jsonl").read_text() == (b / f"{name}.jsonl").read_text()
    for kind in ("checkpoint", "heads"):
        files = sorted(p.relative_to(a) for p in (a / kind).rglob("*.safetensors"))
        assert files == sorted(p.relative_to(b) for p in (b / kind).rglob("*.safetensors"))
        assert files
        for file in files:
            left, right = load_file(a / file), load_file(b / file)
            assert left.keys() == right.keys()
            assert all(left[key].equal(right[key]) for key in left), file


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_one_and_two_workers_and_carried_state_give_the_local_engines_bits(tmp_path: Path) -> None:
    local.run(config(tmp_path, "local"))
    for name, changes in {
        "one": {"ray_workers": 1},
        "two-carried": {"ray_workers": 2, "ray_state": "carried"},
    }.items():
        done = run_ray(config(tmp_path, name, **changes))
        assert done.returncode == 0, done.stderr
        assert_same_run(tmp_path / "local", tmp_path / name)
    assert not list(tmp_path.glob(".seen-*"))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_worker_trains_the_same_clients_at_once_as_one_process_does(tmp_path: Path) -> None:
    local.run(config(tmp_path, "local", clients_at_once=2))
    done = run_ray(config(tmp_path, "ray", clients_at_once=2, ray_workers=1, ray_state="carried"))
    assert done.returncode == 0, done.stderr
    assert_same_run(tmp_path / "local", tmp_path / "ray")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_cluster_of_two_nodes_gives_the_same_bits(tmp_path: Path) -> None:
    local.run(config(tmp_path, "local"))
    cluster = (
        "import ray\n"
        "from ray.cluster_utils import Cluster\n"
        "cluster = Cluster(initialize_head=True, head_node_args={'num_cpus': 1})\n"
        "cluster.add_node(num_cpus=1)\n"
        "settings['ray-address'] = cluster.address\n"
    )
    done = run_ray(config(tmp_path, "cluster", ray_workers=2, ray_state="carried"), before=cluster)
    assert done.returncode == 0, done.stderr
    assert_same_run(tmp_path / "local", tmp_path / "cluster")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_worker_killed_in_the_middle_is_replaced_and_nothing_is_lost(tmp_path: Path) -> None:
    faulty = tmp_path / "faulty.py"
    faulty.write_text(FAULTY)
    mark = tmp_path / "killed-once"
    mark.touch()
    settings = {"method": f"{faulty}:Dies", "clients_per_round": 6, "ray_workers": 1}
    os.environ["FEDLOGE_TEST_MARK"] = str(mark)
    try:
        local.run(config(tmp_path, "whole", **settings))
    finally:
        del os.environ["FEDLOGE_TEST_MARK"]
    mark.unlink()
    done = run_ray(config(tmp_path, "killed", **settings), {"FEDLOGE_TEST_MARK": str(mark)})
    assert done.returncode == 0, done.stderr
    assert mark.exists()
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    assert not (tmp_path / "killed/failures.jsonl").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("method", "words"),
    [("Raises", "ZeroDivisionError: a bug of the user's"), ("AlwaysDies", "died 3 times")],
)
def test_a_client_that_fails_costs_itself_only(tmp_path: Path, method: str, words: str) -> None:
    faulty = tmp_path / "faulty.py"
    faulty.write_text(FAULTY)
    settings = config(
        tmp_path, "run", method=f"{faulty}:{method}", clients_per_round=6, ray_workers=1, rounds=1
    )
    done = run_ray(settings)
    assert done.returncode == 0, done.stderr
    failures = [
        json.loads(line) for line in (tmp_path / "run/failures.jsonl").read_text().splitlines()
    ]
    assert [(f["round"], f["client"]) for f in failures] == [(1, 3)]
    assert words in failures[0]["reason"]
    row = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[0])
    assert (row["clients"], row["failed"]) == (5, 1)


def messages(weights: list[int]) -> list[Message]:
    take_identity()
    return [
        Message(
            RecordDict(
                {wire.PLAN: wire.Plan(weight, sum(weights)).to_record(), "x": ConfigRecord()}
            ),
            dst_node_id=index + SERVER_NODE + 1,
            message_type="train",
        )
        for index, weight in enumerate(weights)
    ]


@pytest.mark.parametrize("workers", [2, 4])
def test_batches_come_near_the_best_possible_on_the_authors_client_sizes(workers: int) -> None:
    sizes = [sum(row) for row in json.loads(GOLDEN.read_text())["train_counts"]]
    batches = largest_first(messages(sizes), workers)
    weights = [[wire.Plan.from_content(m.content).weight for m in batch] for batch in batches]
    assert sorted(w for batch in weights for w in batch) == sorted(sizes)
    longest = max(map(sum, weights))
    bound = max(max(sizes), sum(sizes) / workers)
    assert bound / longest >= 0.98
    assert all(batch == sorted(batch, reverse=True) for batch in weights)


def test_there_are_no_more_batches_than_messages() -> None:
    assert [len(batch) for batch in largest_first(messages([1, 2]), 8)] == [1, 1]


@pytest.mark.parametrize(
    ("changes", "resources", "expected"),
    [
        ({}, {"CPU": 2.0}, {"workers": 2, "num_cpus": 1.0, "num_gpus": 0.0}),
        ({"threads": 2}, {"CPU": 8.0}, {"workers": 4, "num_cpus": 2.0, "num_gpus": 0.0}),
        ({}, {"CPU": 64.0}, {"workers": 8}),
        ({}, {"CPU": 16.0, "GPU": 2.0}, {"workers": 2, "num_gpus": 1.0}),
        ({"gpus_per_worker": 0.25}, {"CPU": 16.0, "GPU": 1.0}, {"workers": 4, "num_gpus": 0.25}),
        ({"device": "cpu"}, {"CPU": 4.0, "GPU": 2.0}, {"workers": 4, "num_gpus": 0.0}),
    ],
)
def test_workers_follow_the_cluster(changes: dict, resources: dict, expected: dict) -> None:
    options = worker_options(Config(**changes), resources)
    assert {key: options[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("changes", "resources", "words"),
    [
        (
            {"ray_workers": 2, "threads": 2},
            {"CPU": 2.0},
            "2 workers of 2 threads on 2 cores.*at most 1 workers",
        ),
        ({"threads": 4}, {"CPU": 2.0}, "needs 4 cores"),
        ({"ray_workers": 4, "cpus_per_worker": 0.5}, {"CPU": 2.0}, "share cores"),
    ],
)
def test_threads_that_would_share_cores_are_refused(
    changes: dict, resources: dict, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        worker_options(Config(**changes), resources)
