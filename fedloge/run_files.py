"""The files of a run's directory: their names, their places and the format number.

The code that writes a run (the server, its clients) and the code that reads one (tables, the
report, the export) take the paths from here, so that both mean the same files::

    runs/<name>/
      config.toml            the configuration, valid as a recipe
      run.json               what was started: fingerprint, classes, method, versions
      metrics.jsonl          one line per round: figures that config and seed reproduce
      timing.jsonl           one line per round: seconds and bytes
      clients.jsonl          one line per client and evaluated round
      classes.jsonl          one line per evaluated round: a list over the classes for each figure
      calibration.jsonl      one line per model and evaluated round: sums over bins of confidence
      failures.jsonl         one line per client that failed in a round
      attempts.jsonl         one line per start of the run
      rosters.jsonl          one line per round, where sites come and go: who was there
      arrivals.jsonl         one line per round in which not all were waited for: whose answers counted
      split.safetensors      examples of each class on each client
      prototypes.safetensors the fixed classifier, for methods that have one
      checkpoint/            manifest.json, round-000012.safetensors; chosen.safetensors, the global
                             models after the round that validation examples choose
      heads/                 client-00003/round-000012.safetensors, the personal tensors;
                             secure-sums.jsonl, what the client remembers of secure sums;
                             data.json, which data of its own the client began the run with
      set-aside/             attempt-00002/: what there was of rounds after the one that this start of the run
                             went on from, under its own names (owner only); may be deleted
      report.html            the page about the run
      mistakes.html          a page of a model's mistakes, where one was asked for
      run.lock               held by the process that runs it
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

FORMAT = 2
"""Format number of a run's directory; readers refuse any other."""

FINGERPRINT = 2
"""What a new run's fingerprint covers: 2, the content of the data too; 1, as before, all but that."""

ROUND_FILES = ("metrics", "timing", "clients", "classes", "calibration", "failures")
"""The JSON-lines files that grow with every round, in the order in which they are written."""

MASK_MEMORY = "secure-sums.jsonl"
"""In a client's folder of personal tensors: the secure sums that it took part in."""

DATA_OF_CLIENT = "data.json"
"""In a client's folder of personal tensors: digests of its own data as it began the run with them."""

SET_ASIDE = "set-aside"
"""The folder of what a resume does again, in a run and in a client's folder of personal tensors."""

CHECKPOINT_MANIFEST = "manifest.json"


@dataclass(frozen=True)
class RunFiles:
    """The paths of one run; none of them need exist."""

    folder: Path

    @property
    def config(self) -> Path:
        """The configuration, valid as a recipe."""
        return self.folder / "config.toml"

    @property
    def info(self) -> Path:
        """What was started: fingerprint, classes, method, versions."""
        return self.folder / "run.json"

    def of_rounds(self, name: str) -> Path:
        """One of `ROUND_FILES`."""
        return self.folder / f"{name}.jsonl"

    @property
    def metrics(self) -> Path:
        """One line per round: the figures that config and seed reproduce."""
        return self.of_rounds("metrics")

    @property
    def timing(self) -> Path:
        """One line per round: seconds and bytes."""
        return self.of_rounds("timing")

    @property
    def clients(self) -> Path:
        """One line per client and evaluated round."""
        return self.of_rounds("clients")

    @property
    def classes(self) -> Path:
        """One line per evaluated round, with a list over the classes for each figure."""
        return self.of_rounds("classes")

    @property
    def calibration(self) -> Path:
        """One line per model and evaluated round, with sums over bins of confidence."""
        return self.of_rounds("calibration")

    @property
    def failures(self) -> Path:
        """One line per client that failed in a round."""
        return self.of_rounds("failures")

    @property
    def attempts(self) -> Path:
        """One line per start of the run."""
        return self.folder / "attempts.jsonl"

    @property
    def arrivals(self) -> Path:
        """Whose answers counted, one line per round; absent where all are waited for."""
        return self.folder / "arrivals.jsonl"

    @property
    def rosters(self) -> Path:
        """Who was there, one line per round; absent where all must be."""
        return self.folder / "rosters.jsonl"

    @property
    def split(self) -> Path:
        """Examples of each class on each client."""
        return self.folder / "split.safetensors"

    @property
    def prototypes(self) -> Path:
        """The fixed classifier; absent for methods without one."""
        return self.folder / "prototypes.safetensors"

    @property
    def checkpoints(self) -> Path:
        """The folder of the shared tensors after a round."""
        return self.folder / "checkpoint"

    @property
    def chosen(self) -> Path:
        """The shared tensors after the round that validation examples choose; absent without any."""
        return self.checkpoints / "chosen.safetensors"

    @property
    def heads(self) -> Path:
        """The folder of the clients' personal tensors, in a simulation."""
        return self.folder / "heads"

    @property
    def set_aside(self) -> Path:
        """The folder of what was of later rounds than those that the run was resumed from."""
        return self.folder / SET_ASIDE

    @property
    def report(self) -> Path:
        """The page about the run."""
        return self.folder / "report.html"

    @property
    def comparison(self) -> Path:
        """The page about this run and others, where no other place is asked for."""
        return self.folder / "comparison.html"

    def mistakes(self, client: int | None) -> Path:
        """The page of the mistakes of the global model, or of a client's own; it shows test images."""
        whose = "" if client is None else f"-{client_folder(client)}"
        return self.folder / f"mistakes{whose}.html"

    @property
    def lock(self) -> Path:
        """Held by the process that runs it."""
        return self.folder / "run.lock"


def tensors_of_round(round: int) -> str:
    """Name of a file of tensors as they were after a round, in a checkpoint or a client's folder."""
    return f"round-{round:06d}.safetensors"


def round_of_tensors(name: str) -> int:
    """The round of a file that `tensors_of_round` has named; -1: it is none."""
    found = re.fullmatch(r"round-(\d{6,})\.safetensors", name)
    return int(found[1]) if found else -1


def client_folder(client: int) -> str:
    """Name of a client's folder of personal tensors."""
    return f"client-{client:05d}"
