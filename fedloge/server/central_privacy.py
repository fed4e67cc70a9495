"""Central differential privacy at the level of clients, with its epsilon.

The mechanism is Flower's wrapper (server-side fixed clipping, Gaussian noise;
McMahan et al. 2018, arXiv 1710.06963), the accountant Google's dp-accounting.

Epsilon covers the shared tensors of every round, against someone who sees all of
them, for adding or removing one client. Clients are drawn from the public seed, so
sampling hides nothing and amplifies nothing. A client's loss composes over the rounds
it was drawn for, and the largest is reported. The noise comes from the operating
system's entropy. Such a run cannot be reproduced: with noise from the public seed,
anyone could subtract it. Personal figures and class counts that clients report are
not covered.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping
from torch import Tensor

from fedloge.config import Config
from fedloge.errors import ConfigError, RunError
from fedloge.federation.federation import Federation
from fedloge.messages import decode
from fedloge.server.strategy import RoundStrategy


class Averaging(Protocol):
    """Draws the clients of a round, and averages their answers."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One message for each client drawn this round."""

    def average(
        self, round: int, replies: Iterable[Message]
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """The shared tensors after the round, and the mean of the clients' figures."""


def with_privacy(strategy: RoundStrategy, federation: Federation) -> Averaging:
    """The strategy itself, or with clipping and noise where the config asks for privacy.

    Raises
    ------
    ConfigError
        The method or a probe sends sums, which the noise does not cover, or the network shares
        running variances, which it might make negative.
    """
    config = federation.config
    if not config.dp_clip:
        return strategy
    if any(strategy.uplinks.values()):
        raise ConfigError(
            f"dp-clip: method {config.method!r} or a probe sends further sums, which this noise does "
            "not cover; use another method, or no probes"
        )
    if any(name.endswith("running_var") for name in strategy.template):
        raise ConfigError(
            "dp-clip: noise may turn a running variance negative; use norm=group or norm-sharing=affine"
        )
    return _PrivateAveraging(strategy)


class _PrivateAveraging:
    """Flower's wrapper around the strategy. It returns records, which are decoded here."""

    def __init__(self, strategy: RoundStrategy) -> None:
        config = strategy.config
        self._strategy, self._template = strategy, strategy.template
        self._wrapper = DifferentialPrivacyServerSideFixedClipping(
            strategy, config.dp_noise, config.dp_clip, config.clients_per_round
        )

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """As the strategy's; the wrapper keeps the model, to clip the updates against it."""
        return self._wrapper.configure_train(server_round, arrays, config, grid)

    def average(
        self, round: int, replies: Iterable[Message]
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """The mean of clipped updates with noise; `RunError` if any client that was asked failed."""
        replies = list(replies)
        # The wrapper reads them before the strategy does.
        self._strategy.check(round, replies)
        arrays, metrics = self._wrapper.aggregate_train(round, replies)
        if arrays is None or metrics is None:
            raise RunError(
                f"round {round}: a client raised an error, and under privacy all who are asked must "
                "answer; see the run's log, then resume"
            )
        # The wrapper may have changed the numbers' width.
        tensors = decode(arrays)
        shared = {name: tensors[name].to(t.dtype) for name, t in self._template.items()}
        figures = {key: float(v) for key, v in metrics.items() if isinstance(v, (int, float))}
        return shared, figures


class Epsilon:
    """The privacy spent so far, of the client that was drawn most often; needs `dp-noise` above 0.

    Raises
    ------
    ConfigError
        dp-accounting is not installed.
    """

    def __init__(self, config: Config) -> None:
        try:
            # An extra, which need not be installed.
            from dp_accounting import dp_event, rdp
        except ImportError:
            raise ConfigError(
                "dp-clip needs the accountant: pip install 'fedloge[privacy]'"
            ) from None
        self._config = config
        self._event, self._accountant = dp_event.GaussianDpEvent, rdp.RdpAccountant

    def after(self, strategy: RoundStrategy, round: int) -> float:
        """Epsilon at the config's `dp-delta` after rounds 1 to `round`."""
        drawn = [0] * self._config.num_clients
        for past in range(1, round + 1):
            for client in strategy.sample(past):
                drawn[client] += 1
        accountant = self._accountant()
        accountant.compose(self._event(self._config.dp_noise), max(drawn))
        return float(accountant.get_epsilon(self._config.dp_delta))


def privacy_figures(spent: Epsilon | None, strategy: RoundStrategy, round: int) -> dict[str, float]:
    """What a round's record says of privacy.

    ``privacy/epsilon`` is central privacy's; ``privacy/local-epsilon`` the largest that the round's clients
    told of their own.
    """
    told = [float(row["epsilon"]) for row in strategy.outcome.replies.values() if "epsilon" in row]
    found = {"privacy/local-epsilon": max(told)} if told else {}
    return found | ({"privacy/epsilon": spent.after(strategy, round)} if spent is not None else {})
