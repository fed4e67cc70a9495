"""In what configs differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedloge.config.keys import Config


def differences(configs: Sequence[Config]) -> dict[str, list[Any]]:
    """The dotted keys in which configs differ, with the value in each config; None: it has no such option."""
    flats = [config.flat() for config in configs]
    found = {key: [flat.get(key) for flat in flats] for flat in flats for key in flat}
    return {key: values for key, values in found.items() if any(v != values[0] for v in values[1:])}
