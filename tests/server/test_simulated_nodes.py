"""How many SuperNodes Flower simulates, asked of its own grid."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import harness
import pytest
from flwr.proto.task_pb2 import Task
from flwr.server.superlink.fleet.vce.vce_api import _register_nodes
from flwr.server.superlink.linkstate import InMemoryLinkState, LinkStateFactory
from flwr.server.superlink.linkstate.in_memory_linkstate import RunRecord
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME, NOOP_FEDERATION_ID
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run
from flwr.superlink.federation import NoOpFederationManager
from flwr.superlink.grid import InMemoryGrid

from fedloge.engines.local import LocalGrid
from fedloge.errors import RunError
from fedloge.server.simulated_nodes import require_nodes, simulated


def flowers_grid() -> tuple[InMemoryGrid, LinkStateFactory]:
    """As `flwr-simulation` makes it."""
    factory = LinkStateFactory(
        FLWR_IN_MEMORY_DB_NAME, NoOpFederationManager(), ObjectStoreFactory()
    )
    run = Run.create_empty(run_id=7)
    run.primary_task_id, run.federation_id = 1, NOOP_FEDERATION_ID
    state = factory.state()
    assert isinstance(state, InMemoryLinkState)
    state.run_ids[run.run_id] = RunRecord(run=run)
    state.task_store[1] = Task(task_id=1, run_id=run.run_id)
    grid = InMemoryGrid(state_factory=factory)
    grid.set_run(run)
    return grid, factory


def test_too_few_are_refused_with_the_remedy() -> None:
    grid, factory = flowers_grid()
    _register_nodes(2, factory)
    with pytest.raises(RunError, match=r"simulates 2 .* --federation-config num-supernodes=20$"):
        require_nodes(grid, 20, settled=0.2)
    require_nodes(grid, 2)


def test_nodes_that_are_still_being_added_are_waited_for() -> None:
    grid, factory = flowers_grid()

    def add() -> None:
        for _ in range(6):
            time.sleep(0.2)
            _register_nodes(1, factory)

    adding = threading.Thread(target=add)
    adding.start()
    require_nodes(grid, 6, settled=5)
    adding.join()


def test_a_simulation_is_told_from_a_deployment(tmp_path: Path) -> None:
    assert simulated(flowers_grid()[0])
    local = LocalGrid(harness.tiny(tmp_path))
    assert simulated(local)
    local.nodes_are_fixed = False
    assert not simulated(local)
    require_nodes(local, 10**6)  # its nodes may still come
