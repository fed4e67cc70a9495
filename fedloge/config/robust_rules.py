"""How many answers a robust rule needs to stand up to f misbehaving clients."""

from __future__ import annotations


def answers_needed(rule: str, bad: int) -> int:
    """The fewest answers among which `rule` stands up to `bad` misbehaving ones.

    krum: 2f + 3 (Blanchard et al. 2017, proposition 2). With fewer, it judges an answer by its
    one nearest neighbour or none, and two equal liars win. Any other rule: more good than bad.

    >>> answers_needed("krum", 1), answers_needed("trimmed-mean", 1)
    (5, 3)
    """
    return 2 * bad + (3 if rule == "krum" else 1)


def needs_answers(rule: str, bad: int) -> str:
    """`answers_needed` in words.

    >>> needs_answers("krum", 1)
    'krum needs 5 or more (2f + 3), or its choice may be a liar'
    """
    if rule == "krum":
        return (
            f"krum needs {answers_needed(rule, bad)} or more (2f + 3), or its choice may be a liar"
        )
    return f"{rule} needs {answers_needed(rule, bad)} or more, less than half of them bad"
