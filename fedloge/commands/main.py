"""The command line. Heavy imports wait until a command needs them."""

from __future__ import annotations

import dataclasses
import errno
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from fedloge.console import fail, show_warnings, stdout
from fedloge.errors import FedlogeError, InputError

cli = typer.Typer(
    name="fedloge",
    help="Federated learning on long-tailed classes: a fair global model and a personal one for every client.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Recipe = Annotated[
    Path | None, typer.Argument(help="A recipe (TOML). Without one: the embedded default.")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a config key; repeatable."),
]
SuperLink = Annotated[
    str, typer.Option(help="Engine superlink: a connection in Flower's config.toml.")
]
RunArg = Annotated[Path, typer.Argument(help="A run directory.")]
Track = Annotated[
    list[str] | None,
    typer.Option(
        help="Send the figures on: tensorboard, or a tracker of your own; repeatable.",
        metavar="NAME",
    ),
]
Runs = Annotated[list[Path] | None, typer.Argument(help="Run directories.")]
SweepDir = Annotated[
    Path | None, typer.Option("--sweep", help="All runs of a sweep, by its folder.")
]
By = Annotated[
    list[str] | None,
    typer.Option(help="A table for each value of this key; repeatable. A sweep knows its own."),
]
Where = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="Only runs whose config says so; repeatable."),
]
AllowUnequal = Annotated[
    bool, typer.Option("--allow-unequal", help="Also runs of unequal data or budget.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]


def main() -> None:
    """Entry point: a user's mistake is one line and exit code 2, a failed run 1."""
    show_warnings()
    try:
        cli(standalone_mode=True)
    except FedlogeError as exc:
        fail(str(exc), exc.exit_code)
    except OSError as exc:
        # A full or failing disk is no defect of this program; anything else keeps its traceback.
        if exc.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO):
            raise
        fail(f"{exc.filename or 'a file'} cannot be read or written ({exc.strerror})", 1)
    except KeyboardInterrupt:
        fail("interrupted; 'fedloge resume' continues the run", 130)


@cli.command()
def run(
    recipe: Recipe = None,
    set_: Set = None,
    engine: Annotated[str, typer.Option(help="local, ray or superlink")] = "local",
    name: Annotated[str, typer.Option(help="Name of the run; empty: made up.")] = "",
    runs_dir: Annotated[str, typer.Option(help="Folder that holds the runs.")] = "",
    superlink: SuperLink = "",
    track: Track = None,
    json_: Json = False,
) -> None:
    """Train a federation and leave its record."""
    from fedloge import config as configs
    from fedloge.launch import start as launch

    config = configs.load(recipe, set_ or [])
    changes: dict[str, Any] = {
        "runs_dir": str(Path(runs_dir or config.runs_dir).expanduser().resolve())
    }
    # The record must be resumable from another folder.
    if (data := Path(config.data_path).expanduser()).exists() and config.data_path:
        changes["data_path"] = str(data.resolve())
    if name:
        changes["name"] = name
    launch.start(
        config.replace(**changes), engine, as_json=json_, superlink=superlink, track=track or []
    )


@cli.command()
def resume(
    run: RunArg,
    rounds: Annotated[
        int | None, typer.Option(help="Run to this round instead.", min=1, show_default=False)
    ] = None,
    from_round: Annotated[
        int | None, typer.Option(help="Continue from this kept round; default: the newest.", min=0)
    ] = None,
    engine: Annotated[str, typer.Option(help="local, ray or superlink")] = "local",
    superlink: SuperLink = "",
    track: Track = None,
    json_: Json = False,
) -> None:
    """Continue an interrupted run from its newest checkpoint."""
    from fedloge.launch import start as launch
    from fedloge.results.run import open_run

    opened = open_run(run)
    folder = opened.path.resolve()
    changes: dict[str, Any] = {
        "name": folder.name,
        "runs_dir": str(folder.parent),
        "resume": True,
        "from_round": -1 if from_round is None else from_round,
    }
    if rounds is not None:
        changes["rounds"] = rounds
    launch.start(
        opened.config.replace(**changes),
        engine,
        as_json=json_,
        superlink=superlink,
        track=track or [],
    )


@cli.command()
def show(run: RunArg, json_: Json = False) -> None:
    """What a run was and what came of it."""
    from fedloge.results import terminal_tables as tables
    from fedloge.results.run import open_run, summary

    opened = open_run(run)
    if json_:
        _print_json(summary(opened))
    else:
        stdout().print(tables.show(opened))


@cli.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run directories.")], json_: Json = False
) -> None:
    """Runs side by side, and in what they differ."""
    from fedloge.results import terminal_tables as tables
    from fedloge.results.run import open_run, summary

    opened = [open_run(path) for path in runs]
    if json_:
        compared = dataclasses.asdict(tables.compare_runs(opened))
        _print_json({"runs": [summary(r) for r in opened], **compared})
    else:
        stdout().print(tables.compare(opened))


@cli.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run directories.")],
    out: Annotated[
        Path | None, typer.Option(help="The page to write; default: in the first run.")
    ] = None,
) -> None:
    """Write one self-contained page about one run, or several."""
    from fedloge.results.report import write_report
    from fedloge.results.run import open_run

    opened = [open_run(path) for path in runs]
    page = out or opened[0].path / ("report.html" if len(opened) == 1 else "comparison.html")
    write_report(opened, page)
    stdout().print(str(page), soft_wrap=True)


@cli.command()
def sweep(
    file: Annotated[Path, typer.Argument(help="A sweep (TOML): base, grid and methods.")],
    set_: Set = None,
    jobs: Annotated[
        int | None, typer.Option(help="Runs at once; default: what cores or GPUs allow.", min=1)
    ] = None,
    engine: Annotated[str, typer.Option(help="local or ray")] = "local",
    runs_dir: Annotated[str, typer.Option(help="Folder that holds the sweep's folder.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be run.")] = False,
    track: Track = None,
    json_: Json = False,
) -> None:
    """Run methods x settings x seeds; go on with what is not done."""
    from fedloge.commands import sweep_command as command

    done = command.sweep(
        file,
        set_ or [],
        runs_dir,
        jobs=jobs,
        engine=engine,
        track=track or [],
        dry_run=dry_run,
        as_json=json_,
    )
    if not done:
        raise typer.Exit(1)


@cli.command()
def table(
    runs: Runs = None,
    sweep: SweepDir = None,
    format_: Annotated[
        str, typer.Option("--format", help="text, md, latex, csv or json; default: by --out.")
    ] = "",
    out: Annotated[Path | None, typer.Option(help="Write to this file.")] = None,
    when: Annotated[
        str, typer.Option(help="last (evaluated round), mean (of the last ten) or both.")
    ] = "both",
    models: Annotated[
        str, typer.Option(help="primary: the one a method is judged by; all: a row for each.")
    ] = "primary",
    test: Annotated[
        str, typer.Option(help="Pairs of the test: auto, seeds, clients or none.")
    ] = "auto",
    against: Annotated[
        str, typer.Option(help="The row others are tested against; default: FedLoGe.")
    ] = "",
    by: By = None,
    where: Where = None,
    allow_unequal: AllowUnequal = False,
) -> None:
    """The table of a paper from runs: over seeds, best in bold, with paired tests."""
    from fedloge.commands import comparison

    comparison.table(
        runs or [],
        sweep,
        form=format_,
        out=out,
        when=when,
        models=models,
        test=test,
        against=against,
        by=by or [],
        where=where or [],
        allow_unequal=allow_unequal,
    )


@cli.command()
def plot(
    out: Annotated[Path, typer.Option(help="A .pdf, .png or .svg file.")],
    kind: Annotated[str, typer.Option(help="curves, per-class, clients or bytes")],
    runs: Runs = None,
    sweep: SweepDir = None,
    side: Annotated[str, typer.Option(help="global, personal or both")] = "both",
    rows: Annotated[
        list[str] | None,
        typer.Option("--row", help="Only this method or label, in this order; repeatable."),
    ] = None,
    where: Where = None,
    allow_unequal: AllowUnequal = False,
) -> None:
    """A figure for a paper: curves, accuracy by class size, client against client, bytes."""
    from fedloge.commands import comparison

    comparison.plot(
        runs or [],
        sweep,
        out,
        kind=kind,
        side=side,
        rows=rows or [],
        where=where or [],
        allow_unequal=allow_unequal,
    )


@cli.command()
def partition(recipe: Recipe = None, set_: Set = None, json_: Json = False) -> None:
    """Split the data over the clients and show what each would hold."""
    from fedloge import config as configs
    from fedloge.commands import listings
    from fedloge.federation import open_federation

    federation = open_federation(configs.load(recipe, set_ or []))
    split = federation.partition
    if json_:
        _print_json(
            {
                "num_clients": federation.config.num_clients,
                "classes": list(federation.data.classes),
                "train_counts": split.train_counts.tolist(),
                "local_test_counts": split.local_test_counts.tolist(),
            }
        )
    else:
        stdout().print(
            listings.split(federation.data.classes, split.train_counts, split.local_test_counts)
        )


@cli.command()
def prototypes(
    classes: Annotated[int, typer.Option(help="Number of classes C.")],
    dim: Annotated[int, typer.Option(help="Feature width d.")],
    kind: Annotated[str, typer.Option(help="sparse-etf or etf")] = "sparse-etf",
    sparsity: Annotated[float, typer.Option(help="Share of zeros in every row.")] = 0.6,
    gamma: Annotated[float, typer.Option(help="Norm of every row.")] = 0.1,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Write the matrix (classes x dim) as safetensors.")
    ] = None,
    json_: Json = False,
) -> None:
    """Build a fixed classifier and measure it."""
    import time

    from fedloge.commands import listings
    from fedloge.geometry import prototypes as geometry

    began = time.perf_counter()
    made = geometry.prototypes(classes, dim, kind, sparsity=sparsity, gamma=gamma, seed=seed)
    seconds = time.perf_counter() - began
    if out is not None:
        made.to_file(out)
    figures = {
        "kind": made.kind,
        "classes": classes,
        "dim": dim,
        "sparsity": made.sparsity,
        "gamma": gamma,
        "seed": seed,
        **made.quality(),
        "seconds": seconds,
    }
    if json_:
        _print_json(figures)
    else:
        stdout().print(listings.figures(f"{made.kind}: {made.reason}", figures))


@cli.command()
def export(
    run: RunArg,
    out: Annotated[Path, typer.Option(help="Folder to write; must not exist.")],
    global_: Annotated[bool, typer.Option("--global", help="The global model.")] = False,
    client: Annotated[
        int | None, typer.Option(help="The personal model of this client.", min=0)
    ] = None,
    predictor: Annotated[
        str, typer.Option(help="Which model, as the metrics name it; default: the primary.")
    ] = "",
    state_dir: Annotated[
        Path | None, typer.Option(help="At a site of a deployment: its personal states.")
    ] = None,
    data_path: Annotated[
        str, typer.Option(help="At a site with images of its own: where they lie.")
    ] = "",
    json_: Json = False,
) -> None:
    """Write a trained model's weights and manifest, to load without this run."""
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
        _print_json(manifest)
    else:
        stdout().print(f"{manifest['model']} of {opened.path.name} in {out}", soft_wrap=True)


@cli.command()
def certs(
    out: Annotated[Path, typer.Option(help="Folder of the deployment's keys.")],
    clients: Annotated[
        int | None, typer.Option(help="Make the folder, for this many clients.", min=1)
    ] = None,
    add_client: Annotated[int | None, typer.Option(help="Add keys for client K.", min=0)] = None,
    renew_server: Annotated[
        bool, typer.Option("--renew-server", help="A new server key and certificate.")
    ] = False,
    host: Annotated[
        list[str] | None,
        typer.Option(help="A name or address clients reach the server by; repeatable."),
    ] = None,
    days: Annotated[
        int, typer.Option(help="Lifetime of the server's certificate.", min=1, max=3650)
    ] = 365,
    owner: Annotated[
        int, typer.Option(help="Give the private keys to this user id (needs root); -1: yours.")
    ] = -1,
    replace: Annotated[
        bool, typer.Option("--replace", help="With --add-client: rotate its keys.")
    ] = False,
) -> None:
    """Make the certificates and keys of a deployment, or renew some of them."""
    from fedloge.commands import certificates as deployment

    if (clients is not None) + (add_client is not None) + renew_server != 1:
        raise InputError("certs: give one of --clients N, --add-client K and --renew-server")
    made: list[str] = []
    if clients is not None:
        deployment.create(out, clients, host or [], days, owner)
        made = [f"client-{k}" for k in range(clients)]
    elif add_client is not None:
        deployment.add_client(out, add_client, replace=replace, owner=owner)
        made = [f"client-{add_client}"]
    else:
        deployment.renew_server(out, host or [], days, owner)
    stdout().print(deployment.next_steps(out, made), soft_wrap=True, markup=False)


@cli.command()
def doctor(json_: Json = False) -> None:
    """Check this machine and installation."""
    from fedloge.commands.doctor import examine

    findings = examine()
    if json_:
        _print_json([dataclasses.asdict(finding) for finding in findings])
    else:
        for finding in findings:
            mark = {"ok": "[green]ok[/]  ", "warn": "[yellow]warn[/]", "bad": "[red]bad[/] "}[
                finding.state
            ]
            stdout().print(f"{mark} {finding.what}: {finding.found}", soft_wrap=True)
    if any(finding.state == "bad" for finding in findings):
        raise typer.Exit(1)


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=1) + "\n")
