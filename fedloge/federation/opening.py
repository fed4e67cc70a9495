"""The federations that a process has open: built once, used again for the next message."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable
from pathlib import Path

import torch

from fedloge.config import Config
from fedloge.data.examples import DataSet
from fedloge.errors import ConfigError
from fedloge.federation.federation import Federation
from fedloge.federation.memory import keep_freed_memory
from fedloge.federation.site import SERVER, OnNodeFederation
from fedloge.partition import number_is_open, with_all_clients

_KEPT = {Federation: 2, OnNodeFederation: 16}
_open: dict[Hashable, Federation] = {}


def open_federation(config: Config, data: DataSet | None = None) -> Federation:
    """The federation of a config, kept in this process.

    With ``partitioner=on-node`` it is the server's view (`OnNodeFederation`).

    Parameters
    ----------
    data : the data set, if it is loaded already.
    """
    if config.on_node:
        return open_site(config)
    if not config.num_clients:
        raise ConfigError(
            "num-clients is 0, as many as the data name; here it must be stated: set it to the number of "
            "clients that 'fedloge partition' shows"
        )
    torch.set_num_threads(config.threads)
    keep_freed_memory()
    return _kept(Federation, (config,), lambda: Federation(config, data))


def settled(config: Config) -> Config:
    """The config with as many clients as there are (see `with_all_clients`); its federation is opened."""
    if not number_is_open(config):
        return config
    federation = Federation(config)
    whole = with_all_clients(config, federation.train_labels, federation.train_manifest)
    # Opened with the data that are loaded already.
    open_federation(whole, federation.images)
    return whole


def open_site(config: Config, site: int = SERVER, own: str = "") -> OnNodeFederation:
    """The federation as one site sees it, kept in this process.

    Parameters
    ----------
    site : a client's partition id, or `SERVER`.
    own : ``data-path`` of the node's own config. If empty, as in a simulation, client K's images
        are in ``client-K`` under the config's `data_path`, beside the server's ``test``.
    """
    torch.set_num_threads(config.threads)
    base = Path(config.data_path).expanduser()
    folder: Path | None = Path(own) if own else base / f"client-{site}"
    if site == SERVER:
        folder = base if config.data_path and (base / "test").is_dir() else None
    opened = _kept(
        OnNodeFederation, (config, site, own), lambda: OnNodeFederation(config, site, folder)
    )
    assert isinstance(opened, OnNodeFederation)
    return opened


def _kept(kind: type[Federation], what: Hashable, build: Callable[[], Federation]) -> Federation:
    # With the process id, so that a forked worker does not share its parent's network.
    key = (kind, what, os.getpid())
    federation = _open.pop(key, None) or build()
    _open[key] = federation  # the newest last
    of_kind = [other for other in _open if isinstance(other, tuple) and other[0] is kind]
    for oldest in of_kind[: -_KEPT[kind]]:
        del _open[oldest]
    return federation
