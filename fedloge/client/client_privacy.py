"""Privacy of a client's examples in training: where its noise comes from, and what it has cost."""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from fedloge.client.privacy_ledger import PrivacyLedger
from fedloge.client.site_policy import SitePolicy
from fedloge.config import Config
from fedloge.errors import UpdateError
from fedloge.learning.local_privacy import LocalPrivacy
from fedloge.learning.privacy_accountant import Spending, epsilon
from fedloge.learning.private_draws import Draws, SeededDraws, SystemDraws
from fedloge.messages import LARGEST_FIGURE, Stamp


@dataclass(frozen=True)
class ClientPrivacy:
    """What `local-dp-clip` means at one client.

    Parameters
    ----------
    policy, ledger : of the site; None in a simulation.
    """

    config: Config
    client: int
    policy: SitePolicy | None = None
    ledger: PrivacyLedger | None = None

    def of_round(self, stamp: Stamp) -> LocalPrivacy:
        """How the loops of one round are made private."""
        config = self.config
        return LocalPrivacy(
            config.local_dp_clip,
            config.local_dp_noise,
            self._draws(stamp),
            partial(self._spend, stamp),
        )

    @property
    def seed(self) -> int:
        """Of what else is random in training, such as dropout; at a site nobody's but its own."""
        return self.config.seed if self.policy is None else secrets.randbits(128)

    @property
    def tells_figures(self) -> bool:
        """Whether figures that the noise does not cover may leave."""
        return self.policy is None or self.policy.uncovered_figures

    def figures(
        self, stamp: Stamp, spent: Sequence[Spending], rounds: int, trained: dict[str, float]
    ) -> dict[str, float]:
        """What a client tells of its training: in a simulation its losses; epsilon so far, where it may be told.

        Parameters
        ----------
        spent : the steps of this round.
        rounds : how many like it there have been, this one included.
        trained : the figures of training, which are not private.

        `UpdateError`: in a simulation, a figure of training is not finite.
        """
        told: dict[str, float] = {}
        if self.policy is None:
            for name, value in trained.items():
                if not math.isfinite(value):
                    raise UpdateError(
                        f"client {self.client}, round {stamp.round}: {name} is {value}; training diverged: lower "
                        "lr or local-dp-noise"
                    )
            told = {f"train/{name}": value for name, value in trained.items()}
        so_far = self._epsilon(stamp, spent, rounds)
        return told | ({"epsilon": so_far} if so_far < LARGEST_FIGURE else {})

    def _epsilon(self, stamp: Stamp, spent: Sequence[Spending], rounds: int) -> float:
        delta = self.config.local_dp_delta
        if self.ledger is None or self.policy is None:
            return epsilon([replace(one, steps=one.steps * rounds) for one in spent], delta)
        if not self.policy.tell_epsilon:
            return math.inf
        return self.ledger.epsilon_of(stamp.run_id, delta)

    def _spend(self, stamp: Stamp, steps: Spending) -> None:
        if self.ledger is not None:
            self.ledger.spend(stamp.run_id, stamp.run_name, steps)

    def _draws(self, stamp: Stamp) -> partial[Draws]:
        if self.policy is None:
            return partial(self._seeded, stamp.round)
        return partial(_of_the_system)

    def _seeded(self, round: int, purpose: str) -> Draws:
        return SeededDraws(self.config.seed, purpose, round, self.client)


def _of_the_system(purpose: str) -> Draws:
    return SystemDraws()
