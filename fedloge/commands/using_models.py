"""Commands that use what was trained. Heavy imports are inside them, so that others start quickly."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedloge.commands.arguments import (
    AllowPlugins,
    DataPath,
    Json,
    PersonalOf,
    Predictor,
    RunFolder,
    StateDir,
)
from fedloge.console import print_json, stderr, stdout
from fedloge.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from fedloge.results.prediction import Prediction


def export(
    run: RunFolder,
    out: Annotated[Path, typer.Option(help="Folder to write; must not exist.")],
    global_: Annotated[bool, typer.Option("--global", help="The global model.")] = False,
    client: PersonalOf = None,
    predictor: Predictor = "",
    chosen: Annotated[
        bool,
        typer.Option(
            "--chosen", help="With --global: of the round that validation examples choose."
        ),
    ] = False,
    state_dir: StateDir = None,
    data_path: DataPath = "",
    allow_plugins: AllowPlugins = False,
    json_: Json = False,
) -> None:
    """Write a trained model's weights and manifest, which load without this run."""
    from fedloge.results.export import export_client, export_global
    from fedloge.results.run import open_run

    if global_ == (client is not None):
        raise InputError("export: give either --global or --client K")
    if chosen and client is not None:
        raise InputError(
            "export: --chosen is for --global; personal models are kept of the newest round"
        )
    opened = open_run(run, allow_plugins=allow_plugins)
    manifest = (
        export_global(opened, out, predictor, chosen)
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
    allow_plugins: AllowPlugins = False,
    json_: Json = False,
) -> None:
    """Ask a trained model what is on photos; a photo that cannot be read gets a line, the others a prediction."""
    from fedloge.results.export import model_of

    if csv_ and json_:
        raise InputError("predict: give either --csv or --json")
    chosen = model_of(model, client, predictor, state_dir, data_path, allow_plugins=allow_plugins)
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


def mistakes(
    run: RunFolder,
    client: PersonalOf = None,
    predictor: Predictor = "",
    out: Annotated[
        Path | None, typer.Option(help="The page to write; default: in the run's folder.")
    ] = None,
    most: Annotated[int, typer.Option(help="Show at most so many mistakes.", min=0)] = 48,
    state_dir: StateDir = None,
    data_path: DataPath = "",
    allow_plugins: AllowPlugins = False,
    json_: Json = False,
) -> None:
    """Write a page of a model's mistakes, with the test images: the global model's, or a client's own."""
    from fedloge.results.mistakes import find_mistakes
    from fedloge.results.report.mistakes_page import write_mistakes
    from fedloge.results.run import open_run

    opened = open_run(run, allow_plugins=allow_plugins)
    found = find_mistakes(
        opened, client, predictor, most=most, state_dir=state_dir, data_path=data_path
    )
    page = out or opened.files.mistakes(client)
    write_mistakes(found, page)
    if json_:
        print_json(found.described() | {"page": str(page)})
        return
    stdout().print(
        f"{found.model} is wrong on {found.wrong} of {len(found.guesses)} test images; the page shows "
        f"{len(found.worst)} of them, keep it where they may be seen: {page}",
        soft_wrap=True,
        markup=False,
    )


def personalize(
    model: Annotated[
        Path, typer.Argument(metavar="RUN|EXPORT", help="A run, or its exported global model.")
    ],
    data: Annotated[
        Path,
        typer.Option(help="The new client's photos: CLASS/*, or train/CLASS/* and test/CLASS/*."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of its model; default: one named after run and data, here."),
    ] = None,
    rounds: Annotated[int, typer.Option(help="How often its local step is done.", min=1)] = 1,
    test_share: Annotated[
        float,
        typer.Option(help="Without test photos: this share is held out to measure on; 0: none."),
    ] = 0.2,
    allow_plugins: AllowPlugins = False,
    json_: Json = False,
) -> None:
    """Give a client that never took part its own model; the shared model stays as it is."""
    from fedloge.results.personalize import base_of
    from fedloge.results.personalize import personalize as give

    place = out or _free(f"{model.resolve().name}-{data.resolve().name}")
    if place.exists():
        raise InputError(f"{place} exists already; give a new folder with --out")
    made = give(
        base_of(model, allow_plugins=allow_plugins), data, rounds=rounds, test_share=test_share
    )
    made.write(place)
    if json_:
        counts = {"train-images": made.train, "test-images": made.test, "held-out": made.held_out}
        print_json({"folder": str(place), "classes": made.classes, **counts, **made.figures})
        return
    of = "held out from them" if made.held_out else "of its own"
    stdout().print(
        f"Trained on {made.train} images of {len(made.classes)} of {len(made.model.classes)} classes, "
        f"measured on {made.test} test images {of}.",
        soft_wrap=True,
    )
    if made.figures:
        stdout().print(_stages(made.figures))
    stdout().print(f"its model: {place}", soft_wrap=True)


def _stages(figures: Mapping[str, Mapping[str, float]]) -> Table:
    from rich import box
    from rich.table import Table

    names = {
        "shared": "global model",
        "untrained": "own model, before training",
        "personalized": "own model",
    }
    columns = {"accuracy": "accuracy", "recall": "mean recall", "macro-f1": "macro F1"}
    columns |= {"auroc": "AUROC", "ece": "ECE"}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="%", title_justify="left")
    table.add_column("model")
    for heading in columns.values():
        table.add_column(heading, justify="right")
    for stage, own in figures.items():
        cells = (f"{100 * own[name]:.1f}" if name in own else "–" for name in columns)
        table.add_row(names[stage], *cells)
    return table


def _free(stem: str) -> Path:
    names = itertools.chain([stem], (f"{stem}-{n}" for n in itertools.count(2)))
    return next(path for path in map(Path, names) if not path.exists())


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
