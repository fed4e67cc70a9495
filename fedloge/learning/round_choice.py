"""Which round a run is best after, by validation examples, and when it may end.

The test set has no say. The figures are those that ``validation-share`` adds to the lines of
``metrics.jsonl``, so whoever reads a run finds the same round as the server did.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

By = Literal["auto", "global", "personal"]


@dataclass(frozen=True)
class RoundChoice:
    """The best round so far.

    Attributes
    ----------
    round : the first of those with the highest value.
    figure : by which it was chosen, a key of ``metrics.jsonl``.
    value : of the figure, in [0, 1].
    waited : evaluations since then, none of which was better.
    """

    round: int
    figure: str
    value: float
    waited: int


def chosen_round(
    rows: Sequence[Mapping[str, Any]], primary: Mapping[str, str | None], by: By
) -> RoundChoice | None:
    """The best round so far; None before the first evaluation with validation examples.

    Parameters
    ----------
    rows : the lines of ``metrics.jsonl`` so far.
    primary : by side, ``global`` and ``personal``, the model that the method is judged by.
    by : ``global``: the mean over classes of the global model's accuracy; where that model is made from
        clients' sums, the averaged one's. ``personal``: the mean over clients of the personal models'.
        ``auto``: global if there is such a figure, else personal.
    """
    for figure in _figures(primary, by):
        found = [(int(row["round"]), float(row[figure])) for row in rows if figure in row]
        if found:
            best, value = max(found, key=lambda pair: (pair[1], -pair[0]))
            return RoundChoice(best, figure, value, sum(round > best for round, _ in found))
    return None


def _figures(primary: Mapping[str, str | None], by: By) -> list[str]:
    found = []
    if by != "personal" and (name := primary.get("global")):
        found = [f"probe/validation/{model}/balanced" for model in (name, "raw")]
    if by != "global" and (name := primary.get("personal")):
        found.append(f"personal/{name}/validation")
    return found
