"""Over how many clients and images a run's figures are, how far they might vary, and on which images."""

from __future__ import annotations

from dataclasses import dataclass

from fedloge.learning.metrics import interval_over_clients
from fedloge.results.number_words import percent, plural
from fedloge.results.recorded_run import RecordedRun
from fedloge.results.run_figures import client_accuracies
from fedloge.rng import rng

# A test set is balanced if its largest class is at most this many times its smallest.
_BALANCED = 1.25


@dataclass(frozen=True)
class Measured:
    """Over whom the personal figures of a run are, after its last evaluated round.

    Attributes
    ----------
    clients : those with test images; they alone are in a mean.
    images : their test images together.
    without : clients that answered but have no test images.
    silent : clients that did not answer.
    held_out : clients that never train, which are measured apart.
    """

    clients: int
    images: int
    without: int
    silent: int
    held_out: int

    def __str__(self) -> str:
        """As half a sentence: ``7 of 12 clients (5 have no test images) with 25 test images``."""
        of = self.clients + self.without + self.silent
        why = [f"{self.without} {_have(self.without)} no test images"] if self.without else []
        why += [f"{self.silent} did not answer"] if self.silent else []
        whom = f"{self.clients:,} of {plural(of, 'client')}" if why else plural(of, "client")
        said = whom + (f" ({', '.join(why)})" if why else "")
        return f"{said} with {plural(self.images, 'test image')}"


def _have(count: int) -> str:
    return "has" if count == 1 else "have"


def measured(run: RecordedRun) -> Measured | None:
    """Over whom the personal figures are; None if the lines of the clients are missing."""
    held_out = set(run.info.get("held-out-clients") or [])
    lines = [line for line in run.last_client_lines if line.get("client") not in held_out]
    if not lines:
        return None
    key = run.beside_primary("personal", "accuracy")
    tested = [line for line in lines if key in line]
    return Measured(
        clients=len(tested),
        images=sum(int(line.get("num-test", 0)) for line in tested),
        without=len(lines) - len(tested),
        silent=run.config.num_clients - len(held_out) - len(lines),
        held_out=len(held_out),
    )


def interval(
    run: RecordedRun, predictor: str = "", evaluations: int = 1
) -> tuple[float, float] | None:
    """The 95 % bootstrap interval over clients of a personal mean, in [0, 1]; None if it is not known.

    Parameters
    ----------
    predictor : which personal model; empty: the one that the method is judged by.
    evaluations : of the clients' means over so many of the last evaluations. For the last one it is what
        the run recorded.
    """
    name = predictor or run.primary.get("personal", "//").split("/")[1]
    if evaluations == 1:
        found = (run.evaluated[-1] if run.evaluated else {}).get(f"interval/personal/{name}/mean")
        return (float(found[0]), float(found[1])) if isinstance(found, list) else None
    held_out = set(run.info.get("held-out-clients") or [])
    accuracies = client_accuracies(run, evaluations)
    values = [value for client, value in accuracies.items() if client not in held_out]
    return interval_over_clients(values, rng(run.config.seed, "interval-over-clients"))


def in_percent(found: tuple[float, float]) -> str:
    """An interval as text.

    >>> in_percent((0.612, 0.8041))
    '61.2 to 80.4 %'
    """
    return f"{percent(found[0])} to {percent(found[1])} %"


def test_set(run: RecordedRun) -> str:
    """What the global model is tested on; it is called balanced only if it is."""
    counts = run.info.get("test-counts") or []
    images = f" ({sum(counts):,} images)" if sum(counts) else ""
    if run.info.get("test-split") == "own" and counts and not _has_test_set(run):
        return f"the clients’ own test images together{images}"
    if counts and min(counts) > 0 and max(counts) <= _BALANCED * min(counts):
        return f"the balanced test set{images}"
    return f"the server’s test images{images}" if run.config.on_node else f"the test set{images}"


def own_tests(run: RecordedRun) -> str:
    """On what the personal models are tested, as half a sentence."""
    return {
        "own": "test images that are a share of the client’s own, on which nobody trained",
        "given": "the client’s part of the test images that the data name",
        "by-site": "test images of its own site",
    }.get(
        str(run.info.get("test-split")),
        "test images that follow the client’s own class counts",
    )


def _has_test_set(run: RecordedRun) -> bool:
    """Whether the data had test images of their own: then these are what the global model is tested on."""
    tested = run.info.get("test-counts") or []
    split = run.split
    return split is None or int(split.local_test.sum()) != sum(tested)
