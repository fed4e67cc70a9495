"""What a run says while it runs, as lines of the log that Flower keeps of it."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator

PREFIX = "fedloge: "
"""Before each line, so that it is found among Flower's own."""


@contextlib.contextmanager
def spoken() -> Iterator[None]:
    """Write the run's lines to standard output, unless somebody shows them already."""
    logger = logging.getLogger("fedloge.run")
    if logger.handlers:
        yield
        return
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter(f"{PREFIX}%(message)s"))
    handler.setLevel(logging.INFO)
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.level, logger.propagate = before
