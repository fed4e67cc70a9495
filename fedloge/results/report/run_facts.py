"""What was run, in words: method, data, split, budget, and the hashes that tell runs apart."""

from __future__ import annotations

from fedloge.options import checked_options, keyword_options
from fedloge.partition import BUILTIN
from fedloge.results.number_words import plural
from fedloge.results.recorded_run import RecordedRun
from fedloge.results.settings import in_words, options_in_words

_WHERE_PARTS_LIVE = {
    "shared": "averaged by the server",
    "personal": "stays on its client",
    "fixed": "never moves",
}
# A test set is balanced if its largest class is at most this many times its smallest.
_BALANCED = 1.25


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
        ("Fixed classifier", _fixed_classifier(run)),
        ("Data", _data(run)),
        ("Split", _split(run)),
        (
            "Budget",
            f"{plural(config.rounds, 'round')}, {config.clients_per_round} clients per round, "
            f"{plural(config.local_epochs, 'local epoch')}, batch {config.batch_size}, "
            f"learning rate {config.lr:g}, seed {config.seed}",
        ),
        ("Started", str(info.get("created") or "")),
        ("Fingerprint", run.fingerprint),
        ("Partition", str(info.get("partition") or "")),
        ("Versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
    ]
    return [(name, text) for name, text in said if text]


def test_set(run: RecordedRun) -> str:
    """What the global model is tested on; it is called balanced only if it is."""
    counts = run.info.get("test-counts") or []
    if counts and min(counts) > 0 and max(counts) <= _BALANCED * min(counts):
        return "the balanced test set"
    return "the server’s test images"


def _parts(run: RecordedRun) -> str:
    parts = run.info.get("parts") or {}
    return "; ".join(
        f"{', '.join(name.replace('_', ' ') for name, kind in parts.items() if kind == wanted)}: "
        f"{text}"
        for wanted, text in _WHERE_PARTS_LIVE.items()
        if wanted in parts.values()
    )


def _data(run: RecordedRun) -> str:
    config, counts = run.config, run.train_counts
    said = [config.dataset, plural(len(run.class_names), "class", "classes")]
    images = int(run.info.get("num-train") or (0 if counts is None else counts.sum()))
    if images:
        said.append(plural(images, "training image"))
    if counts is not None:
        said.append(f"from {counts.max():,} to {counts.min():,} per class")
    tail = ""
    if config.long_tail != "none":
        shape = {"exp": "exponential"}.get(config.long_tail, config.long_tail)
        tail = f" ({shape} tail, imbalance factor {config.imbalance_factor:g})"
    return ", ".join(said) + tail


def _split(run: RecordedRun) -> str:
    config = run.config
    if config.on_node:
        return f"none: the images lie with the {plural(config.num_clients, 'client')} already"
    options = dict(config.partitioner_options)
    # The defaults of a partitioner that is a user's need not be at hand where a run is read.
    if config.partitioner in BUILTIN:
        known = keyword_options(BUILTIN[config.partitioner])
        options = checked_options(known, options, "partitioner-options").model_dump(by_alias=True)
    said = ", ".join(in_words(key, value) for key, value in options.items())
    how = config.partitioner + (f" ({said})" if said else "")
    return f"{how} over {plural(config.num_clients, 'client')}"


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
