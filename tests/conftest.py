"""Every test runs on one thread, away from the user's cache, and reports to nobody.

Tests are shared out between two processes, module by module; what starts whole systems (Ray,
Flower, a deployment) stays in one of them, and begins first.
"""

from __future__ import annotations

import os
import random
import tempfile
from typing import Any

import pytest

# Before torch, Flower and Ray are imported, and for the processes that tests start.
os.environ |= {
    "OMP_NUM_THREADS": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
# Without bytecode, each process that a test starts would compile torch anew: seconds each time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
_cache = tempfile.TemporaryDirectory(prefix="fedloge-cache-")
os.environ["FEDLOGE_CACHE"] = _cache.name
_state = tempfile.TemporaryDirectory(prefix="fedloge-state-")
os.environ["FEDLOGE_STATE"] = _state.name

TOGETHER = ("tests/deployment/", "tests/engines/test_ray.py", "tests/engines/test_flwr_run.py")
"""Modules and folders whose tests one process runs; the longest first."""


@pytest.fixture(autouse=True)
def same_draws() -> None:
    """What a test draws at random does not depend on the tests before it."""
    # Not at the top: the number of threads is read as these are imported.
    import numpy as np
    import torch

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def pytest_configure(config: pytest.Config) -> None:
    """Refuse a path that is not there: the processes that collect would not say so."""
    for path in (config.invocation_params.dir / arg.partition("::")[0] for arg in config.args):
        if not path.exists():
            raise pytest.UsageError(f"no such file or folder: {path}")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest modules first, so that the two processes end at about the same time."""
    items.sort(key=lambda item: not item.nodeid.startswith(TOGETHER))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Share out whole modules, so that what their fixtures make is made once."""
    from xdist.scheduler import LoadScopeScheduling  # only where tests are shared out

    class ByModule(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            module = nodeid.partition("::")[0]
            return module if not module.startswith(TOGETHER) else TOGETHER[0]

    return ByModule(config, log)
