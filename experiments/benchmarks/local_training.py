"""Local training without messages: one client after the other, or several at once."""

from __future__ import annotations

from torch import Tensor

from fedloge.federation.federation import Federation
from fedloge.methods.method import Part


class LocalTraining:
    """All clients of a federation train for one round, from the initial state, on its device.

    Parameters
    ----------
    at_once : clients trained together; 1: one by one.
    """

    def __init__(self, federation: Federation, at_once: int = 1) -> None:
        fed, config = federation, federation.config
        self.federation = fed
        self._stacked = fed.stack(at_once) if at_once > 1 else None
        self._at_once = at_once
        first = fed.initial
        self._shared = {n: t.to(fed.device) for n, t in first[Part.SHARED].items()}
        self._personal = {n: t.to(fed.device) for n, t in first[Part.PERSONAL].items()}
        self._clients = [fed.client_data(k, 1, self._shared) for k in range(config.num_clients)]

    def __call__(self) -> None:
        """Train; returns when the device is done."""
        fed = self.federation
        for start in range(0, len(self._clients), self._at_once):
            clients = self._clients[start : start + self._at_once]
            if self._stacked is None:
                fed.method.local_update(fed.load(self._shared, self._personal), clients[0])
            else:
                for place in range(len(clients)):
                    self._stacked.load(place, self._shared, self._personal)
                self._stacked.train(clients, epochs=fed.config.local_epochs)

    def last_client(self) -> dict[str, Tensor]:
        """The tensors of the last client after its training."""
        if self._stacked is None:
            return {name: t.clone() for name, t in self.federation.net.state_dict().items()}
        place = (len(self._clients) - 1) % self._at_once
        return {name: t.clone() for name, t in self._stacked.tensors(place).items()}
