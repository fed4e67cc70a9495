"""At the end of a run: which classes its heads give up, said once in its log."""

from __future__ import annotations

import json
import logging

from fedloge.federation import Federation
from fedloge.geometry.given_up import collapse_warnings
from fedloge.server.run_record import RunRecord

log = logging.getLogger(__name__)


def warn_of_collapse(federation: Federation, record: RunRecord) -> None:
    """Warn of classes under the imbalanced law's threshold, by the norms of the last evaluated round.

    Nothing is said where the law explains less than half of the norms' variance, or class counts are
    unknown to the server.
    """
    path = record.files.classes
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    if not lines:
        return
    split, counts = federation.partition.train_counts, federation.train_counts.numpy()
    known = bool(counts.any())
    names = [str(name) for name in federation.data.classes]
    for text in collapse_warnings(
        json.loads(lines[-1]), counts if known else None, split if known else None, names
    ):
        log.warning("%s", text)
