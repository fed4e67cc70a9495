"""Arguments and options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Recipe = Annotated[
    str | None,
    typer.Argument(
        help="A recipe: its name (see 'fedloge recipes') or a TOML file. Without one: the embedded digits."
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a config key; repeatable."),
]
Engine = Annotated[str, typer.Option(help="local, ray or superlink")]
SuperLink = Annotated[
    str,
    typer.Option(
        help="For the engine superlink: the name of a connection in Flower's config.toml."
    ),
]
Track = Annotated[
    list[str] | None,
    typer.Option(
        help="Also send the figures to tensorboard, or to a tracker of your own; repeatable.",
        metavar="NAME",
    ),
]
RunFolder = Annotated[Path, typer.Argument(help="A run directory.")]
RunFolders = Annotated[list[Path], typer.Argument(help="Run directories.")]
AnyRunFolders = Annotated[list[Path] | None, typer.Argument(help="Run directories.")]
SweepFolder = Annotated[
    Path | None, typer.Option("--sweep", help="All runs of a sweep, by its folder.")
]
By = Annotated[
    list[str] | None,
    typer.Option(
        help="One table for each value of this key; repeatable. Default for a sweep: its own settings."
    ),
]
Where = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="Only runs whose config has this value; repeatable."),
]
Rows = Annotated[
    list[str] | None,
    typer.Option(
        "--row",
        help="Only this method or label, in this order; 'CCVR (calibrated, tuned)' is judged by these models, "
        "'CCVR (raw)=FedAvg' is called so. Repeatable.",
    ),
]
UpTo = Annotated[
    int,
    typer.Option(
        "--up-to",
        metavar="ROUND",
        min=0,
        help="Take longer runs as if they had ended after this round.",
        show_default=False,
    ),
]
AllowUnequal = Annotated[
    bool, typer.Option("--allow-unequal", help="Allow runs with unequal data or budget.")
]
PersonalOf = Annotated[
    int | None, typer.Option("--client", help="The personal model of this client.", min=0)
]
Predictor = Annotated[
    str,
    typer.Option("--predictor", help="Which model, as the metrics name it; default: the primary."),
]
StateDir = Annotated[
    Path | None,
    typer.Option(
        "--state-dir", help="At a site of a deployment: the folder of its personal states."
    ),
]
DataPath = Annotated[
    str, typer.Option("--data-path", help="At a site with images of its own: their folder.")
]
AllowPlugins = Annotated[
    bool,
    typer.Option(
        "--allow-plugins",
        help="Let a run or export that you did not make here run code of its own: a method or model by path.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
