"""A run's record opened again: the config, the data and all else must be what the run was started with."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from fedloge import config as configs
from fedloge.config import OPERATIONAL, Config
from fedloge.data.content import Content, changed
from fedloge.errors import RunDirError
from fedloge.federation.federation import Federation
from fedloge.federation.own_runs import remember
from fedloge.run_files import FINGERPRINT, RunFiles
from fedloge.server.run_record import RunRecord

log = logging.getLogger(__name__)


def reopen(config: Config, federation: Federation) -> RunRecord:
    """The record of a run that is to be continued.

    A run that was started before the fingerprint covered the data goes on by the fingerprint of that
    time, with a warning: whether its data are the same cannot be known.

    Raises
    ------
    RunDirError
        There is no such run, its ``run.json`` is damaged, or config, data, partition, fixed
        classifier or weights are not those it was started with; the message says which.
    """
    folder = Path(config.runs_dir).expanduser().resolve() / config.name
    files = RunFiles(folder)
    try:
        info = json.loads(files.info.read_bytes())
        before = configs.load(files.config)
        run_id, fingerprint = str(info["run-id"]), str(info["fingerprint"])
        started_with, version = str(info["config-fingerprint"]), info.get("fingerprint-version", 1)
        content = Content.of(info["content"]) if version == FINGERPRINT else None
    except FileNotFoundError:
        raise RunDirError(f"{folder} is no run directory; give the path of one to resume") from None
    except (ValueError, OSError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise RunDirError(f"{files.info} is damaged ({exc}); restore it from a backup") from None
    if version not in (1, FINGERPRINT):
        raise RunDirError(
            f"{files.info}: expected a fingerprint of version 1 or {FINGERPRINT}, got {version!r}; resume it with "
            "the version of fedloge that it was started with"
        )
    _check_config(folder, before, config, started_with)
    if content is None:
        log.warning(
            "%s was started before the fingerprint covered the data; whether they are the same as then is not checked",
            folder,
        )
    elif what := changed(content, federation.content):
        raise RunDirError(
            f"{folder} was started with other data: {what}; put back what was there, or start a new run"
        )
    now = federation.fingerprint_without_data if content is None else federation.fingerprint
    if fingerprint != now:
        raise RunDirError(
            f"{folder}: {_what_else(info, federation)} not what it was started with ({fingerprint}, now {now}): "
            "the data, a file or a library has changed; resume where the run was started"
        )
    # Whoever resumes it has been asked, where there was something to ask.
    remember(run_id, config)
    return RunRecord(folder, run_id, fingerprint)


def _check_config(folder: Path, before: Config, now: Config, started_with: str) -> None:
    if before.fingerprint() != started_with:
        raise RunDirError(
            f"{RunFiles(folder).config} has been edited: its keys give {before.fingerprint()}, the run was "
            f"started with {started_with}; undo the edit, or start a new run with it"
        )
    differing = [
        f"{key} was {old!r}, now {new!r}"
        for key, (old, new) in configs.differences([before, now]).items()
        if key not in OPERATIONAL
    ]
    if differing:
        raise RunDirError(f"{folder} was started with another config: {'; '.join(differing)}")


def _what_else(info: dict[str, Any], fed: Federation) -> str:
    """Which of the rest that the fingerprint covers has changed."""
    weights = info.get("weights")
    before = weights.get("digest") if isinstance(weights, dict) else None
    # With on-node data the record's partition is what the clients told, which they may tell anew.
    split = fed.partition.digest() if not fed.config.on_node else info.get("partition")
    found = {
        "the partition": info.get("partition") != split,
        "the fixed classifier": info.get("prototypes") != fed.prototypes_digest,
        "the pretrained weights": before != (fed.pretrained and fed.pretrained.digest),
    }
    named = [name for name, differs in found.items() if differs] or ["its fingerprint"]
    return f"{' and '.join(named)} {'is' if named[0] != 'the pretrained weights' else 'are'}"
