"""Every test runs on one thread, away from the user's cache, and reports to nobody."""

from __future__ import annotations

import os
import tempfile

# Before torch, Flower and Ray are imported, and for the processes that tests start.
os.environ |= {
    "OMP_NUM_THREADS": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
_cache = tempfile.TemporaryDirectory(prefix="fedloge-cache-")
os.environ["FEDLOGE_CACHE"] = _cache.name
