"""Engines, which carry messages between the ServerApp and the ClientApp."""

import os

# Ray reads this when it is imported. If it were on, a driver started by `uv run` would make Ray pack
# the working directory, with runs and data, and start each worker by `uv run` in a newly built
# environment. Instead, workers on this machine share the driver's environment, and those on a cluster
# are sent this package.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
