"""Central differential privacy at the level of clients, with its epsilon.

The mechanism is Flower's wrapper (server-side fixed clipping, Gaussian noise;
McMahan et al. 2018, arXiv 1710.06963), the accountant Google's dp-accounting.

What the figure covers: the shared tensors of every round, against someone who
sees all of them, for adding or removing one client. Clients are drawn from the
public seed, so their sampling hides nothing and amplifies nothing: a client's
loss composes over the rounds it was drawn for, and the largest is reported. The
noise comes from the operating system's entropy, not from the seed; such a run is
therefore not reproducible, or its noise could be subtracted. Personal figures
and class counts that clients report are not covered.
"""

from __future__ import annotations

from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, Strategy

from fedloge.config import Config
from fedloge.errors import ConfigError
from fedloge.federation.federation import Federation
from fedloge.server.strategy import RoundStrategy


def with_privacy(strategy: RoundStrategy, federation: Federation) -> Strategy:
    """The strategy, wrapped where the config asks for privacy.

    Raises
    ------
    ConfigError
        The method or the network sends something the noise does not cover.
    """
    config = federation.config
    if not config.dp_clip:
        return strategy
    if any(strategy.uplinks.values()):
        raise ConfigError(
            f"dp-clip: method {config.method!r} sends further sums, which this noise does not cover; "
            "use another method"
        )
    if any(name.endswith("running_var") for name in strategy.template):
        raise ConfigError(
            "dp-clip: noise may turn a running variance negative; use norm=group or norm-sharing=affine"
        )
    return DifferentialPrivacyServerSideFixedClipping(
        strategy, config.dp_noise, config.dp_clip, config.clients_per_round
    )


class Epsilon:
    """The privacy spent so far, by the client that was drawn most often; needs `dp-noise` above 0.

    Raises
    ------
    ConfigError
        dp-accounting is not installed.
    """

    def __init__(self, config: Config) -> None:
        try:
            from dp_accounting import dp_event, rdp
        except ImportError:
            raise ConfigError(
                "dp-clip needs the accountant: pip install 'fedloge[privacy]'"
            ) from None
        self._config = config
        self._event, self._accountant = dp_event.GaussianDpEvent, rdp.RdpAccountant

    def after(self, strategy: RoundStrategy, round: int) -> float:
        """Epsilon at `dp-delta` after rounds 1 to `round`."""
        drawn = [0] * self._config.num_clients
        for past in range(1, round + 1):
            for client in strategy.sample(past):
                drawn[client] += 1
        accountant = self._accountant()
        accountant.compose(self._event(self._config.dp_noise), max(drawn))
        return float(accountant.get_epsilon(self._config.dp_delta))
