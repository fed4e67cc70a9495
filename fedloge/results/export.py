"""Trained models of a run, in memory or exported to a folder."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedloge.client.personal_state import PersonalStore
from fedloge.data.content import Content, changed
from fedloge.data.sources import decoding_of
from fedloge.errors import InputError, RunDirError, unknown_name
from fedloge.federation import Federation, open_federation, open_site
from fedloge.federation.own_runs import check_code
from fedloge.messages import Stamp
from fedloge.methods import method_class
from fedloge.methods.method import Part, Predictor
from fedloge.methods.personal_heads import personal_models
from fedloge.results import trained_model
from fedloge.results.figure_rows import predictors
from fedloge.results.recorded_run import RecordedRun
from fedloge.results.trained_model import Model, Packed
from fedloge.rng import torch_seeded
from fedloge.server.checkpoint import Checkpoint, CheckpointStore
from fedloge.server.chosen_model import read_chosen
from fedloge.server.made_heads import global_models
from fedloge.server.run_record import RunRecord

log = logging.getLogger(__name__)


def global_model(run: RecordedRun, predictor: str = "") -> Model:
    """The global model of a run's newest checkpoint.

    Parameters
    ----------
    predictor : its name in the metrics, such as ``raw``; empty: the one the method is judged by.

    Raises
    ------
    InputError
        The run has no such model.
    CheckpointError
        The checkpoint is missing or damaged.
    """
    return trained_model.unpack(chosen_global(run, predictor).packed())


def client_model(
    run: RecordedRun,
    client: int,
    predictor: str = "",
    state_dir: Path | None = None,
    data_path: str = "",
) -> Model:
    """Client `client`'s personal model; parameters and errors as in `export_client`."""
    return trained_model.unpack(
        chosen_client(run, client, predictor, state_dir, data_path).packed()
    )


def model_of(
    path: Path,
    client: int | None = None,
    predictor: str = "",
    state_dir: Path | None = None,
    data_path: str = "",
    *,
    allow_plugins: bool = False,
) -> Model:
    """The exported model in a folder, or the model of a run: the global one, or a client's.

    Parameters and errors are those of `client_model`; an export is one model, of which nothing can be chosen,
    and `allow_plugins` is as for `trained_model.load` and `open_run`.
    """
    if (path / trained_model.MANIFEST).is_file():
        if client is not None or predictor or state_dir or data_path:
            raise InputError(
                f"{path} is one exported model; leave out --client, --predictor, --state-dir and "
                "--data-path, or give the run"
            )
        return trained_model.load(path, allow_plugins=allow_plugins)
    try:
        run = RecordedRun.open(path, allow_plugins=allow_plugins)
    except RunDirError as exc:
        raise InputError(f"{path} holds neither an exported model nor a run: {exc}") from None
    if client is None:
        return global_model(run, predictor)
    return client_model(run, client, predictor, state_dir, data_path)


def export_global(
    run: RecordedRun, out: Path, predictor: str = "", by_validation: bool = False
) -> dict[str, Any]:
    """Write the global model of a run's newest checkpoint into a new folder; returns the manifest.

    With `by_validation` that of the round which validation examples choose.
    """
    packed = chosen_global(run, predictor, by_validation).packed()
    trained_model.write(out, packed)
    return packed.manifest


def export_client(
    run: RecordedRun,
    client: int,
    out: Path,
    predictor: str = "",
    state_dir: Path | None = None,
    data_path: str = "",
) -> dict[str, Any]:
    """Write client `client`'s personal model into a new folder; returns the manifest.

    Parameters
    ----------
    client : counted from 0.
    predictor : as in `global_model`.
    state_dir : at a site of a deployment, the ``state-dir`` of its node; None: the personal states
        are in the run's folder.
    data_path : at a site that holds its own images, the ``data-path`` of its node.

    Raises
    ------
    InputError
        There is no such client or model, or its personal states are not here.
    CheckpointError
        The checkpoint or the personal state is missing or damaged.
    """
    packed = chosen_client(run, client, predictor, state_dir, data_path).packed()
    trained_model.write(out, packed)
    return packed.manifest


@dataclass(frozen=True)
class Chosen:
    """One model of a run, in memory.

    Attributes
    ----------
    federation : as the model's owner sees it; its network holds the model until it is used again.
    origin : which model of which run and round it is, for a manifest.
    """

    federation: Federation
    predictor: Predictor
    origin: dict[str, Any]

    def packed(self) -> Packed:
        """The model as it is written."""
        fed = self.federation
        data, frozen = described(fed), fed.start.backbone.frozen
        return trained_model.pack(fed.config, data, fed.net, self.predictor, self.origin, frozen)


def chosen_global(run: RecordedRun, predictor: str = "", by_validation: bool = False) -> Chosen:
    """The global model of the newest checkpoint, or of the round that validation chooses.

    Further parameters and errors as in `global_model`."""
    if run.config.norm_sharing != "all":
        raise InputError(
            f"export: with norm-sharing {run.config.norm_sharing!r} norm layers stay with the clients and no "
            "global network exists; export a client's with --client K"
        )
    federation, checkpoint = opened(run)
    if by_validation:
        checkpoint = read_chosen(run.files.chosen, run.info["run-id"], run.info["fingerprint"])
    net = federation.load(checkpoint.shared, federation.initial[Part.PERSONAL]).eval()
    found = global_models(federation, net, checkpoint.made)
    name = predictor or federation.method.primary_global or ""
    if name not in found and name in predictors(run, "global"):
        raise InputError(
            f"export: {name!r} is made of clients' sums when the models are evaluated, and the checkpoint of round "
            f"{checkpoint.round} has none; resume the run to an evaluated round, or choose {', '.join(found)}"
        )
    origin = {"model": f"global/{name}", **_of_checkpoint(run, checkpoint)}
    return Chosen(federation, _pick(found, name, "global"), origin)


def chosen_client(
    run: RecordedRun,
    client: int,
    predictor: str = "",
    state_dir: Path | None = None,
    data_path: str = "",
) -> Chosen:
    """Client `client`'s personal model; parameters and errors as in `export_client`."""
    if not 0 <= client < run.config.num_clients:
        raise InputError(
            f"export: client {client} asked for, the run has 0 to {run.config.num_clients - 1}"
        )
    _check_code(run)
    heads = run.files.heads if state_dir is None else state_dir / run.info["run-id"]
    # A method that is trained at one place leaves no state with any client.
    if not heads.is_dir() and not method_class(run.config.method).pooled:
        raise InputError(
            f"export: {heads} is not there; in a deployment the personal models are at their sites: "
            "copy the run's folder to the site and name its state folder with --state-dir"
        )
    federation, checkpoint = opened(run)
    if run.config.on_node:
        federation = open_site(run.config, client, data_path)
    record = RunRecord(run.path, run.info["run-id"], run.info["fingerprint"])
    bases = record.bases(at_least=checkpoint.attempt)[: checkpoint.attempt]
    round = checkpoint.round
    stamp = Stamp(record.run_id, record.name, record.fingerprint, bases, round, round)
    store = PersonalStore(heads, client)
    personal = store.load(stamp, federation.initial[Part.PERSONAL], before=round + 1)
    net = federation.load(checkpoint.shared, personal.tensors).eval()
    data = federation.client_data(client, round, checkpoint.shared, personal.rounds_trained)
    with torch_seeded(federation.config.seed, "personal-models", round, client):
        found = personal_models(federation.method, net, data)
    name = predictor or federation.method.primary_personal or ""
    origin = {
        "model": f"personal/{name}",
        "client": client,
        "rounds-trained": personal.rounds_trained,
        **_of_checkpoint(run, checkpoint),
    }
    return Chosen(federation, _pick(found, name, "personal"), origin)


def described(federation: Federation) -> dict[str, Any]:
    """What an exported model has to know of the data set: its classes, and what raw inputs are."""
    images = federation.images
    return {
        "classes": list(images.classes),
        "input-shape": list(images.input_shape),
        "network-shape": list(images.network_shape),
        "input-dtype": str(images.train.inputs.dtype).removeprefix("torch."),
        "decoding": decoding_of(federation.source_config).described(),
        "preparation": images.preparation.described(),
        # No part of prediction; a new client that is given the export trains with it.
        "augmentation": getattr(federation.data.preparation, "augmentation", "none"),
    }


def opened(run: RecordedRun) -> tuple[Federation, Checkpoint]:
    """The federation of a run as the server sees it, and the newest checkpoint.

    Warns where the data are others than the run was started with: whoever measures on them should know.
    """
    _check_code(run)
    store = CheckpointStore(run.files.checkpoints, run.info["run-id"], run.info["fingerprint"])
    federation = open_federation(run.config)
    _warn_of_other_data(run, federation)
    return federation, store.load()


def _check_code(run: RecordedRun) -> None:
    check_code(run.config, str(run.info.get("run-id", "")), allowed=run.allow_plugins)


def _warn_of_other_data(run: RecordedRun, federation: Federation) -> None:
    # Of sites' own data the server's test images, which a run's record knows, need not be here.
    if run.config.on_node or "content" not in run.info:
        return
    try:
        before = Content.of(run.info["content"])
    except (ValueError, KeyError, TypeError) as exc:
        raise RunDirError(f"{run.files.info} is damaged ({exc}); copy the run again") from None
    if what := changed(before, federation.content):
        log.warning("%s was trained on other data: %s", run.path, what)


def _pick(found: dict[str, Predictor], name: str, kind: str) -> Predictor:
    if not found:
        raise InputError(f"export: this method has no {kind} model")
    if name not in found:
        raise InputError(f"export: {unknown_name(f'{kind} model', name, found)}")
    return found[name]


def _of_checkpoint(run: RecordedRun, checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "run-id": run.info["run-id"],
        "fingerprint": run.info["fingerprint"],
        "round": checkpoint.round,
    }
