"""What server and clients derive from a config: data, partition, network, fingerprint."""

from fedloge.federation.federation import Federation
from fedloge.federation.opening import open_federation, open_site, settled
from fedloge.federation.site import OnNodeFederation

__all__ = ["Federation", "OnNodeFederation", "open_federation", "open_site", "settled"]
