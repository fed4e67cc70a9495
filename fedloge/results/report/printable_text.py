"""Text of a run in a form that a page can hold; names of a user's classes and methods may be anything."""

from __future__ import annotations

# Characters that XML 1.0 cannot hold, and lone surrogates, which UTF-8 cannot encode.
_UNPRINTABLE = dict.fromkeys((*range(9), 11, 12, *range(14, 32), 127, 65534, 65535), "�")
_UNPRINTABLE |= dict.fromkeys(range(0xD800, 0xE000), "�")


def printable(text: object) -> str:
    """Text without the characters that neither HTML nor SVG can hold."""
    return str(text).translate(_UNPRINTABLE)


def shortened(text: str, most: int = 16) -> str:
    """A name for an axis, which has little room.

    >>> shortened("a"), shortened("a-class-with-a-long-name")
    ('a', 'a-class-with-a-…')
    """
    text = printable(text)
    return text if len(text) <= most else text[: most - 1] + "…"
