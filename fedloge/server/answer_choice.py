"""Whose answers count, where more clients are asked than are needed.

Of the good answers that are in by the deadline those count that come first in the order in which
clients were drawn. So to be a second faster wins nobody a place, and data that lie with slow clients are left out
only where they miss the deadline. If too few are in by then, the next that come fill the places. Without a
deadline the first that come count.
"""

from __future__ import annotations

from collections.abc import Sequence


class AnswerChoice:
    """The choice among the answers of one round, told of them in the order in which they come.

    Parameters
    ----------
    order : the clients that were asked, in the order of the draw.
    needed : how many answers count, 1 or more.
    deadline : seconds after the round's beginning.
    """

    def __init__(self, order: Sequence[int], needed: int, deadline: float) -> None:
        self._order, self._needed, self._deadline = list(order), needed, deadline
        self._came: list[int] = []
        self._failed: set[int] = set()
        self._in_time = 0
        self._past = False

    def came(self, client: int, seconds: float) -> None:
        """A good answer has come, `seconds` after the round's beginning."""
        self.time_is(seconds)
        self._came.append(client)
        self._in_time += not self._past

    def failed(self, client: int, seconds: float) -> None:
        """A client has answered with nothing that can be used."""
        self.time_is(seconds)
        self._failed.add(client)

    def time_is(self, seconds: float) -> None:
        """Seconds have passed since the round's beginning; an answer just at the deadline is in time."""
        self._past = self._past or seconds > self._deadline

    @property
    def settled(self) -> bool:
        """Whether no further answer can change who is taken."""
        if self._past:
            nobody_else = len(self._came) + len(self._failed) >= len(self._order)
            return len(self._came) >= self._needed or nobody_else
        hoped_for = [client for client in self._order if client not in self._failed]
        return set(hoped_for[: self._needed]) <= set(self._came)

    @property
    def taken(self) -> list[int]:
        """Whose answers count, ascending; fewer than needed, where too few have come."""
        in_time = sorted(self._came[: self._in_time], key=self._order.index)
        return sorted([*in_time, *self._came[self._in_time :]][: self._needed])
