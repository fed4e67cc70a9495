"""Who trains at the moment in an asynchronous run, and from which model; a checkpoint holds all of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from flwr.app import ArrayRecord
from torch import Tensor

from fedloge.messages import encode

FLIGHTS = "buffer."
"""What the names of these tensors in a checkpoint begin with."""
_BASE = f"{FLIGHTS}base."


@dataclass(frozen=True)
class Flight:
    """A client at work.

    Attributes
    ----------
    base : the step of the model that it was sent; 0 before the first.
    number : of its draw, from 0 over the run.
    due : when it will have answered, by a simulated clock; 0 without.
    """

    client: int
    base: int
    number: int
    due: float


@dataclass(frozen=True)
class SentModel:
    """A model as clients are sent it, in a message's form and as tensors."""

    arrays: ArrayRecord
    tensors: Mapping[str, Tensor]


class Flights:
    """The clients at work and the models that they began from.

    Parameters
    ----------
    kept : the server's tensors in a checkpoint, of which those of flights are read; empty for a new run.
    wire_dtype : as in `fedloge.messages.encode`.

    Attributes
    ----------
    of : flights by client.
    drawn : how many clients have been drawn in the run.
    """

    def __init__(self, kept: Mapping[str, Tensor], wire_dtype: str) -> None:
        self.of: dict[int, Flight] = {}
        self.drawn = int(kept.get(f"{FLIGHTS}drawn", torch.zeros(1, dtype=torch.int64)))
        self._models: dict[int, SentModel] = {}
        due = kept.get(f"{FLIGHTS}due", torch.empty(0)).tolist()
        rows = kept.get(f"{FLIGHTS}flights", torch.empty(0, 3)).tolist()
        for (client, base, number), time in zip(rows, due, strict=True):
            self.of[client] = Flight(client, base, number, time)
        models: dict[int, dict[str, Tensor]] = {}
        for name, tensor in kept.items():
            if name.startswith(_BASE):
                step, _, own = name.removeprefix(_BASE).partition("/")
                models.setdefault(int(step), {})[own] = tensor
        for known, tensors in models.items():
            self.sent(known, SentModel(encode(tensors, wire_dtype), tensors))

    def sent(self, step: int, model: SentModel) -> None:
        """From now on clients are sent the model after `step`."""
        self._models[step] = model

    def model(self, step: int) -> SentModel:
        """The model after a step, of which a client at work has it."""
        return self._models[step]

    def begin(self, client: int, base: int, due: float) -> Flight:
        """A client that has been drawn begins."""
        flight = self.of[client] = Flight(client, base, self.drawn, due)
        self.drawn += 1
        return flight

    def oldest(self, otherwise: int) -> int:
        """The oldest model that a client at work began from; `otherwise` if none is at work."""
        return min((flight.base for flight in self.of.values()), default=otherwise)

    def forget_models(self) -> None:
        """Drop the models of which no client at work has one."""
        needed = {flight.base for flight in self.of.values()}
        self._models = {step: model for step, model in self._models.items() if step in needed}

    def state(self) -> dict[str, Tensor]:
        """Tensors for a checkpoint."""
        flights = sorted(self.of.values(), key=lambda flight: flight.number)
        rows = [(flight.client, flight.base, flight.number) for flight in flights]
        state = {
            f"{FLIGHTS}drawn": torch.tensor([self.drawn]),
            f"{FLIGHTS}flights": torch.tensor(rows, dtype=torch.int64).reshape(-1, 3),
            f"{FLIGHTS}due": torch.tensor([f.due for f in flights], dtype=torch.float64),
        }
        for step, model in self._models.items():
            state |= {f"{_BASE}{step}/{name}": tensor for name, tensor in model.tensors.items()}
        return state
