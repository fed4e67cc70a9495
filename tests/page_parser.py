"""A report as a test reads it: parsed, checked for what every page must be, and asked by name."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser


class Page(HTMLParser):
    """Checks that elements nest, and gathers text, headings, tables, and each chart's own."""

    VOID = frozenset({"meta", "link", "br", "input", "img"})

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.text: list[str] = []
        self.titles: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.names: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.drawn: dict[str, list[str]] = {}
        self.hover: dict[str, list[str]] = {}
        self.spoken: list[str] = []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        given = {name: value or "" for name, value in attrs}
        assert not [name for name in given if name.startswith("on")]
        self.ids += [given["id"]] if "id" in given else []
        self.links += [given[name] for name in ("href", "src", "xlink:href") if name in given]
        if tag == "svg" and given.get("role") == "img":
            self.spoken.append(given["aria-label"])
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in self.VOID or "svg" in self.open
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        inside = self.open[-1] if self.open else ""
        if inside == "style":
            return
        if "svg" in self.open:
            found = self.hover if inside == "title" else self.drawn
            if data.strip():
                found.setdefault(self.titles[-1] if self.titles else "", []).append(data)
            return
        self.text.append(data)
        if inside in ("figcaption", "h2"):
            self.titles.append(data)
        if inside in ("td", "th"):
            self.tables[-1][-1][-1] += data

    def said(self) -> str:
        return " ".join(" ".join(self.text).split())

    def table(self, *headings: str) -> list[list[str]]:
        """The rows of the first table that has these headings."""
        return next(t[1:] for t in self.tables if t[0][: len(headings)] == list(headings))


def check_page(source: str, most: int = 1_000_000) -> Page:
    """Well-formed, of one file, without a script, every chart an XML document that is named."""
    assert len(source.encode()) < most
    assert not re.search(r"https?:|url\(|@import", source)
    page = Page(source)
    assert not {"script", "img", "iframe", "object"} & set(page.names)
    assert all(link.startswith(("#", "data:,")) for link in page.links)
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert all(page.spoken)
    for chart in re.findall(r"<svg.*?</svg>", source, flags=re.S):
        for element in ET.fromstring(chart).iter():
            numbers = [element.get(name, "") for name in ("d", "x", "y", "width", "cx", "cy")]
            assert not re.search(r"nan|inf", " ".join(numbers))
    return page
