"""Paper tables as Markdown, LaTeX, CSV, JSON, or text for a terminal."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fedloge.results.figure_rows import COLUMNS, NEW_CLIENTS
from fedloge.results.grouping import setting_in_words
from fedloge.results.paper_table import FIGURES, Cell, PaperTable, TableRow, describe
from fedloge.results.recorded_run import JUDGED

Bold = Callable[[str], str]
TITLES = {
    "global": "Global model",
    "personal": "Personal models",
    "new-clients": "New clients, held out from training",
}
SIDES = tuple(TITLES)


def markdown(tables: Sequence[PaperTable]) -> str:
    """Pipe tables, as GitHub shows them."""
    parts = []
    for table in tables:
        heading, lines = _grid(table, bold=lambda text: f"**{text}**", dash="–")
        rows = [heading, ["---", *["---:"] * (len(heading) - 1)], *lines]
        body = "\n".join("| " + " | ".join(_escaped(row, "|")) + " |" for row in rows)
        title = f"**{setting_in_words(table.setting)}**\n\n" if table.setting else ""
        parts.append(f"{title}{body}\n\n{' '.join(describe(table))}")
    return "\n\n".join(parts) + "\n"


def latex(tables: Sequence[PaperTable]) -> str:
    """``table`` environments; they need the booktabs package."""
    return "\n".join(_latex(table) for table in tables)


def text(tables: Sequence[PaperTable]) -> str:
    """Aligned columns for 80 characters; the personal models are below the global one."""
    parts = []
    for table in tables:
        blocks = [setting_in_words(table.setting)] if table.setting else []
        for side in SIDES:
            if any(figure in row.cells for row in table.rows for figure in _of(side)):
                heading, lines = _grid(table, bold=lambda t: f"{t}*", dash="–", sides=(side,))
                # The title names the side; 80 columns have no room for it in every heading.
                short = [
                    name.removeprefix(f"{side} ").removesuffix(f" ({side})") for name in heading
                ]
                blocks.append(f"{TITLES[side]}\n{_aligned([short, *lines])}")
        said = " ".join(describe(table))
        parts.append("\n\n".join([*blocks, textwrap.fill(said, 79)]))
    return "\n\n".join(parts) + "\n"


def csv_text(tables: Sequence[PaperTable]) -> str:
    """One line for each row of each table; accuracies in [0, 1] at full precision, empty if unknown."""
    out = io.StringIO()
    keys = list(dict.fromkeys(key for table in tables for key in table.setting))
    # Those of new clients only where some were held out.
    columns = [f for f in FIGURES if f[0] in JUDGED or any(_shown(t, f[0]) for t in tables)]
    names = [f"{side}/{figure}" for side, figure in columns]
    writer = csv.writer(out, lineterminator="\n")
    heading = [*keys, "when", "method", "seeds"]
    heading += [f"{name} {what}" for name in names for what in ("mean", "std")]
    writer.writerow([*heading, *(f"{side} p (Holm)" for side in JUDGED)])
    for table in tables:
        for row in table.rows:
            cells = [row.cells.get(figure) for figure in columns]
            figures = [v for c in cells for v in ((c.mean, c.std) if c else (None, None))]
            p = [row.compared[s].p_holm if s in row.compared else None for s in JUDGED]
            settings = [table.setting.get(key) for key in keys]
            writer.writerow(
                [*settings, table.when, row.label, " ".join(map(str, row.seeds)), *figures, *p]
            )
    return out.getvalue()


def json_text(tables: Sequence[PaperTable]) -> str:
    """Everything, for scripts: also the value of each seed, beside mean and deviation."""
    return json.dumps([_plain(table) for table in tables], indent=1) + "\n"


FORMATS: Mapping[str, Callable[[Sequence[PaperTable]], str]] = {
    "text": text,
    "md": markdown,
    "latex": latex,
    "csv": csv_text,
    "json": json_text,
}
SUFFIXES = {".md": "md", ".tex": "latex", ".csv": "csv", ".json": "json", ".txt": "text"}


def _of(side: str) -> list[tuple[str, str]]:
    return [figure for figure in FIGURES if figure[0] == side]


def _shown(table: PaperTable, side: str) -> list[tuple[str, str]]:
    """The figures of a side that at least one row has."""
    return [figure for figure in _of(side) if any(figure in row.cells for row in table.rows)]


def _has_p(table: PaperTable, side: str) -> bool:
    return any(side in row.compared for row in table.rows)


def _grid(
    table: PaperTable,
    *,
    bold: Bold,
    dash: str,
    sides: Sequence[str] = SIDES,
    plus_minus: str = " ± ",
) -> tuple[list[str], list[list[str]]]:
    """The heading and the lines of a table, as text."""
    heading, best = ["method", "seeds"], table.best()
    for side in sides:
        heading += [f"{side} {_heading(figure)}" for figure in _shown(table, side)]
        heading += [f"p ({side})"] if _has_p(table, side) else []
    lines = []
    for row in table.rows:
        line = [row.label, str(len(row.seeds))]
        for side in sides:
            for figure in _shown(table, side):
                cell = row.cells.get(figure)
                value = _cell(cell, plus_minus) if cell else dash
                line.append(bold(value) if row.label in best.get(figure, ()) else value)
            if _has_p(table, side):
                line.append(_p(row, side, table, dash))
        lines.append(line)
    return heading, lines


def _heading(figure: tuple[str, str]) -> str:
    if figure[0] == "new-clients":
        return NEW_CLIENTS[figure[1]]
    return COLUMNS[figure[0]][figure[1]].replace("\N{NO-BREAK SPACE}", " ")


def _cell(cell: Cell, plus_minus: str) -> str:
    mean = f"{100 * cell.mean:.1f}"
    return mean if cell.std is None else f"{mean}{plus_minus}{100 * cell.std:.1f}"


def _p(row: TableRow, side: str, table: PaperTable, dash: str) -> str:
    if side not in row.compared:
        return "ref." if row.label == table.reference else dash
    p = row.compared[side].p_holm
    return "< .001" if p < 0.001 else f"{p:.3f}".replace("0.", ".", 1)


def _escaped(row: Sequence[str], character: str) -> list[str]:
    return [cell.replace(character, "\\" + character) for cell in row]


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join([lines[0], "─" * len(lines[0]), *(line.rstrip() for line in lines[1:])])


def _latex(table: PaperTable) -> str:
    _, lines = _grid(
        table, bold=lambda t: rf"\textbf{{{t}}}", dash="--", plus_minus=r" {\scriptsize$\pm$} "
    )
    groups, rules, names, column = [], [], ["Method", "Seeds"], 3
    for side, title in TITLES.items():
        own = [_heading(figure) for figure in _shown(table, side)]
        own += ["$p$"] if _has_p(table, side) else []
        if own:
            groups.append(rf"\multicolumn{{{len(own)}}}{{c}}{{{title}}}")
            rules.append(rf"\cmidrule(lr){{{column}-{column + len(own) - 1}}}")
            names += own
            column += len(own)
    caption = " ".join(
        [f"{setting_in_words(table.setting)}." if table.setting else "", *describe(table)]
    )
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_tex(caption.strip())}}}",
            rf"\begin{{tabular}}{{l{'r' * (column - 2)}}}",
            r"\toprule",
            f"& & {' & '.join(groups)} \\\\",
            " ".join(rules),
            " & ".join(name if name == "$p$" else _tex(name) for name in names) + r" \\",
            r"\midrule",
            *(
                " & ".join([_tex(line[0]), *(_tex_cell(c) for c in line[1:])]) + r" \\"
                for line in lines
            ),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


_TEX = str.maketrans(
    {
        **{character: f"\\{character}" for character in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
        "<": r"$<$",
        ">": r"$>$",
    }
)


def _tex(words: str) -> str:
    return words.translate(_TEX)


def _tex_cell(cell: str) -> str:
    return cell.replace("< .001", r"$<$.001")


def _plain(table: PaperTable) -> dict[str, Any]:
    return {
        "setting": dict(table.setting),
        "when": table.when,
        "rounds": list(table.rounds),
        "reference": table.reference,
        "notes": describe(table),
        "rows": [
            {
                "label": row.label,
                "seeds": list(row.seeds),
                "figures": {
                    f"{side}/{name}": {
                        "mean": cell.mean,
                        "std": cell.std,
                        "values": list(cell.values),
                    }
                    for (side, name), cell in row.cells.items()
                },
                "measured": [
                    {"clients": one.clients, "images": one.images} for one in row.measured
                ],
                "intervals": {"personal/mean": [list(one) for one in row.intervals]},
                "compared": {
                    side: dataclasses.asdict(comparison)
                    for side, comparison in row.compared.items()
                },
            }
            for row in table.rows
        ],
    }
