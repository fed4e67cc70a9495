"""Any record that Flower can carry leaves the run going, and the model where honest clients take it.

Hypothesis makes the answers. `FEDLOGE_HOSTILE_EXAMPLES` says how many of each kind; what was tried, refused and lost
is printed at the end (pytest -s).
"""

from __future__ import annotations

import math
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import harness
import numpy as np
import pytest
import torch
import wrong_answers
from any_record import EDIT, FIGURE, METRIC, RECORD, edited
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedloge import messages as wire
from fedloge.engines.local import LocalGrid
from fedloge.errors import RunError
from fedloge.federation import open_federation
from fedloge.messages import LARGEST_FIGURE, Stamp
from fedloge.methods.method import Part
from fedloge.server.replies import read_figures
from fedloge.server.roster import Roster
from fedloge.server.strategy import RoundStrategy

EXAMPLES = int(os.environ.get("FEDLOGE_HOSTILE_EXAMPLES", "25"))
many = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def tally() -> Iterator[Counter[str]]:
    """What was tried and what became of it, for all tests of this file."""
    counts: Counter[str] = Counter({"runs or rounds lost": 0})
    yield counts
    sys.stdout.write(
        "\n" + ", ".join(f"{what}: {n:,}" for what, n in sorted(counts.items())) + "\n"
    )


class Round:
    """A round's honest answers, and what becomes of them with one changed."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        six = {"num_clients": 6, "clients_per_round": 6, "rounds": 1}
        config = harness.tiny(folder, method="fedavg", **six, **changes)
        federation = open_federation(config)
        grid = LocalGrid(config)
        roster = Roster(grid, config.num_clients, federation.fingerprint)
        roster.wait(30)
        stamp = Stamp("run-1", "run", federation.fingerprint, (0,), 0, 0)
        self.before = {k: t.clone() for k, t in federation.initial[Part.SHARED].items()}
        templates: dict[str, dict[str, Tensor]] = {"train": {}, "evaluate": {}}
        self.strategy = RoundStrategy(config, roster, self.before, stamp, templates)
        self.arrays = wire.encode(self.before)
        self.grid = grid
        self.replies = list(grid.send_and_receive(self.messages(), timeout=None))
        self.tensors = [wire.decode(reply.content[wire.ARRAYS]) for reply in self.replies]
        self.whole = self.average(self.replies)
        self.weights = dict(self.strategy.outcome.replies)
        self.without_one = self.average(self.replies[1:])
        self.measured = list(grid.send_and_receive(self.questions(), timeout=None))

    def messages(self) -> list[Message]:
        return list(self.strategy.configure_train(1, self.arrays, ConfigRecord(), self.grid))

    def questions(self) -> list[Message]:
        return list(self.strategy.configure_evaluate(1, self.arrays, ConfigRecord(), self.grid))

    def average(self, replies: list[Message]) -> dict[str, Tensor]:
        asked = self.messages()
        # Of copies, since tensors are taken out of the messages as they are read.
        fresh = [in_place_of(r, edited(r.content, []), asked[0]) for r in replies]
        return self.strategy.average(1, fresh)[0]

    def changed(self, content: RecordDict) -> list[Message]:
        """All answers, with another content of the first."""
        return [in_place_of(self.replies[0], content, self.messages()[0]), *self.replies[1:]]


def in_place_of(reply: Message, content: RecordDict, asked: Message) -> Message:
    made = Message(content, reply_to=asked)
    made.metadata.__dict__["_src_node_id"] = reply.metadata.src_node_id
    return made


@pytest.fixture(scope="module")
def one_round(tmp_path_factory: pytest.TempPathFactory) -> Round:
    return Round(tmp_path_factory.mktemp("round"))


def counted(tally: Counter[str], kind: str, failures: dict[int, str]) -> None:
    tally[f"{kind}: tried"] += 1
    tally[f"{kind}: refused"] += bool(failures)
    for reason in failures.values():
        assert reason and len(reason) <= 300 and reason.isprintable()


@many
@given(edits=st.lists(EDIT, min_size=1, max_size=3))
def test_no_record_ends_a_round_or_moves_its_mean(
    one_round: Round, tally: Counter[str], edits: list[Any]
) -> None:
    after = one_round.average(one_round.changed(edited(one_round.replies[0].content, edits)))
    outcome = one_round.strategy.outcome
    counted(tally, "answers of training", outcome.failures)
    whole = one_round.without_one if outcome.failures else one_round.whole
    assert len(outcome.failures) <= 1 and harness.same_tensors(after, whole)
    for row in outcome.replies.values():
        assert all(abs(value) < LARGEST_FIGURE for name, value in row.items() if "/" in name)


@many
@given(edits=st.lists(EDIT, min_size=1, max_size=3))
def test_no_record_ends_an_evaluation(
    one_round: Round, tally: Counter[str], edits: list[Any]
) -> None:
    asked = one_round.questions()
    first, *others = one_round.measured
    one_round.strategy.aggregate_evaluate(
        1, [in_place_of(first, edited(first.content, edits), asked[0]), *others]
    )
    outcome = one_round.strategy.outcome
    counted(tally, "answers of an evaluation", outcome.failures)
    assert len(outcome.failures) <= 1 and len(outcome.replies) + len(outcome.failures) == 6
    for row in outcome.replies.values():
        assert all(0 <= value <= 1 for name, value in row.items() if name.startswith("personal/"))


# Tensors that are legal by name, shape and type, whatever is in them

PATTERN = (
    st.lists(st.floats(width=32), min_size=1, max_size=8).map(
        lambda values: np.array(values, dtype="<f4").tobytes()
    )
    | st.lists(st.floats(-300, 300, width=32), min_size=1, max_size=8).map(
        lambda values: np.array(values, dtype="<f4").tobytes()
    )
    | st.binary(min_size=1, max_size=33)
)


def filled(template: dict[str, Tensor], pattern: bytes, add: bool) -> dict[str, Tensor]:
    """Tensors of a model whose bytes repeat a pattern, by themselves or added to the model."""
    made = {}
    for name, tensor in template.items():
        size = tensor.numel() * tensor.element_size()
        raw = bytearray((pattern * (size // len(pattern) + 1))[:size])
        one = torch.frombuffer(raw, dtype=tensor.dtype).reshape(tensor.shape)
        made[name] = tensor + one if add else one.clone()
    return made


def length(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return math.hypot(*(float((one[k].double() - other[k].double()).norm()) for k in one))


@many
@given(pattern=PATTERN, add=st.booleans())
def test_legal_tensors_move_the_mean_no_further_than_their_share(
    one_round: Round, tally: Counter[str], pattern: bytes, add: bool
) -> None:
    content = edited(one_round.replies[0].content, [])
    content[wire.ARRAYS] = wire.encode(filled(one_round.before, pattern, add))
    after = one_round.average(one_round.changed(content))
    outcome = one_round.strategy.outcome
    counted(tally, "legal tensors under the mean", outcome.failures)
    if outcome.failures:
        assert harness.same_tensors(after, one_round.without_one)
        return
    honest = [length(tensors, one_round.before) for tensors in one_round.tensors[1:]]
    images = [row[wire.NUM_EXAMPLES] for row in one_round.weights.values()]
    # Lengths are compared by their powers of two: less than 256 medians pass. The liar's own is among the six, and
    # the lower of the two in the middle counts: at most the third of the honest five.
    reach = 256 * sorted(honest)[2]
    share = max(images) / sum(images)
    assert length(after, one_round.before) <= share * reach + max(honest) * 1.001
    assert all(bool(tensor.isfinite().all()) for tensor in after.values())


@pytest.fixture(
    scope="module",
    params=[
        {"aggregation": "median"},
        {"aggregation": "trimmed-mean", "byzantine_clients": 1},
        {"aggregation": "krum", "byzantine_clients": 1},
    ],
    ids=lambda changes: changes["aggregation"],
)
def robust(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Round:
    return Round(tmp_path_factory.mktemp("robust"), **request.param)


@many
@given(pattern=PATTERN, add=st.booleans())
def test_under_a_robust_rule_the_model_stays_in_the_hull_of_honest_updates(
    robust: Round, tally: Counter[str], pattern: bytes, add: bool
) -> None:
    content = edited(robust.replies[0].content, [])
    content[wire.ARRAYS] = wire.encode(filled(robust.before, pattern, add))
    after = robust.average(robust.changed(content))
    rule = robust.strategy.config.aggregation
    counted(tally, f"legal tensors under {rule}", robust.strategy.outcome.failures)
    for name, tensor in after.items():
        honest = torch.stack([tensors[name].double() for tensors in robust.tensors[1:]])
        low, high = honest.amin(dim=0), honest.amax(dim=0)
        # A mean of honest values, rounded to float32.
        slack = 1e-6 * honest.abs().amax(dim=0)
        within = (tensor.double() >= low - slack) & (tensor.double() <= high + slack)
        assert bool(within.all()), name


# Who is who


class Saying(LocalGrid):
    """The node of partition 1 says what it likes when it is asked who it is."""

    nodes_are_fixed = False
    content = RecordDict()

    def carry(self, messages: list[Message], timeout: float | None) -> Iterator[Message]:
        for message in messages:
            (reply,) = super().carry([message], timeout)
            odd = message.metadata.dst_node_id == 3
            yield in_place_of(reply, self.content, message) if odd else reply


@many
@given(
    records=st.dictionaries(
        st.sampled_from([wire.METRICS, "identity", wire.FAILURE]) | st.text(max_size=9),
        RECORD,
        max_size=4,
    ),
    claims=st.none() | METRIC,
    images=METRIC,
)
def test_no_registration_displaces_another(
    tmp_path_factory: pytest.TempPathFactory,
    tally: Counter[str],
    records: dict[str, Any],
    claims: Any,
    images: Any,
) -> None:
    config = harness.tiny(tmp_path_factory.getbasetemp())
    federation = open_federation(config)
    grid = Saying(config)
    grid.content = RecordDict(records)
    if claims is not None:
        figures = {"partition-id": claims, wire.NUM_EXAMPLES: images}
        grid.content[wire.METRICS] = MetricRecord(figures)
        grid.content["identity"] = ConfigRecord({"fingerprint": federation.fingerprint})
    known = [len(own) for own in federation.partition.train]
    roster = Roster(grid, config.num_clients, federation.fingerprint, whoami_timeout=0, known=known)
    roster.refresh()
    members = roster.members()
    tally["registrations: tried"] += 1
    tally["registrations: refused"] += 1 not in members
    assert {k: m.node_id for k, m in members.items() if k != 1} == {0: 2, 2: 4, 3: 5}
    assert all(member.num_examples == known[k] for k, member in members.items())


# Whole runs


@settings(
    max_examples=max(6, EXAMPLES // 12), deadline=None, suppress_health_check=list(HealthCheck)
)
@given(edits=st.lists(EDIT, min_size=1, max_size=3), kind=st.sampled_from(["train", "evaluate"]))
def test_a_run_goes_on_whatever_a_client_answers(
    tmp_path_factory: pytest.TempPathFactory, tally: Counter[str], edits: list[Any], kind: str
) -> None:
    config = harness.tiny(tmp_path_factory.mktemp("runs"), rounds=2, min_fraction=0.3)

    def change(content: RecordDict) -> None:
        made = edited(content, edits)
        content.clear()
        content.update(made)

    tally["whole runs: tried"] += 1
    tally["runs or rounds lost"] += 1
    with pytest.MonkeyPatch.context() as patch:
        wrong_answers.change_answers(patch, change, {1}, kind=kind)
        folder = harness.run_local(config)
    assert [row["round"] for row in harness.lines(folder, "metrics")] == [1, 2]
    tally["runs or rounds lost"] -= 1
    failed = harness.lines(folder, "failures")
    tally["whole runs: with a refusal"] += bool(failed)
    assert {row["client"] for row in failed} <= {1}


# Figures


@many
@given(
    figures=st.dictionaries(FIGURE, METRIC, max_size=5), kind=st.sampled_from(["train", "evaluate"])
)
def test_figures_that_are_taken_are_numbers_in_their_ranges(
    tally: Counter[str], figures: Any, kind: Any
) -> None:
    tally["records of figures: tried"] += 1
    try:
        taken = read_figures(RecordDict({wire.METRICS: MetricRecord(figures)}), kind)
    except RunError:
        tally["records of figures: refused"] += 1
        return
    assert taken == figures
    for name, value in taken.items():
        assert name.isascii() and name.isprintable() and len(name) <= 64
        if name.startswith("personal/"):
            assert 0 <= value <= 1
        elif name.startswith("train/"):
            assert abs(value) < 1e6


@pytest.mark.parametrize(
    ("name", "taken", "refused"),
    [
        ("personal/raw/accuracy", (0.0, -0.0, 1.0, 5e-324), (1 + 2**-52, -5e-324, 2, -1)),
        ("train/loss", (999_999.999, -999_999.999, 0.0), (1e6, -1e6, 1.7e308, math.inf, math.nan)),
        ("num-test", (0, 1), (-1, 0.5, 2**63 - 1, -0.5)),
        ("trained-rounds", (0, 1), (-1, 1.5)),
        ("images", (0, 12), (-1, 0.5, 1.7e308, math.nan)),
    ],
)
def test_beside_each_bound_it_is_taken_or_refused(
    name: str, taken: tuple[float, ...], refused: tuple[float, ...]
) -> None:
    kind = "train" if name in ("images", "train/loss") else "evaluate"

    def read(value: float) -> Any:
        return read_figures(RecordDict({wire.METRICS: MetricRecord({name: value})}), kind)

    assert all(read(value) == {name: value} for value in taken)
    for value in refused:
        with pytest.raises(RunError):
            read(value)
