"""A run for users: its record as tables, its trained models, its report.

>>> run = open_run("runs/fedloge-digits-1")              # doctest: +SKIP
>>> run.metrics[["round", "global/realigned/all"]]       # doctest: +SKIP
>>> logits = run.model(client=3)(images)                 # doctest: +SKIP
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedloge.errors import InputError
from fedloge.results.read_files import Line
from fedloge.results.recorded_run import GROUPS, RecordedRun

if TYPE_CHECKING:
    from fedloge.results.personalize import Personalized
    from fedloge.results.trained_model import Model


class Run(RecordedRun):
    """One run directory, as far as it has been written; open it with `open_run`.

    `metrics`, `timing`, `clients` and `classes` are pandas frames where pandas is installed,
    and lists of records (dictionaries) otherwise. Accuracies are in [0, 1].
    """

    @property
    def metrics(self) -> Any:
        """One record per round: training losses, and in evaluated rounds the figures of the models."""
        return _table(self.metric_lines)

    @property
    def timing(self) -> Any:
        """One record per round: seconds, images per second, and bytes sent."""
        return _table(self.timing_lines)

    @property
    def clients(self) -> Any:
        """One record per client, of the last evaluated round."""
        return _table(self.last_client_lines)

    @property
    def classes(self) -> Any:
        """One record per class, of the last evaluated round.

        ``train-images`` and ``group`` are left out if the clients do not tell their class counts.
        """
        return _table(self._class_records())

    def model(self, which: str = "global", *, client: int | None = None) -> Model:
        """A trained model, from images to logits, as `fedloge.load` gives it; nothing is written.

        Parameters
        ----------
        which : ``global``, or one of the global models by the name that the metrics use
            (``global/raw``). With `client`, the name of a personal one (``personal/raw``).
        client : the personal model of this client instead; counted from 0.

        Raises
        ------
        InputError
            The run has no such model.
        CheckpointError
            A checkpoint or personal state is missing or damaged.
        PluginError
            It needs code that you did not begin the run with; see `open_run`.
        """
        # Needs torch and Flower, which take seconds to import; tables need neither.
        from fedloge.results.export import client_model, global_model

        side, _, predictor = which.partition("/")
        wanted = "global" if client is None else "personal"
        if which != "global" and side != wanted:
            raise InputError(
                f"model: expected {wanted!r} or '{wanted}/NAME'"
                f"{'' if client is None else ' with a client'}, got {which!r}"
            )
        if client is None:
            return global_model(self, predictor)
        return client_model(self, client, predictor)

    def personalize(
        self, data: str | Path, *, rounds: int = 1, test_share: float = 0.2
    ) -> Personalized:
        """A model for a client that never took part, of the photos in a folder; the run stays as it is.

        Parameters and errors as in `fedloge.results.personalize.personalize`, which also takes tensors.
        """
        # Needs torch and Flower, which take seconds to import; tables need neither.
        from fedloge.results.personalize import base_of_run, personalize

        return personalize(base_of_run(self), Path(data), rounds=rounds, test_share=test_share)

    def mistakes(
        self, client: int | None = None, predictor: str = "", *, path: str | Path | None = None
    ) -> Path:
        """Write the page of the global model's mistakes, or of a client's own model's; returns its path.

        The page holds test images. Errors are those of `model`, and `InputError` without test images.

        Parameters
        ----------
        path : the file to write; None: ``mistakes.html`` or ``mistakes-client-....html`` in the run's folder.
        """
        # Needs torch, Flower and matplotlib, which take seconds to import; tables need none.
        from fedloge.results.mistakes import find_mistakes
        from fedloge.results.report.mistakes_page import write_mistakes

        out = self.files.mistakes(client) if path is None else Path(path)
        write_mistakes(find_mistakes(self, client, predictor), out)
        return out

    def report(self, path: str | Path | None = None) -> Path:
        """Write the HTML report of this run; returns its path.

        Parameters
        ----------
        path : the file to write; None: ``report.html`` in the run's folder.
        """
        # matplotlib and Jinja2 take a second to import; reading figures needs neither.
        from fedloge.results.report import write_report

        out = self.files.report if path is None else Path(path)
        write_report([self], out)
        return out

    def _repr_html_(self) -> str:
        """What a notebook shows of the run: its name, final figures, and a curve."""
        # For start-up time: the report needs matplotlib.
        from fedloge.results.report import render_card

        return render_card(self)

    def _class_records(self) -> list[Line]:
        line, counts = self.last_class_line, self.train_counts
        lists = {key: value for key, value in line.items() if isinstance(value, list)}
        records: list[Line] = []
        for label, name in enumerate(self.class_names if lists else ()):
            record: Line = {"round": line["round"], "class": name}
            if counts is not None:
                record["train-images"] = int(counts[label])
                record["group"] = GROUPS[self.info["groups"][label]]
            records.append(record | {key: values[label] for key, values in lists.items()})
        return records


def open_run(
    path: str | Path, runs_dir: str | Path = "runs", *, allow_plugins: bool = False
) -> Run:
    """Open a run by its folder, or by its bare name within `runs_dir`.

    Parameters
    ----------
    allow_plugins : whether its models may execute code that is not fedloge's own (a method or model by path) and
        that you did not begin the run with.

    Raises
    ------
    RunDirError
        There is no such run (the text names the nearest), or a file of it is missing or damaged.
    """
    return Run.open(path, runs_dir, allow_plugins=allow_plugins)


def _table(records: Sequence[Line]) -> Any:
    """`records` as a pandas frame where pandas is installed, else a copy of them."""
    if importlib.util.find_spec("pandas") is None:
        return [dict(record) for record in records]
    # Not a dependency, and a second of start-up time: imported only when a user asks for a table.
    import pandas

    return pandas.DataFrame(list(records))
