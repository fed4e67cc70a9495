"""The files of a run's directory: their names, their places and the format number.

Whoever writes a run (the server, its clients) and whoever reads one (tables, the report,
the export) takes the paths from here, so that both always mean the same file::

    runs/<name>/
      config.toml            the configuration, valid as a recipe
      run.json               what was started: fingerprint, classes, method, versions
      metrics.jsonl          a line per round: figures that config and seed reproduce
      timing.jsonl           a line per round: seconds and bytes
      clients.jsonl          a line per client and evaluated round
      classes.jsonl          a line per evaluated round, a list over the classes per figure
      failures.jsonl         a line per client that failed in a round
      attempts.jsonl         a line per start of the run
      split.safetensors      images of each class on each client
      prototypes.safetensors the fixed classifier, for methods that have one
      checkpoint/            manifest.json, round-000012.safetensors
      heads/                 client-00003/round-000012.safetensors, the personal tensors
      report.html            the page about the run
      run.lock               held by the process that runs it
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FORMAT = 2
"""Of a run's directory; a reader refuses any other."""

ROUND_FILES = ("metrics", "timing", "clients", "classes", "failures")
"""The JSON-lines files that grow by a round at a time, in the order they are written."""

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
        """A line per round: the figures that config and seed reproduce."""
        return self.of_rounds("metrics")

    @property
    def timing(self) -> Path:
        """A line per round: seconds and bytes."""
        return self.of_rounds("timing")

    @property
    def clients(self) -> Path:
        """A line per client and evaluated round."""
        return self.of_rounds("clients")

    @property
    def classes(self) -> Path:
        """A line per evaluated round, with a list over the classes for each figure."""
        return self.of_rounds("classes")

    @property
    def failures(self) -> Path:
        """A line per client that failed in a round."""
        return self.of_rounds("failures")

    @property
    def attempts(self) -> Path:
        """A line per start of the run."""
        return self.folder / "attempts.jsonl"

    @property
    def split(self) -> Path:
        """Images of each class on each client."""
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
    def heads(self) -> Path:
        """The folder of the clients' personal tensors, in a simulation."""
        return self.folder / "heads"

    @property
    def report(self) -> Path:
        """The page about the run."""
        return self.folder / "report.html"

    @property
    def comparison(self) -> Path:
        """The page about this run and others, where no other place is asked for."""
        return self.folder / "comparison.html"

    @property
    def lock(self) -> Path:
        """Held by the process that runs it."""
        return self.folder / "run.lock"


def tensors_of_round(round: int) -> str:
    """Name of a file of tensors as they were after a round, in a checkpoint or a client's folder."""
    return f"round-{round:06d}.safetensors"


def client_folder(client: int) -> str:
    """Name of a client's folder of personal tensors."""
    return f"client-{client:05d}"
