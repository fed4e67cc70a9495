from __future__ import annotations

import functools
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from fedloge.errors import PartitionError
from fedloge.partition import BUILTIN, group_by_owner, iid, pathological
from fedloge.testing import check_partitioner

# A file of a partition serves the one training set that it is of; its own tests put it through this.
SERVE_ALL = {name: partitioner for name, partitioner in BUILTIN.items() if name != "explicit"}
SERVE_ALL["flwr-datasets"] = functools.partial(SERVE_ALL["flwr-datasets"], name="Iid")


@pytest.mark.parametrize("partitioner", SERVE_ALL.values(), ids=SERVE_ALL)
def test_the_built_in_ones_pass(partitioner) -> None:
    if "flwr_datasets" in str(partitioner):
        pytest.importorskip("flwr_datasets")
    check_partitioner(partitioner)


def test_pytest_shows_the_name_of_the_check_and_one_message(tmp_path) -> None:
    """A suite of a user's own, run for real: what is printed has no frame of fedloge, and one error."""
    suite = tmp_path / "test_mine.py"
    suite.write_text(
        "import pytest\n"
        "from fedloge.testing import partitioner_checks\n\n"
        "def mine(labels, num_clients, rng):\n"
        "    return [labels // 0][0]['no']\n\n"
        "@pytest.mark.parametrize('check', partitioner_checks(), ids=str)\n"
        "def test_mine(check):\n"
        "    check(mine)\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "class", suite]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert "test_mine[one class]" in done.stdout
    assert "check_partitioner 'mine', one class: it fails with IndexError" in done.stdout
    assert f"(line 5 of {suite})" in done.stdout
    assert "During handling" not in done.stdout and "direct cause" not in done.stdout
    assert "testing/partitioners.py:" not in done.stdout.replace("E  ", "")


def by_owner(owner):
    def partitioner(labels, num_clients, rng):
        return group_by_owner(owner(labels, num_clients, rng) % num_clients, num_clients)

    return partitioner


def change_labels(labels, num_clients, rng):
    labels[0] += 1
    return iid(labels, num_clients, rng)


def drop_one(labels, num_clients, rng):
    parts = iid(labels, num_clients, rng)
    return [parts[0][1:], *parts[1:]]


def calls():
    calls.n += 1
    return calls.n


calls.n = 0

BAD = {
    "belongs to an earlier client": lambda labels, n, rng: [np.arange(len(labels))] * n,
    "is outside 0..299": lambda labels, n, rng: [np.array([300])] * n,
    "index -1 is outside": lambda labels, n, rng: [np.array([-1])] * n,
    "not ascending": lambda labels, n, rng: [part[::-1] for part in iid(labels, n, rng)],
    "1-dimensional int32": lambda labels, n, rng: [p.astype(np.int32) for p in iid(labels, n, rng)],
    "int64 indices, got list": lambda labels, n, rng: [p.tolist() for p in iid(labels, n, rng)],
    "2-dimensional int64": lambda labels, n, rng: [p[None] for p in iid(labels, n, rng)],
    "list of 5 index arrays, got tuple": lambda labels, n, rng: tuple(iid(labels, n, rng)),
    "list of 5 index arrays, got 6": lambda labels, n, rng: iid(labels, n + 1, rng),
    r"1 of 300 examples belong to no client \(the first is": drop_one,
    "changes the labels": change_labels,
    "NumPy's global": by_owner(lambda labels, n, rng: np.random.permutation(len(labels))),
    "torch's global": by_owner(lambda labels, n, rng: torch.randperm(len(labels)).numpy()),
    "Python's random": by_owner(
        lambda labels, n, rng: np.arange(len(labels)) + random.randrange(n)
    ),
    "another split the second time": by_owner(
        lambda labels, n, rng: np.arange(len(labels)) + calls()
    ),
    "it fails with ZeroDivisionError": lambda labels, n, rng: 1 / 0,
    "one client: it fails with": lambda labels, n, rng: iid(labels, n, rng) if n > 1 else 1 / 0,
}


@pytest.mark.parametrize("message", BAD)
def test_a_broken_rule_is_named(message) -> None:
    with pytest.raises(PartitionError, match=message):
        check_partitioner(BAD[message])


def test_who_says_so_may_lose_images() -> None:
    def lossy(labels, num_clients, rng):
        return drop_one(labels, num_clients, rng)

    lossy.lossy = True
    check_partitioner(lossy)


def test_some_settings_may_be_refused_but_not_all() -> None:
    check_partitioner(functools.partial(pathological, classes_per_client=3))
    with pytest.raises(PartitionError, match="refuses every setting; the first is balanced"):
        check_partitioner(functools.partial(pathological, classes_per_client=0))
