"""Commands that need no run. Heavy imports are inside them, so that others start quickly."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import typer

from fedloge.commands.arguments import Json
from fedloge.console import print_json, stdout
from fedloge.errors import InputError


def recipes(json_: Json = False) -> None:
    """List the recipes and sweeps that come with fedloge."""
    from fedloge.recipe_files import first_sentence, known_files

    found = {
        "recipe": {name: first_sentence(path) for name, path in known_files("recipe").items()},
        "sweep": {name: first_sentence(path) for name, path in known_files("sweep").items()},
    }
    if json_:
        print_json(found)
        return
    for kind, command in (("recipe", "fedloge run NAME"), ("sweep", "fedloge sweep NAME")):
        stdout().print(f"{command}", style="bold")
        width = max(map(len, found[kind]), default=0)
        for name, text in found[kind].items():
            stdout().print(f"  {name:{width}}  {text}", soft_wrap=True, markup=False)


def certs(
    out: Annotated[Path, typer.Option(help="Folder of the deployment's keys.")],
    clients: Annotated[
        int | None, typer.Option(help="Make the folder, for this many clients.", min=1)
    ] = None,
    add_client: Annotated[int | None, typer.Option(help="Add keys for client K.", min=0)] = None,
    renew_server: Annotated[
        bool, typer.Option("--renew-server", help="A new server key and certificate.")
    ] = False,
    client_certificates: Annotated[
        bool,
        typer.Option(
            "--client-certificates",
            help="The gateway takes only sites with a certificate; makes those that are missing.",
        ),
    ] = False,
    revoke_client: Annotated[
        int | None, typer.Option(help="Revoke client K's certificate.", min=0)
    ] = None,
    host: Annotated[
        list[str] | None,
        typer.Option(help="A name or address by which clients reach the server; repeatable."),
    ] = None,
    days: Annotated[int, typer.Option(help="Lifetime of a certificate.", min=1, max=3650)] = 365,
    owner: Annotated[
        int, typer.Option(help="Give the private keys to this user id (needs root); -1: yours.")
    ] = -1,
    replace: Annotated[
        bool, typer.Option("--replace", help="With --add-client: rotate its keys.")
    ] = False,
) -> None:
    """Make the certificates and keys of a deployment, or renew some of them."""
    from fedloge.commands import certificates as deployment
    from fedloge.commands import client_certificates as of_clients

    wishes = (clients is not None, add_client is not None, revoke_client is not None)
    if sum((*wishes, renew_server, client_certificates)) != 1:
        raise InputError(
            "certs: give one of --clients N, --add-client K, --renew-server, --client-certificates and "
            "--revoke-client K"
        )
    made: list[str] = []
    if clients is not None:
        deployment.create(out, clients, host or [], days, owner)
        made = [f"client-{k}" for k in range(clients)]
    elif add_client is not None:
        deployment.add_client(out, add_client, replace=replace, owner=owner)
        made = [f"client-{add_client}"]
    elif client_certificates:
        made = of_clients.ask_for_certificates(out, days, owner)
    elif revoke_client is not None:
        of_clients.revoke(out, revoke_client)
    else:
        deployment.renew_server(out, host or [], days, owner)
    stdout().print(deployment.next_steps(out, made), soft_wrap=True, markup=False)


def superexec(
    context: typer.Context,
    code: Annotated[
        Literal["own", "sent"],
        typer.Option(
            help="own: the installed package answers, and refuses a server whose code differs; "
            "sent: the server's code runs."
        ),
    ] = "own",
) -> None:
    """Run a site's flower-superexec with the imports kept warm: a message costs a tenth of the processor time.

    All other options are those of flower-superexec.
    """
    from fedloge.client.superexec import superexec as run

    raise typer.Exit(run(context.args, code))


def site_key(
    client: Annotated[int, typer.Option(help="The site's partition id.", min=0)],
    out: Annotated[Path, typer.Option(help="The file to make.")] = Path("masking.key"),
) -> None:
    """Make a site's own key for secure aggregation, at the site; prints its line for everybody's peers.toml."""
    from fedloge.commands.site_keys import make_masking_key

    stdout().print(make_masking_key(out, client), soft_wrap=True, markup=False, highlight=False)


def doctor(
    secrets: Annotated[
        Path | None,
        typer.Option(
            help="A folder of fedloge certs, or a site's part: warns 30 days before a certificate ends."
        ),
    ] = None,
    json_: Json = False,
) -> None:
    """Check this machine and this installation, and with --secrets a deployment's certificates."""
    from fedloge.commands.doctor import examine

    findings = examine(secrets)
    if json_:
        print_json([dataclasses.asdict(finding) for finding in findings])
    else:
        for finding in findings:
            mark = {"ok": "[green]ok[/]  ", "warn": "[yellow]warn[/]", "bad": "[red]bad[/] "}[
                finding.state
            ]
            stdout().print(f"{mark} {finding.what}: {finding.found}", soft_wrap=True)
    if any(finding.state == "bad" for finding in findings):
        raise typer.Exit(1)
