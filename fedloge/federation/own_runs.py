"""Which runs were begun here and with which code, so that one's own go on unasked and a stranger's run nothing.

A run's folder may come from anywhere, and its config may name any file of this machine. So nothing in the folder
says whether it is to be trusted. What does lies in the user's own folder for state: for each run that names
code of someone's own the SHA-256 of its files, as they were when this user began the run, or allowed it. Another
content of a file asks anew: it is other code, and would not give the same bits. Of a plug-in that imports other
files only its own is known.
"""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

from fedloge.atomic_files import write_atomically
from fedloge.config import Config
from fedloge.errors import PluginError, RunError
from fedloge.federation.named_code import named_in
from fedloge.folders import state_folder

log = logging.getLogger(__name__)


def code_of(config: Config, *, on_ray: bool) -> dict[str, str]:
    """What a config names that is not fedloge's own, and the SHA-256 of each file; empty: there is none.

    Parameters
    ----------
    on_ray : whether the cluster that it names is meant too: its processes hand each other code.
    """
    found = {f"{n.kind} {n.name!r}": n.sha256 for n in named_in(config) if n.is_plugin}
    if on_ray and config.ray_address:
        found[f"ray-address {config.ray_address!r}"] = "a cluster"
    return found


def remember(run_id: str, config: Config) -> None:
    """Keep which code a run uses that is begun, or goes on, here. Where it cannot be kept, a warning says so."""
    code = code_of(config, on_ray=True)
    if not code:
        return
    try:
        path = _place(run_id)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(path, json.dumps(code, indent=1).encode(), private=True)
    except (OSError, RunError, RuntimeError) as exc:  # the last where there is no home
        log.warning(
            "which code this run uses cannot be kept (%s); to go on with it, allow plug-ins", exc
        )


def check_code(config: Config, run_id: str, *, allowed: bool, on_ray: bool = False) -> None:
    """Refuse a run that would execute code which this user has neither begun it with nor allowed.

    Nothing is executed here. Parameters as in `code_of`.

    Raises
    ------
    PluginError
        It names such code; the message says which.
    """
    code = {} if allowed else code_of(config, on_ray=on_ray)
    known = _known(run_id) if code else {}
    for what, content in code.items():
        if content and known.get(what) == content:
            continue
        why = (
            "has changed since the run was begun"
            if what in known
            else "is no part of fedloge, and it is not known here that you began the run with it"
        )
        raise PluginError(
            f"{what} {why}; it would run code: if you trust it, give allow_plugins=True (--allow-plugins)"
        )


def _known(run_id: str) -> dict[str, str]:
    try:
        found = json.loads(_place(run_id).read_bytes())
    except (OSError, ValueError, RecursionError, RuntimeError):
        return {}
    return found if isinstance(found, dict) else {}


def _place(run_id: str) -> Path:
    # The name comes from the run's own folder; it must not lead out of this one.
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", run_id):
        raise PluginError(f"run-id {run_id[:99]!r} is none of fedloge's")
    return state_folder() / "runs" / f"{run_id}.json"
