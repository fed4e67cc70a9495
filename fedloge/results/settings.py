"""The configuration of a run by dotted key, and which of its keys belong to the method.

An option's key begins with that of its table: ``method-options.mu``.
"""

from __future__ import annotations

from collections.abc import Iterable

from fedloge.config import OPERATIONAL, TABLES, Scalar
from fedloge.results.recorded_run import RecordedRun

Value = Scalar | tuple[Scalar, ...]

# Keys that belong to a method or to its tuning.
_METHOD_KEYS = frozenset(
    {
        "method",
        "method-options",
        "train-part",
        "train-part-options",
        "norm-sharing",
        "lr",
        "momentum",
        "weight-decay",
    }
)
# Keys that do not make runs unlike: paths and machines, the last bits, faults, what is measured
# besides, and the seed, which is looked at separately.
_MEASURED_BESIDES = {"personal-heads", "probes", "collapse-share"}
_WITHOUT_INFLUENCE = (
    (OPERATIONAL - {"rounds", "weights"}) | {"seed", "threads", "min-fraction"} | _MEASURED_BESIDES
)


def settings(run: RecordedRun) -> dict[str, Value]:
    """Every key and value of a run's configuration; lists as tuples, so that they can be compared.

    ``long-tail`` is the tail that was cut, also where ``auto`` was asked for.
    """
    plain = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in run.config.flat().items()
    }
    return plain | {"long-tail": run.config.tail}


def options_in_words(run: RecordedRun, table: str) -> str:
    """The options of a table as text; empty if there are none."""
    found = settings(run)
    return ", ".join(in_words(k, v) for k, v in found.items() if k.startswith(f"{table}."))


def is_methods_own(key: str) -> bool:
    """Whether a key belongs to a method or its tuning: then it may differ, and makes another row."""
    return key.partition(".")[0] in _METHOD_KEYS


def must_be_equal(key: str) -> bool:
    """Whether runs must have the same value: of keys for data, split, model, budget and measurement."""
    return not is_methods_own(key) and key.partition(".")[0] not in _WITHOUT_INFLUENCE


def known_keys(runs: Iterable[RecordedRun]) -> list[str]:
    """All keys that any of the runs has, each once; only a method's own runs have its options."""
    return list(dict.fromkeys(key for run in runs for key in settings(run)))


def in_words(key: str, value: Value | None) -> str:
    """A key and its value as text; an option without the key of its table.

    >>> in_words("method-options.mu", 0.1), in_words("lr", 0.1), in_words("data", ("a", "b"))
    ('mu = 0.1', 'lr = 0.1', 'data = a, b')
    """
    own = key.rpartition(".")[2] if key.partition(".")[0] in TABLES else key
    return f"{own} = {written(value)}"


def written(value: Value | None) -> str:
    """A value as text.

    >>> written(""), written(("a", "b")), written(None), written(0.02)
    ('""', 'a, b', 'not set', '0.02')
    """
    if value is None:
        return "not set"
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return '""' if value == "" else str(value)
