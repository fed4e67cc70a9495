"""The configuration of a run: flat and frozen, with tables of options, and how it is read."""

from fedloge.config.comparing import differences
from fedloge.config.keys import OPERATIONAL, TABLES, Config, keys
from fedloge.config.on_node import OnNodeOptions
from fedloge.config.reading import from_flat, load, parse_overrides
from fedloge.config.server_keys import PERSONAL_HEADS
from fedloge.config.tables import Scalar

__all__ = [
    "OPERATIONAL",
    "PERSONAL_HEADS",
    "TABLES",
    "Config",
    "OnNodeOptions",
    "Scalar",
    "differences",
    "from_flat",
    "keys",
    "load",
    "parse_overrides",
]
