"""``fedloge prototypes``: a fixed classifier built, certified, drawn."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedloge.commands.arguments import Json
from fedloge.console import print_json, stdout
from fedloge.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from fedloge.geometry.prototypes import Prototypes

# Heavy imports are inside the functions, so that other commands start quickly.


def prototypes(
    classes: Annotated[int, typer.Option(help="Number of classes C.")],
    dim: Annotated[int, typer.Option(help="Feature width d.")],
    kind: Annotated[
        str, typer.Option(help="sparse-etf, etf, orthoplex, basis, sparse-basis or auto")
    ] = "sparse-etf",
    sparsity: Annotated[float, typer.Option(help="Fraction of zeros in every row.")] = 0.6,
    gamma: Annotated[float, typer.Option(help="Norm of every row.")] = 0.1,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    max_cos: Annotated[
        float | None,
        typer.Option(help="basis kinds: largest absolute cosine asked for; else an error."),
    ] = None,
    max_steps: Annotated[int, typer.Option(min=1, help="With --max-cos: steps at most.")] = 1000,
    keep: Annotated[
        Path | None,
        typer.Option(help="With --max-cos: file to go on from after an interruption."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the matrix (classes x dim) as safetensors.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the certificate (.png, .svg or .pdf).")
    ] = None,
    json_: Json = False,
) -> None:
    """Build a fixed classifier and measure it."""
    import time

    began = time.perf_counter()
    if max_cos is None:
        if keep is not None:
            raise InputError("prototypes: --keep is for a search: give --max-cos as well")
        from fedloge.geometry import prototypes as geometry

        made = geometry.prototypes(classes, dim, kind, sparsity=sparsity, gamma=gamma, seed=seed)
    else:
        made = _searched(classes, dim, kind, sparsity, gamma, seed, max_cos, max_steps, keep)
    seconds = time.perf_counter() - began
    if out is not None:
        made.to_file(out)
    if plot is not None:
        from fedloge.commands.certificate_picture import draw_certificate

        draw_certificate(made, plot)
    measured = dataclasses.asdict(made.certificate())
    figures = {
        "kind": made.kind,
        "sparsity": made.sparsity,
        "gamma": gamma,
        "seed": seed,
        **made.quality(),
        **measured,
        "seconds": seconds,
    }
    if json_:
        print_json(figures)
    else:
        stdout().print(_figures(f"{made.kind}: {made.reason}", figures))


def _searched(
    classes: int,
    dim: int,
    kind: str,
    sparsity: float,
    gamma: float,
    seed: int,
    max_cos: float,
    max_steps: int,
    keep: Path | None,
) -> Prototypes:
    from fedloge.geometry.basis_vectors import basis_vectors
    from fedloge.geometry.prototypes import Prototypes

    if kind not in ("basis", "sparse-basis"):
        raise InputError(
            f"prototypes: --max-cos is for kinds basis and sparse-basis, got {kind}; an etf and an "
            "orthoplex have the cosines that they have"
        )
    share = sparsity if kind == "sparse-basis" else 0.0
    matrix = basis_vectors(
        classes,
        dim,
        max_cos=max_cos,
        gamma=gamma,
        seed=seed,
        max_steps=max_steps,
        sparsity=share,
        kept_in=keep,
    )
    why = f"no two of the {classes} classes closer than the absolute cosine {max_cos:g}, as asked"
    return Prototypes(matrix, kind, share, gamma, seed, why)


def _figures(title: str, values: Mapping[str, Any]) -> Table:
    """Names and values, one per line."""
    from rich.table import Table

    table = Table(box=None, show_header=False, title=title, title_justify="left", pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in values.items():
        table.add_row(name, f"{value:.6g}" if isinstance(value, float) else str(value))
    return table
