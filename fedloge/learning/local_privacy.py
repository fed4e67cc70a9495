"""How a client's training is made private, as its loops are told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from fedloge.learning.privacy_accountant import Spending
from fedloge.learning.private_draws import Draws


@dataclass
class LocalPrivacy:
    """How a client's training is made private in one round.

    Attributes
    ----------
    clip : the L2 norm to which the gradient of an example is clipped, above 0.
    noise : the noise multiplier, 0 or more; the noise's deviation is ``clip * noise``.
    draws : the randomness of one loop, by its purpose.
    before : is told of the steps that a loop is going to take, and may refuse them by raising.
    spent : the steps of this round's loops so far.
    """

    clip: float
    noise: float
    draws: Callable[[str], Draws]
    before: Callable[[Spending], None]
    spent: list[Spending] = field(default_factory=list)

    def spend(self, steps: Spending) -> None:
        """Count the steps of a loop; whatever `before` raises ends the training before it begins."""
        self.before(steps)
        self.spent.append(steps)
