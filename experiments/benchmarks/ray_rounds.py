"""Rounds on Ray, each on a chosen number of workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import noise_data
from round_by_round import RoundByRound

from fedloge.engines.ray import RayGrid
from fedloge.observer import Observer, Observers
from fedloge.server.server_app import app as server_app


class GridOfSomeWorkers(RayGrid):
    """A grid that can use only some of its workers."""

    def use(self, workers: int) -> None:
        """Use the first `workers` workers from the next round on."""
        self._everybody = getattr(self, "_everybody", self._workers)
        self._workers = self._everybody[:workers]

    def run_observed(self, observer: Observer) -> None:
        """Run a federation to its end."""
        self.observers = Observers((observer,))
        server_app(self, self.server_context())


@contextmanager
def ray_rounds(
    model: str,
    images: int,
    clients: int,
    shape: tuple[int, int, int] = (3, 32, 32),
    epochs: int = 1,
) -> Iterator[Callable[[int], float]]:
    """A function that runs a round on so many workers and returns the seconds of its training.

    All clients take part, and each holds `images` training images.
    """
    data = noise_data.data_set(images * clients, 40, shape)
    settings = {"model": model, "local_epochs": epochs, "checkpoint_every": noise_data.NEVER}
    everybody = {"num_clients": clients, "clients_per_round": clients, "ray_workers": 2}
    with noise_data.federation(data, **settings, **everybody) as fed:
        grid = GridOfSomeWorkers(fed.config)
        try:
            with RoundByRound(grid.run_observed) as run:

                def rounds_on(workers: int) -> float:
                    grid.use(workers)
                    return run.seconds("train-seconds")

                yield rounds_on
        finally:
            grid.close()
