"""The Ray engine: the local engine's bits, and what it does when workers and clients fail."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from harness import differences
from safetensors.torch import load_file

from fedloge import messages as wire
from fedloge.config import Config
from fedloge.engines import local
from fedloge.engines.own_grid import SERVER_NODE, take_identity
from fedloge.engines.ray import largest_first
from fedloge.engines.ray_cluster import worker_options
from fedloge.errors import ConfigError

GOLDEN = Path(__file__).parents[1] / "golden/cifar10-lt-if0.02-alpha0.5-partition.json"

BOUNDS = ("local-only", "centralised")
"""Methods in which nothing is averaged."""

KEPT: dict[str, Any] = {
    "method": "fedrod",
    "model": "resnet8",
    "train_part": "none",
    "feature_scale": "standard",
}
"""A federation on what a frozen network keeps of its images."""

SUMMED: dict[str, dict[str, Any]] = {
    "creff": {"method": "creff", "rounds": 2},
    "fed3r": {**KEPT, "method": "fed3r", "rounds": 2},
}
"""Methods that send sums beside the model, or in its place."""

STRAGGLERS: dict[str, dict[str, Any]] = {
    "first": {"clients_per_round": 3, "clients_drawn": 6, "speed_spread": 20.0},
    "buffered": {"buffer_size": 2, "speed_spread": 20.0, "rounds": 4, "evaluate_every": 4},
}
"""Runs that do not wait for all."""

FAULTY = '''
import os, signal
from pathlib import Path
from fedloge.methods.fedloge import FedLoGe

class Dies(FedLoGe):
    """Client 3 kills its worker, the first time it is asked."""
    name = "dies"
    def local_update(self, net, client):
        mark = Path(__file__).with_name("killed-once")
        if client.client == 3 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().local_update(net, client)

class Fails(FedLoGe):
    """Client 2 kills every worker, client 3 has a bug."""
    name = "fails"
    def local_update(self, net, client):
        if client.client == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        if client.client == 3:
            raise ZeroDivisionError("a bug of the user's")
        return super().local_update(net, client)
'''

# In a process of its own, so that no cluster outlives it. Starting Ray takes longer than a run:
# one run starts a Ray for itself, the others share a cluster of two nodes.
RUNS = """
import json, sys, traceback
from ray.cluster_utils import Cluster
from fedloge.config import from_flat
from fedloge.engines import ray as engine

own, *shared = json.loads(sys.argv[1])
problems = {}

def run(settings):
    try:
        engine.run(from_flat(settings))
    except Exception:
        problems[settings["name"]] = traceback.format_exc()

run(own)
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
cluster.add_node(num_cpus=1)
for settings in shared:
    run(settings | {"ray-address": cluster.address})
print("problems:" + json.dumps(problems))
"""


def config(folder: Path, name: str, **changes: Any) -> Config:
    base = Config(num_clients=6, clients_per_round=4, rounds=2, evaluate_every=2, local_epochs=1)
    base = base.replace(partitioner_options={"alpha": 5.0})
    return base.replace(name=name, runs_dir=str(folder), **changes)


@dataclass(frozen=True)
class Runs:
    """Runs on Ray in one folder, and what went wrong in each."""

    folder: Path
    problems: dict[str, str]

    def __getitem__(self, name: str) -> Path:
        assert name not in self.problems, self.problems[name]
        return self.folder / name


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of the methods that fail."""
    path = tmp_path_factory.mktemp("methods") / "faulty.py"
    path.write_text(FAULTY)
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, faulty: Path) -> Runs:
    """All that is run on Ray."""
    folder = tmp_path_factory.mktemp("ray")
    everybody = {"clients_per_round": 6, "ray_workers": 1}
    wanted = [
        config(folder, "one", ray_workers=1),
        config(folder, "two-nodes", ray_workers=2, ray_state="carried"),
        config(folder, "at-once", fast=True, clients_at_once=2, ray_workers=1, ray_state="carried"),
        config(folder, "kept", cache_dir=str(folder / "cache"), ray_workers=2, **KEPT),
        config(folder, "masked", ray_workers=2, ray_state="carried", secure_aggregation=True),
        *(config(folder, bound, method=bound, ray_workers=1) for bound in BOUNDS),
        *(
            config(folder, name, ray_workers=2, ray_state="carried", **changes)
            for name, changes in STRAGGLERS.items()
        ),
        *(
            config(folder, name, cache_dir=str(folder / "cache"), ray_workers=2, **changes)
            for name, changes in SUMMED.items()
        ),
        config(folder, "killed", method=f"{faulty}:Dies", **everybody),
        config(folder, "failures", method=f"{faulty}:Fails", rounds=1, **everybody),
    ]
    done = subprocess.run(
        [sys.executable, "-c", RUNS, json.dumps([settings.flat() for settings in wanted])],
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Runs(folder, json.loads(done.stdout.rpartition("problems:")[2]))


@pytest.fixture(scope="module")
def on_one_machine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that two of those on Ray should be, on the local engine."""
    folder = tmp_path_factory.mktemp("local")
    local.run(config(folder, "local"))
    return folder / "local"


def test_masked_sums_on_ray_leave_the_plain_record(runs: Runs, on_one_machine: Path) -> None:
    assert differences(on_one_machine, runs["masked"]) == []


@pytest.mark.parametrize("bound", BOUNDS)
def test_the_bounds_of_a_table_give_the_same_bits(runs: Runs, tmp_path: Path, bound: str) -> None:
    local.run(config(tmp_path, bound, method=bound))
    assert not differences(runs[bound], tmp_path / bound, ("metrics.jsonl", "clients.jsonl"))


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


def bytes_up(run: Path) -> list[int]:
    return [json.loads(line)["bytes-up"] for line in (run / "timing.jsonl").open()]


# The first of these to run starts all of them.
on_ray = [pytest.mark.slow, pytest.mark.timeout(900)]


class TestOnRay:
    """Real runs."""

    pytestmark: ClassVar = on_ray

    @pytest.mark.parametrize("name", ["one", "two-nodes"])
    def test_workers_and_carried_state_give_the_local_engines_bits(
        self, name: str, runs: Runs, on_one_machine: Path
    ) -> None:
        assert_same_run(on_one_machine, runs[name])
        assert not list(runs.folder.glob(".seen-*"))

    def test_kept_features_give_the_local_engines_bits(self, runs: Runs, tmp_path: Path) -> None:
        # In a cache of their own, so that both compute them.
        local.run(config(tmp_path, "kept", cache_dir=str(tmp_path / "cache"), **KEPT))
        assert_same_run(tmp_path / "kept", runs["kept"])

    @pytest.mark.parametrize("name", SUMMED)
    def test_sums_that_workers_add_up_are_the_local_engines(
        self, name: str, runs: Runs, tmp_path: Path
    ) -> None:
        local.run(config(tmp_path, name, cache_dir=str(tmp_path / "cache"), **SUMMED[name]))
        assert_same_run(tmp_path / name, runs[name])
        here, there = (bytes_up(folder) for folder in (tmp_path / name, runs[name]))
        assert here == there and min(here) > 0

    @pytest.mark.parametrize("name", STRAGGLERS)
    def test_who_is_not_waited_for_is_the_same_on_any_engine(
        self, name: str, runs: Runs, tmp_path: Path
    ) -> None:
        local.run(config(tmp_path, name, **STRAGGLERS[name]))
        assert_same_run(tmp_path / name, runs[name])
        record = (tmp_path / name / "arrivals.jsonl").read_text()
        assert record == (runs[name] / "arrivals.jsonl").read_text()

    def test_a_worker_trains_the_same_clients_at_once_as_one_process_does(
        self, runs: Runs, tmp_path: Path
    ) -> None:
        local.run(config(tmp_path, "local", fast=True, clients_at_once=2))
        assert_same_run(tmp_path / "local", runs["at-once"])

    def test_a_worker_killed_in_the_middle_is_replaced_and_nothing_is_lost(
        self, runs: Runs, faulty: Path, tmp_path: Path
    ) -> None:
        killed = runs["killed"]
        assert faulty.with_name("killed-once").exists()  # so that nobody dies in this process
        local.run(config(tmp_path, "whole", method=f"{faulty}:Dies", clients_per_round=6))
        assert_same_run(tmp_path / "whole", killed)
        assert not (killed / "failures.jsonl").exists()

    def test_clients_that_fail_cost_themselves_only(self, runs: Runs) -> None:
        lines = (runs["failures"] / "failures.jsonl").read_text().splitlines()
        reasons = {(f["round"], f["client"]): f["reason"] for f in map(json.loads, lines)}
        assert len(lines) == 2 and reasons.keys() == {(1, 2), (1, 3)}
        assert "died 3 times" in reasons[1, 2]
        assert "ZeroDivisionError: a bug of the user's" in reasons[1, 3]
        row = json.loads((runs["failures"] / "metrics.jsonl").read_text().splitlines()[0])
        assert (row["clients"], row["failed"]) == (4, 2)


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
