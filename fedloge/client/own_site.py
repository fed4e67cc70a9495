"""A site as its own node config describes it: its policy and its folders, whatever a run's config says."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from fedloge import config as configs
from fedloge.audit_log import FOLDER, AuditLog
from fedloge.client.site_policy import SitePolicy, read_policy
from fedloge.config import Config
from fedloge.errors import ConfigError
from fedloge.models import names_a_file

SIMULATED = "simulated"
"""A key of the node config by which an engine says that its nodes are no sites."""


@dataclass(frozen=True)
class OwnSite:
    """What a node's own config says.

    Attributes
    ----------
    state : folder of the personal states, one folder in it for each run.
    data : folder of the site's images; empty: it has none.
    table : the site's own table of its images; empty: those in the folder are found.
    cache : folder for what can be made again; empty: the user's own.
    weights : file of pretrained weights; empty: it has none.
    """

    policy: SitePolicy
    state: Path
    data: str
    table: str
    cache: str
    weights: str
    audit: AuditLog

    def config(self, asked: Config) -> Config:
        """The run's config with this site's folders in it.

        Raises
        ------
        ConfigError
            The run needs images of the site, or a file of weights, and it has named none.
        """
        if asked.dataset == "image-folder" and not self.data:
            raise ConfigError(
                "node config: data-path is missing; name the folder of this site's images"
            )
        table = self.table if asked.dataset == "image-folder" else ""
        return asked.replace(
            data_path=self.data, table=table, cache_dir=self.cache, weights=self._weights(asked)
        )

    def _weights(self, asked: Config) -> str:
        """A hub's tag as the run names it; a file where this site has it."""
        if not asked.weights or not names_a_file(asked.weights):
            return asked.weights
        if not self.weights:
            raise ConfigError(
                "node config: weights is missing; name the file of the run's pretrained weights at this site"
            )
        return self.weights


def own_site(node_config: Mapping[str, Any]) -> OwnSite | None:
    """The site that a node config describes; None in a simulation, where nothing is forbidden.

    Raises
    ------
    ConfigError
        ``state-dir`` is missing, or the policy cannot be read.
    """
    deployed = "state-dir" in node_config or "policy" in node_config
    if not deployed and _simulated(node_config):
        return None
    if not node_config.get("state-dir"):
        raise ConfigError(
            "node config: state-dir is missing; name a folder of this site for personal models "
            "(flower-supernode --node-config)"
        )
    state = Path(str(node_config["state-dir"])).expanduser()
    named = str(node_config.get("policy", ""))
    audit = str(node_config.get("audit-dir", "")) or state / FOLDER
    return OwnSite(
        policy=read_policy(Path(named).expanduser()) if named else SitePolicy(),
        state=state,
        data=str(node_config.get("data-path", "")),
        table=str(node_config.get("table", "")),
        cache=str(node_config.get("cache-dir", "")),
        weights=str(node_config.get("weights", "")),
        audit=AuditLog(Path(audit).expanduser()),
    )


def _simulated(node_config: Mapping[str, Any]) -> bool:
    # Flower's own simulation does not say so in the node config, but its workers have this module loaded.
    return bool(node_config.get(SIMULATED)) or "flwr.simulation.ray_transport" in sys.modules


def config_of(run_config: Mapping[str, Any], site: OwnSite | None) -> Config:
    """The run's config as it holds here."""
    asked = _config(tuple(run_config.items()))
    return asked if site is None else site.config(asked)


@lru_cache(maxsize=2)
def _config(items: tuple[tuple[str, Any], ...]) -> Config:
    return configs.from_flat(dict(items), "run config")
