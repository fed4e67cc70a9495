"""What was run, in words: method, data, split, budget, and the hashes that tell runs apart."""

from __future__ import annotations

from fedloge.config import Config
from fedloge.options import keyword_options
from fedloge.partition import BUILTIN
from fedloge.results.number_words import plural
from fedloge.results.recorded_run import RecordedRun
from fedloge.results.settings import in_words, options_in_words
from fedloge.results.who_was_measured import measured, own_tests

_WHERE_PARTS_LIVE = {
    "shared": "averaged by the server",
    "personal": "stays on its client",
    "fixed": "never moves",
}


def facts(run: RecordedRun) -> list[tuple[str, str]]:
    """The facts of a run, as pairs of name and text."""
    config, info = run.config, run.info
    options = options_in_words(run, "method-options")
    parameters = info.get("parameters")
    versions = info.get("versions") or {}
    said = [
        ("Method", run.method + (f" ({options})" if options else "")),
        ("Parts", _parts(run)),
        ("Model", config.model + (f", {parameters:,} shared numbers" if parameters else "")),
        ("Weights", _weights(run)),
        ("Fixed classifier", _fixed_classifier(run)),
        ("Data", _data(run)),
        ("Split", _split(run)),
        ("Tests", _tests(run)),
        (
            "Budget",
            f"{plural(config.rounds, 'round')}, {config.clients_per_round} clients per round, "
            f"{plural(config.local_epochs, 'local epoch')}, batch {config.batch_size}, "
            f"{_training(config)}, seed {config.seed}",
        ),
        ("Started", str(info.get("created") or "")),
        ("Fingerprint", run.fingerprint),
        ("Partition", str(info.get("partition") or "")),
        ("Versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
    ]
    return [(name, text) for name, text in said if text]


def _training(config: Config) -> str:
    said = [f"learning rate {config.lr:g}"]
    if config.optimiser != "sgd" or config.nesterov:
        said.append(f"optimiser {config.optimiser}" + (" with Nesterov" * config.nesterov))
    if config.lr_schedule != "constant":
        said.append(f"falling by {config.lr_schedule}")
    if config.warm_up_rounds:
        said.append(f"{plural(config.warm_up_rounds, 'round')} of warm-up")
    if config.server_optimiser != "none":
        said.append(f"server optimiser {config.server_optimiser}")
    return ", ".join(said)


def _parts(run: RecordedRun) -> str:
    parts = run.info.get("parts") or {}
    return "; ".join(
        f"{', '.join(name.replace('_', ' ') for name, kind in parts.items() if kind == wanted)}: "
        f"{text}"
        for wanted, text in _WHERE_PARTS_LIVE.items()
        if wanted in parts.values()
    )


def _data(run: RecordedRun) -> str:
    config, info, counts = run.config, run.info, run.train_counts
    said = [config.dataset, plural(len(run.class_names), "class", "classes")]
    images = int(info.get("num-train") or (0 if counts is None else counts.sum()))
    if images:
        said.append(plural(images, "training image"))
    if counts is not None:
        said.append(f"from {counts.max():,} to {counts.min():,} per class")
    tail = ""
    if config.tail in ("exp", "step", "pareto"):
        shape = {"exp": "exponential"}.get(config.tail, config.tail)
        tail = f" ({shape} tail, imbalance factor {config.imbalance_factor:g})"
    if info.get("tail"):
        said.append(str(info["tail"]))
    if info.get("left-out"):
        said.append(
            f"{plural(int(info['left-out']), 'image')} left out with small or large clients"
        )
    return ", ".join(said) + tail


def _split(run: RecordedRun) -> str:
    config = run.config
    if config.on_node:
        return f"none: the images lie with the {plural(config.num_clients, 'client')} already"
    options = dict(config.partitioner_options)
    # The default of what skews most; those of a user's own partitioner need not be at hand here.
    if config.partitioner in BUILTIN and options.get("law", "dirichlet") == "dirichlet":
        known = keyword_options(BUILTIN[config.partitioner], without=("manifest",)).model_fields
        options = {k: known[k].default for k in ("alpha",) if k in known} | options
    said = ", ".join(in_words(key, value) for key, value in options.items())
    how = config.partitioner + (f" ({said})" if said else "")
    held = config.held_out_clients
    never = f", {held} of which never {'trains' if held == 1 else 'train'}" if held else ""
    return f"{how} over {plural(config.num_clients, 'client')}{never}"


def _tests(run: RecordedRun) -> str:
    """How the tests were made; nothing for a run of an earlier version, which does not say it."""
    rule = run.info.get("test-split")
    if not rule:
        return ""
    share = f", {run.config.test_share:.0%} of them" if rule == "own" else ""
    said = f"{rule}: each client on {own_tests(run)}{share}"
    found = measured(run)
    return f"{said}; {found}" if found else said


def _weights(run: RecordedRun) -> str:
    weights = run.info.get("weights") or {}
    if not weights:
        return ""
    said = f"{weights.get('source')} ({weights.get('digest')}), licence: {weights.get('licence')}"
    return said + (", excludes commercial use" if weights.get("non-commercial") else "")


def _fixed_classifier(run: RecordedRun) -> str:
    info = run.info.get("prototype-info") or {}
    if not info:
        return "none"
    said = [str(info.get("kind", "")).replace("-", " ")]
    if run.prototypes is not None:
        said.append(f"{run.prototypes.shape[1]} features")
    for key, name in (("sparsity", "sparsity"), ("gamma", "row norm")):
        if isinstance(info.get(key), int | float):
            said.append(f"{name} {info[key]:g}")
    reason = f" ({info['reason']})" if info.get("reason") else ""
    return ", ".join(said) + reason
