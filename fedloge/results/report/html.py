"""HTML and SVG elements as values: what is not already markup is escaped, always.

The output is well-formed as XML too, so that every `svg` of a page can be taken out
and read on its own.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

_VOID = frozenset({"br", "col", "hr", "link", "meta"})
# What XML 1.0 cannot hold, and lone surrogates, which UTF-8 cannot.
_UNPRINTABLE = dict.fromkeys((*range(9), 11, 12, *range(14, 32), 127, 65534, 65535), "�")
_UNPRINTABLE |= dict.fromkeys(range(0xD800, 0xE000), "\ufffd")


class Markup(str):
    """A string that is markup and must not be escaped again."""

    __slots__ = ()


Child = str | int | Markup | None


def escape(text: object) -> Markup:
    """`text` as markup: escaped, unless it is markup already."""
    if isinstance(text, Markup):
        return text
    return Markup(html.escape(str(text).translate(_UNPRINTABLE)))


def tag(name: str, /, *children: Child, **attributes: str | int | bool | None) -> Markup:
    """An element. ``class_`` gives class, ``data_x`` gives data-x; None leaves an attribute out.

    >>> tag("p", "a < b", tag("br"), class_="note")
    '<p class="note">a &lt; b<br/></p>'
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape("" if value is True else value)}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if name in _VOID:
        return Markup(f"<{name}{written}/>")
    return Markup(f"<{name}{written}>{join(children)}</{name}>")


def join(children: Iterable[Child]) -> Markup:
    """Elements and text one after the other."""
    return Markup("".join(escape(child) for child in children if child is not None))


def table(
    headings: Sequence[str],
    rows: Iterable[Sequence[Child]],
    *,
    text_columns: int = 1,
    caption: str | None = None,
    marked: Iterable[int] = (),
) -> Markup:
    """A table: the first `text_columns` columns are text, the others figures set right.

    The first column is the row's heading; `marked` are the rows to stand out.
    """
    kinds = ["text" if i < text_columns else "num" for i in range(len(headings))]
    head = join(
        tag("th", heading, class_=kind, scope="col")
        for heading, kind in zip(headings, kinds, strict=True)
    )
    stand_out = set(marked)
    body = []
    for number, row in enumerate(rows):
        first = tag("th", row[0], class_=kinds[0], scope="row")
        rest = [tag("td", cell, class_=kind) for cell, kind in zip(row[1:], kinds[1:], strict=True)]
        body.append(tag("tr", first, *rest, class_="marked" if number in stand_out else None))
    listed = tag(
        "table",
        tag("thead", tag("tr", head)),
        tag("tbody", *body),
        aria_label=caption or headings[0],
    )
    return tag(
        "div",
        # Not a caption element: that would scroll away with the columns on a phone.
        tag("p", caption, class_="caption") if caption else None,
        tag(
            "div", listed, class_="scroll", tabindex=0, role="region", aria_label=caption or "table"
        ),
        class_="table",
    )


def details(summary: str, *children: Child, open: bool = False) -> Markup:
    """A part of the page that is folded away until asked for."""
    return tag("details", tag("summary", summary), *children, open=open)
