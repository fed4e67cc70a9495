"""Engines: each carries the messages of the same two apps."""

import os

# Read by Ray when it is imported. Left on, a driver started by `uv run` makes Ray pack the working
# directory, runs and data in it included, and start each worker by `uv run` in an environment of its
# own, built anew. Workers on this machine share the driver's; on a cluster they are sent our packages.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
