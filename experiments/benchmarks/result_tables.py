"""Results as tables for a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Group as Stack
from rich.console import RenderableType
from rich.table import Table


def tables(result: dict[str, Any]) -> RenderableType:
    """Cases and ratios of every group."""
    cases = Table(title="Seconds", title_justify="left")
    for heading in ("what", "median", "middle half", "processor", "unit"):
        cases.add_column(heading, justify="left" if heading in ("what", "unit") else "right")
    ratios = Table(title="Ratios, sample by sample", title_justify="left")
    for heading in ("what", "median", "middle half", "processor", "wanted"):
        ratios.add_column(heading, justify="left" if heading == "what" else "right")
    for name, group in result["groups"].items():
        cases.add_row(f"[bold]{name}[/]")
        for case, figures in group["cases"].items():
            cases.add_row(f"  {case}", *_columns(figures, seconds), group["unit"])
        if group["ratios"]:
            ratios.add_row(f"[bold]{name}[/]")
        for ratio, figures in group["ratios"].items():
            wanted = figures.get("wanted", "")
            mark = (
                "" if not wanted else "  [green]met[/]" if figures["met"] else "  [red]not met[/]"
            )
            ratios.add_row(f"  {ratio}", *_columns(figures, "{:.3f}".format), wanted + mark)
    machine = result["machine"]
    load = result["load"]
    where = (
        f"{machine['processor']}, {machine['cores']} cores, {machine['vector-instructions']}, "
        f"torch {machine['torch']}; load average {min(load):.1f} to {max(load):.1f}; "
        f"commit {result['commit'] or 'unknown'}"
    )
    return Stack(cases, ratios, where)


def in_short(group: dict[str, Any]) -> str:
    """A group's medians in one line."""
    cases = [f"{name} {seconds(figures['median'])}" for name, figures in group["cases"].items()]
    ratios = [f"{name} {figures['median']:.3f}" for name, figures in group["ratios"].items()]
    return "; ".join([*cases, *ratios])


def comparison(changes: dict[str, dict[str, dict[str, Any]]], before: dict[str, Any]) -> Table:
    """What changed since an earlier result."""
    table = Table(title=f"Since {before['commit']} ({before['when']})", title_justify="left")
    for heading in ("what", "before", "now", "change", ""):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    for name, cases in changes.items():
        table.add_row(f"[bold]{name}[/]")
        for case, row in cases.items():
            note = "" if row["apart"] else "within spread"
            table.add_row(
                f"  {case}",
                f"{row['before']:.4g}",
                f"{row['now']:.4g}",
                f"{row['change']:.2f} x",
                note,
            )
    return table


def scale(rows: list[dict[str, Any]]) -> RenderableType:
    """The cost of rounds by size; the last two columns are per client asked, without its steps."""
    table = Table(title="A round of clients with two images each", title_justify="left")
    table.add_column("what", overflow="fold")
    for heading in ("start", "train", "evaluate", "per client", "processor"):
        table.add_column(heading, justify="right", no_wrap=True)
    series, notes = "", []
    for row in rows:
        if series and row["series"] != series:
            table.add_section()
        series = row["series"]
        name = f"{row['asked']:,} of {row['clients']:,}, {row['model']}, {row['engine']}"
        notes.append(f"memory, {name}: {row['memory'][0]:.0f} to {row['memory'][-1]:.0f} MiB")
        table.add_row(
            name,
            seconds(row["start"]),
            seconds(row["train"]),
            seconds(row["evaluate"]) if "evaluate" in row else "",
            *(_beside(row, kind) for kind in ("", "-processor")),
        )
    return Stack(table, *notes)


def _beside(row: dict[str, Any], kind: str) -> str:
    if f"train{kind}" not in row:
        return ""
    return seconds(max(0.0, row[f"train{kind}"] - row[f"bare{kind}"]) / row["asked"])


def seconds(value: float) -> str:
    """Seconds in a unit that leaves digits before the decimal point."""
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "µs")):
        if value * factor >= 1:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"


def _columns(figures: dict[str, Any], form: Any) -> tuple[str, str, str]:
    cpu = form(figures["cpu"]) if "cpu" in figures else ""
    return form(figures["median"]), f"{form(figures['low'])} .. {form(figures['high'])}", cpu


def profile(results: dict[str, Any]) -> RenderableType:
    """Where a round's time goes, for each model."""
    made = []
    for model, result in results.items():
        table = Table(
            title=f"Where a round of {model} goes ({result['seconds']:.1f} s under the profiler)",
            title_justify="left",
        )
        table.add_column("part")
        table.add_column("share", justify="right")
        for name, share in sorted(result["parts"].items(), key=lambda item: -item[1]):
            table.add_row(name, f"{share:.1%}")
        table.add_section()
        for name, figures in result["operators"].items():
            table.add_row(f"{name} ({figures['calls']} calls)", f"{figures['share']:.1%}")
        made.append(table)
    return Stack(*made)
