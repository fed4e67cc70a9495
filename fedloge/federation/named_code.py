"""What a config names (method, model, data set, partitioner, probes), and which of it is code of someone's own."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass

from fedloge.config import Config
from fedloge.data.sources import SOURCES
from fedloge.learning.probes import PROBES
from fedloge.methods import METHODS
from fedloge.partition.builtin import BUILTIN as PARTITIONERS
from fedloge.plugins import names_a_plugin, plugin_file


@dataclass(frozen=True)
class Named:
    """One name in a config.

    Attributes
    ----------
    kind : ``method``, ``model``, ``dataset``, ``partitioner`` or ``probe``.
    builtin : the names of this kind that come with fedloge; of models none is listed.
    """

    kind: str
    name: str
    builtin: Collection[str]

    @property
    def kinds(self) -> str:
        """The kind in the plural."""
        return f"{self.kind}s"

    @property
    def is_plugin(self) -> bool:
        """Whether it is not fedloge's own; nothing is executed to find out."""
        return self.name not in self.builtin and names_a_plugin(self.name, self._group)

    @property
    def sha256(self) -> str:
        """SHA-256 of the file that loading a plug-in would execute; empty if there is no such file here."""
        file = plugin_file(self.name, self._group)
        try:
            return hashlib.sha256(file.read_bytes()).hexdigest() if file else ""
        except OSError:
            return ""

    @property
    def _group(self) -> str:
        return f"fedloge.{self.kinds}"


def named_in(config: Config) -> list[Named]:
    """All that a config names."""
    probes = (part.strip() for part in config.probes.split(","))
    return [
        Named("method", config.method, METHODS),
        Named("model", config.model, ()),
        Named("dataset", config.dataset, SOURCES),
        Named("partitioner", config.partitioner, {*PARTITIONERS, "on-node"}),
        *(Named("probe", probe, PROBES) for probe in probes if probe),
    ]
