"""The page of a model's mistakes: one file, without network or script, for whoever may see the images."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fedloge.atomic_files import write_atomically
from fedloge.results.mistakes import ClassFigures, Mistake, Mistakes
from fedloge.results.number_words import percent, plural
from fedloge.results.report import templates
from fedloge.results.report.drawing import Chart, drawing_style
from fedloge.results.report.guess_charts import confusion_chart, reliability_chart
from fedloge.results.report.run_headline import Table, Tile
from fedloge.results.report.styles import TONES

_PAIRS = 10
_FIGURES = {
    "accuracy": "Accuracy",
    "recall": "Mean sensitivity",
    "macro-f1": "Macro F1",
    "auroc": "AUROC",
    "ece": "Calibration error",
}


@dataclass(frozen=True)
class Pictured:
    """A mistake as the page shows it; `uri` holds the image itself, or is empty."""

    uri: str
    width: int
    true: str
    guess: str
    said: str
    source: str


def write_mistakes(found: Mistakes, out: Path) -> None:
    """Write the page to the file `out`, readable by its owner alone; it is replaced if it exists.

    `RunError`: the disk refused.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, render_mistakes(found).encode("utf-8", "replace"), private=True)


def render_mistakes(found: Mistakes) -> str:
    """The page as HTML."""
    whose = "Global model" if found.client is None else f"Client {found.client}’s own model"
    with drawing_style():
        charts: list[Chart] = [confusion_chart(found.classes, found.confusion)]
        if found.guesses.reliability is not None:
            chart = reliability_chart("Confidence and accuracy", found.guesses.reliability)
            charts += [chart] if chart else []
    return (
        templates()
        .get_template("mistakes.html.j2")
        .render(
            title=f"Mistakes of {found.run}",
            subtitle=f"{whose}, {found.model} after round {found.round}",
            tones=TONES,
            lead=_lead(found),
            tiles=_tiles(found),
            charts=charts,
            pairs=_pairs(found),
            by_class=_by_class(found),
            worst=[_pictured(one) for one in found.worst],
            shown=_shown(found),
        )
    )


def _lead(found: Mistakes) -> str:
    whose = "the server’s" if found.client is None else "the client’s own"
    return (
        f"{found.wrong:,} of {plural(len(found.guesses), 'test image')} ({whose}) are taken for another "
        f"class."
    )


def _tiles(found: Mistakes) -> list[Tile]:
    below = {
        "recall": "over classes with test images",
        "auroc": "one class against the rest",
        "ece": "15 bins of confidence",
    }
    figures = found.figures
    return [
        Tile(name, f"{percent(figures[key])} %", below.get(key, ""))
        for key, name in _FIGURES.items()
        if key in figures
    ]


def _pairs(found: Mistakes) -> Table | None:
    rows = [(true, guess, f"{n:,}") for true, guess, n in found.pairs(_PAIRS)]
    if not rows:
        return None
    return Table(
        ("true class", "taken for", "images"), rows, "Most frequent confusions", text_columns=2
    )


def _by_class(found: Mistakes) -> Table:
    counted = ("class", "most often taken for", "training images", "test images", "right")
    headings = (*counted, "sensitivity", "precision", "F1", "AUROC")
    return Table(headings, [_row(one) for one in found.by_class], "", text_columns=2)


def _row(one: ClassFigures) -> Sequence[str]:
    guess, often = one.taken_for
    figures = (one.sensitivity, one.precision, one.f1, one.auroc)
    counts = (f"{one.train:,}", f"{one.test:,}", f"{one.right:,}")
    taken_for = f"{guess} ({often:,})" if guess else "–"
    return (one.name, taken_for, *counts, *(percent(value) for value in figures))


def _shown(found: Mistakes) -> str:
    if not found.worst:
        return "There is no mistake to show."
    these = "All of them" if len(found.worst) == found.wrong else f"The first {len(found.worst)}"
    return f"{these}, the most confident first, as the model was given them."


def _pictured(one: Mistake) -> Pictured:
    said = f"{percent(one.confidence)} % sure; the true class {percent(one.of_true)} %"
    uri = "" if one.picture is None else _data_uri(one.picture)
    width = 0 if one.picture is None else one.picture.shape[2]
    return Pictured(uri, width, one.true, one.guess, said, one.source)


def _data_uri(pixels: NDArray[np.uint8]) -> str:
    out = io.BytesIO()
    shown = pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
    Image.fromarray(np.ascontiguousarray(shown)).save(out, "PNG")
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"
