"""Commands that use what was trained. Heavy imports are inside them, so that others start quickly."""

from __future__ import annotations

import csv
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedloge.commands.arguments import DataPath, Json, PersonalOf, Predictor, RunFolder, StateDir
from fedloge.console import print_json, stderr, stdout
from fedloge.errors import InputError

if TYPE_CHECKING:
    from fedloge.results.prediction import Prediction


def export(
    run: RunFolder,
    out: Annotated[Path, typer.Option(help="Folder to write; must not exist.")],
    global_: Annotated[bool, typer.Option("--global", help="The global model.")] = False,
    client: PersonalOf = None,
    predictor: Predictor = "",
    state_dir: StateDir = None,
    data_path: DataPath = "",
    json_: Json = False,
) -> None:
    """Write a trained model's weights and manifest, which load without this run."""
    from fedloge.results.export import export_client, export_global
    from fedloge.results.run import open_run

    if global_ == (client is not None):
        raise InputError("export: give either --global or --client K")
    opened = open_run(run)
    manifest = (
        export_global(opened, out, predictor)
        if client is None
        else export_client(opened, client, out, predictor, state_dir, data_path)
    )
    if json_:
        print_json(manifest)
    else:
        stdout().print(f"{manifest['model']} of {opened.path.name} in {out}", soft_wrap=True)


def predict(
    model: Annotated[
        Path, typer.Argument(metavar="EXPORT|RUN", help="An exported model, or a run.")
    ],
    photos: Annotated[
        list[Path], typer.Argument(metavar="PHOTO...", help="Photos, or folders of them.")
    ],
    top: Annotated[int, typer.Option(help="So many classes of each photo.", min=1)] = 5,
    csv_: Annotated[bool, typer.Option("--csv", help="Print CSV: a line for each photo.")] = False,
    client: PersonalOf = None,
    predictor: Predictor = "",
    resize: Annotated[
        str,
        typer.Option(
            help="squash, crop or pad: how photos are resized for a model whose training did not resize."
        ),
    ] = "",
    state_dir: StateDir = None,
    data_path: DataPath = "",
    json_: Json = False,
) -> None:
    """Ask a trained model what is on photos; a photo that cannot be read gets a line, the others a prediction."""
    from fedloge.results.export import model_of

    if csv_ and json_:
        raise InputError("predict: give either --csv or --json")
    chosen = model_of(model, client, predictor, state_dir, data_path)
    found = chosen.predict(photos, top=top, resize=resize)
    if json_:
        print_json([dataclasses.asdict(one) for one in found])
    elif csv_:
        _write_csv(found, min(top, len(chosen.classes)))
    else:
        _print(found)
    for one in found:
        if one.problem:
            stderr().print(one.problem, soft_wrap=True, markup=False, highlight=False)
    known = chosen.predicted_classes
    if len(known) < len(chosen.classes) and not (csv_ or json_):
        stdout().print(
            f"This model predicts {len(known)} of {len(chosen.classes)} classes, those that its client "
            f"has trained on: {', '.join(known)}",
            soft_wrap=True,
            markup=False,
            highlight=False,
        )
    if any(one.problem for one in found):
        raise typer.Exit(2)


def _print(found: Sequence[Prediction]) -> None:
    for one in found:
        if not one.problem:
            pairs = zip(one.classes, one.probabilities, strict=True)
            said = "  ".join(f"{name} {100 * p:.1f} %" for name, p in pairs)
            stdout().print(f"{one.source}: {said}", soft_wrap=True, markup=False, highlight=False)


def _write_csv(found: Sequence[Prediction], top: int) -> None:
    out = csv.writer(sys.stdout, lineterminator="\n")
    more = [f"{name}-{n}" for n in range(2, top + 1) for name in ("class", "probability")]
    out.writerow(["photo", "class", "probability", *more, "problem"])
    for one in found:
        cells: list[Any] = []
        for name, p in zip(one.classes, one.probabilities, strict=True):
            cells += [name, f"{p:.6g}"]
        out.writerow([one.source, *cells, *[""] * (2 * top - len(cells)), one.problem])
