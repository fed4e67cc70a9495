"""matplotlib's SVG, changed to fit the page.

A chart is drawn with the light theme's colours. Here each colour becomes a variable of the
page's style sheet, so that one drawing serves both themes. Text stays text, in the page's font.
The text that a reader sees when pointing at a place is an SVG ``title`` of an invisible shape,
which needs no script. The same figures give the same bytes.
"""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from markupsafe import Markup

from fedloge.results.report.printable_text import printable
from fedloge.results.report.styles import TONES

Place = tuple[str, dict[str, float]]
"""A text, and the rectangle or circle that it belongs to, by SVG's names for its dimensions."""

_VARIABLES = {light: f"var(--{name},{light})" for name, (light, _) in TONES.items()}
_NUMBER = re.compile(r"-?\d+\.\d+")
# Numbers the charts of a page, so that no two elements have the same id.
_numbers: ContextVar[Iterator[int]] = ContextVar("numbers of charts")
_COMMAND = re.compile(r" ?([MLCQZz]) ?")
_FONT = re.compile(r"font-family: [^;]*;? ?")


@contextmanager
def numbered_charts() -> Iterator[None]:
    """Number the charts of a page, from 0, inside the block."""
    token = _numbers.set(itertools.count())
    try:
        yield
    finally:
        _numbers.reset(token)


def themed(source: bytes, said: str, hover: Sequence[Place]) -> Markup:
    """matplotlib's SVG with the page's colours and fonts.

    Parameters
    ----------
    said : what a screen reader says of the chart.
    hover : texts, and the places at which they are shown.
    """
    root = ET.fromstring(source)
    stem = f"c{next(_numbers.get())}-"
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.attrib = _attributes(element, stem)
        if element.tag != "text":
            element.text = None
        element.tail = None
    _flatten(root)
    size = root.attrib["viewBox"]
    root.attrib = {
        "viewBox": size,
        "role": "img",
        "aria-label": printable(said),
        "stroke-linejoin": "round",
    }
    if hover:
        places = ET.SubElement(root, "g", {"class": "hover", "fill": "transparent"})
        for text, where in hover:
            shape = ET.SubElement(places, "circle" if "r" in where else "rect")
            shape.attrib = {name: f"{value:.1f}" for name, value in where.items()}
            ET.SubElement(shape, "title").text = printable(text)
    return Markup(ET.tostring(root, encoding="unicode", short_empty_elements=True))


def _flatten(parent: ET.Element) -> None:
    """Remove what the page does not need and groups without attributes; write a shared style once."""
    children = list(parent)
    parent[:] = []
    for child in children:
        # A style element would apply to the whole page, and nothing is clipped.
        if child.tag in ("metadata", "clipPath", "style"):
            continue
        _flatten(child)
        if child.tag == "g" and not child.attrib:
            parent.extend(child)
        elif child.tag != "defs" or len(child):
            parent.append(child)
    kept = list(parent)
    parent[:] = []
    for style, alike in itertools.groupby(kept, key=lambda child: child.get("style")):
        group = list(alike)
        if style and len(group) > 2:
            for child in group:
                del child.attrib["style"]
            parent.append(ET.Element("g", {"style": style}))
            parent[-1].extend(group)
        else:
            parent.extend(group)


def _attributes(element: ET.Element, stem: str) -> dict[str, str]:
    kept = {}
    for name, value in element.attrib.items():
        name = name.rpartition("}")[2]
        if name == "clip-path":
            continue
        if name == "href":
            value = f"#{stem}{value[1:]}"
        elif name == "id":
            if element.tag == "g":
                continue  # matplotlib's names of its parts, the same in every chart
            value = f"{stem}{value}"
        elif name == "style":
            value = _FONT.sub("", value)
            for light, variable in _VARIABLES.items():
                value = value.replace(light, variable)
        elif name == "transform" and value.startswith("rotate(-0 "):
            continue
        if name in ("d", "x", "y", "transform"):
            value = _NUMBER.sub(lambda found: f"{round(float(found[0]), 2):g}", value)
            value = _COMMAND.sub(r"\1", " ".join(value.split()))
        kept[name] = value
    return kept
