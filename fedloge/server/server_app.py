"""The Flower ServerApp: open or continue a run's record, then run its rounds."""

from __future__ import annotations

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedloge import config as configs
from fedloge.config import Config
from fedloge.errors import RunError
from fedloge.federation import Federation, open_federation
from fedloge.federation.site import OnNodeFederation
from fedloge.server.collapse_warning import warn_of_collapse
from fedloge.server.log_lines import observed
from fedloge.server.open_roster import OpenRoster
from fedloge.server.prompt_grid import PromptGrid
from fedloge.server.reopening import reopen
from fedloge.server.roster import Roster, roster_of
from fedloge.server.rounds import run_rounds
from fedloge.server.run_record import RunRecord, create
from fedloge.server.server_audit import ServerAudit, server_audit
from fedloge.server.simulated_nodes import require_nodes, simulated

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run or resume a federation as its run config says."""
    config = configs.from_flat(context.run_config, "run config")
    if not simulated(grid):
        grid = PromptGrid(grid)
    audit = server_audit(grid, config, context)
    with observed(grid, config.log_format) as observers, audit.of_run():
        least = config.on_node_options.min_clients if config.open_roster else config.num_clients
        require_nodes(grid, least)
        federation = open_federation(config)
        roster = _introduced(grid, config, federation, audit)
        opened = (reopen if config.resume else create)(config, federation)
        with opened.held():
            roster = roster or roster_of(grid, config, federation, audit)
            sites = _open_roster(config, federation, opened, roster)
            run_rounds(grid, config, federation, opened, observers, roster, sites)
            warn_of_collapse(federation, opened)


def _introduced(
    grid: Grid, config: Config, federation: Federation, audit: ServerAudit
) -> Roster | None:
    """With ``partitioner=on-node``, ask the nodes for their image counts before the record is opened."""
    if not isinstance(federation, OnNodeFederation):
        return None
    roster = roster_of(grid, config, federation, audit)
    roster.wait(config.startup_timeout)
    members = roster.members()
    counts = {k: member.class_counts for k, member in members.items()}
    wrong = [k for k, n in counts.items() if len(n) != len(config.class_names)]
    if config.shares_class_counts and wrong:
        raise RunError(
            f"partition {wrong[0]}: expected the counts of {len(config.class_names)} classes, "
            f"got {len(counts[wrong[0]])}; give both sides the same version"
        )
    federation.tell({k: member.num_examples for k, member in members.items()}, counts)
    return roster


def _open_roster(
    config: Config, federation: Federation, record: RunRecord, roster: Roster
) -> OpenRoster | None:
    """Where sites come and go: who is there; classes are counted by who was as the run began."""
    if not config.open_roster or not isinstance(federation, OnNodeFederation):
        return None
    sites = OpenRoster(roster, record.files.rosters, config.startup_timeout)
    began = sites.at_start()
    federation.tell(began.images, began.class_counts)
    return sites
