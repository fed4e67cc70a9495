"""The Flower ServerApp: open or continue a run's record, then run its rounds."""

from __future__ import annotations

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedloge import config as configs
from fedloge.federation import open_federation
from server import record
from server.rounds import run_rounds
from server.spoken import spoken

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run a federation as its run config says."""
    with spoken():
        config = configs.from_flat(context.run_config, "run config")
        federation = open_federation(config)
        opened = (record.reopen if config.resume else record.create)(config, federation)
        with opened.held():
            run_rounds(grid, config, federation, opened)
