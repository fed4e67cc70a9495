"""Choosing among trials by their validation figures, and running a sweep that is tuned first."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fedloge.atomic_files import write_atomically
from fedloge.errors import RunDirError
from fedloge.results.number_words import plural
from fedloge.results.recorded_run import RecordedRun
from fedloge.sweeps.child_runs import Outcome
from fedloge.sweeps.plan import Choose, PlannedRun, Sweep, Trial, TunedMethod
from fedloge.sweeps.run_sweep import Say, run_sweep
from fedloge.sweeps.standing import Standing, run_folder, standing

TUNED_FILE = "tuned.json"
_NO_FIGURE = "no validation figure of the model that it is judged by"


@dataclass(frozen=True)
class Judged:
    """How a trial did; `score` is in [0, 1], None if it has none, and then `problem` says why."""

    trial: Trial
    score: float | None
    problem: str = ""


@dataclass(frozen=True)
class Choice:
    """The trials of one method in one setting, and which of them is chosen; None if all failed."""

    tuned: TunedMethod
    judged: tuple[Judged, ...]
    chosen: Judged | None

    @property
    def problem(self) -> str:
        """Why nothing is chosen, in one line; empty if something is."""
        if self.chosen is not None:
            return ""
        first = self.judged[0]
        return (
            f"no trial of {len(self.judged)} can be chosen; the first: "
            f"{first.trial.run.name}: {first.problem}"
        )

    def as_json(self) -> dict[str, Any]:
        """What was tried, the scores and the choice."""
        return {
            "method": self.tuned.method,
            "setting": dict(self.tuned.setting),
            "trials": [
                {"run": one.trial.run.name, "values": dict(one.trial.values)}
                | {"score": one.score, "problem": one.problem}
                for one in self.judged
            ],
            "chosen": dict(self.chosen.trial.values) if self.chosen else None,
        }


def score(run: RecordedRun, choose: Choose) -> float | None:
    """A trial's accuracy on validation examples after its last evaluation; None if it has none.

    Of the global model it is the mean over classes, of personal models the mean over clients, each
    of the model that the method is judged by. For a global model that is not measured there (CCVR
    makes its own of clients' sums), it is that of the model called ``raw``. ``both`` is the mean of
    those that there are.
    """
    line = run.evaluated[-1] if run.evaluated else {}
    names = {side: key.split("/")[1] for side, key in run.primary.items()}
    found: list[float] = []
    if choose != "personal" and "global" in names:
        models = (names["global"], "raw")
        figures = [line.get(f"probe/validation/{model}/balanced") for model in models]
        found += [figure for figure in figures if figure is not None][:1]
    if choose != "global" and "personal" in names:
        figure = line.get(f"personal/{names['personal']}/validation")
        found += [figure] if figure is not None else []
    return sum(found) / len(found) if found else None


def best(judged: Sequence[Judged]) -> Judged | None:
    """The one with the highest score, of equal ones the first; None if none has a score."""
    scored = [one for one in judged if one.score is not None]
    return max(scored, key=lambda one: one.score or 0.0, default=None)


def choices(sweep: Sweep, problems: Mapping[str, str] | None = None) -> list[Choice]:
    """What the trials on disk say, method by method.

    Parameters
    ----------
    problems : why trials failed, by name; None: what has not been run yet is still to be run, and
        methods of which a trial is not done are left out.
    """
    made = []
    for tuned in sweep.tuning.methods if sweep.tuning else ():
        states = [standing(trial.run).state for trial in tuned.trials]
        if problems is None and any(state != "done" for state in states):
            continue
        judged = tuple(
            _judged(sweep, trial, (problems or {}).get(trial.run.name, ""))
            for trial in tuned.trials
        )
        made.append(Choice(tuned, judged, best(judged)))
    return made


def with_choices(sweep: Sweep, made: Sequence[Choice]) -> Sweep:
    """The sweep with runs of the chosen values in the place of those that waited for them."""
    finals = {
        choice.tuned.name: choice.chosen.trial.finals
        for choice in made
        if choice.chosen is not None
    }
    runs = [finals[run.tuned_as][run.name] if run.tuned_as in finals else run for run in sweep.runs]
    return replace(sweep, runs=runs)


def plan_of(sweep: Sweep) -> list[tuple[PlannedRun, Standing]]:
    """All that is to be run, the trials first, with how far each is.

    Raises
    ------
    RunDirError
        A run's folder is damaged or holds something else.
    """
    trials = sweep.trials
    known = with_choices(sweep, choices(sweep))
    return [
        (run, Standing("new") if run.tuned_as else standing(run))
        for run in (*(trials.runs if trials else ()), *known.runs)
    ]


def run_tuned_sweep(
    sweep: Sweep, *, jobs: int, engine: str = "local", track: Sequence[str] = (), say: Say
) -> tuple[list[Outcome], list[Choice]]:
    """Run the trials, choose, and run the sweep; returns the outcomes in its order, and the choices.

    Without anything to tune it is `run_sweep`, whose parameters and errors it shares. A method of
    which all trials failed has not been run: its outcomes say so.
    """
    trials = sweep.trials
    if trials is None:
        return run_sweep(sweep, jobs=jobs, engine=engine, track=track, say=say), []
    tried = run_sweep(
        trials, jobs=jobs, engine=engine, track=track, say=lambda text: say(f"tune: {text}")
    )
    made = choices(sweep, {outcome.run.name: outcome.problem for outcome in tried})
    _write_choices(sweep, made)
    for choice in made:
        say(f"tune: {in_words(choice)}")
    planned = with_choices(sweep, made)
    ready = [run for run in planned.runs if not run.tuned_as]
    done = {
        outcome.run.name: outcome
        for outcome in run_sweep(
            replace(planned, runs=ready), jobs=jobs, engine=engine, track=track, say=say
        )
    }
    problems = {choice.tuned.name: choice.problem for choice in made}
    return [
        Outcome(run, Standing("new"), 0.0, problems[run.tuned_as])
        if run.tuned_as
        else done[run.name]
        for run in planned.runs
    ], made


def in_words(choice: Choice) -> str:
    """A line of what was chosen, and of how the trials did."""
    if choice.chosen is None:
        return f"{choice.tuned.name}: {choice.problem}"
    values = ", ".join(f"{key} = {value}" for key, value in choice.chosen.trial.values.items())
    scores = " ".join("-" if one.score is None else f"{one.score:.3f}" for one in choice.judged)
    return (
        f"{choice.tuned.name}: {values} (validation {choice.chosen.score:.3f}, of "
        f"{plural(len(choice.judged), 'trial')}: {scores})"
    )


def _judged(sweep: Sweep, trial: Trial, problem: str) -> Judged:
    assert sweep.tuning is not None
    if problem:
        return Judged(trial, None, problem)
    try:
        found = score(RecordedRun.open(run_folder(trial.run)), sweep.tuning.choose)
    except RunDirError as exc:
        return Judged(trial, None, str(exc))
    return Judged(trial, found, "" if found is not None else _NO_FIGURE)


def _write_choices(sweep: Sweep, made: Sequence[Choice]) -> None:
    assert sweep.tuning is not None
    content = {
        "format": 1,
        "choose": sweep.tuning.choose,
        "methods": [choice.as_json() for choice in made],
    }
    text = json.dumps(content, indent=1) + "\n"
    write_atomically(sweep.folder / TUNED_FILE, text.encode())
