"""Privacy at a client: what it writes down, what it refuses, and what it sends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import harness
import pytest
from flwr.app import RecordDict
from one_message import ask, reason, work

from fedloge import messages as wire
from fedloge.client.privacy_ledger import FILE, PrivacyLedger
from fedloge.config import Config
from fedloge.errors import PolicyError
from fedloge.learning.privacy_accountant import Spending, epsilon

pytest.importorskip("dp_accounting")


def private(tmp_path: Path, **changes: Any) -> Config:
    return harness.tiny(tmp_path, **({"norm": "group", "local_dp_clip": 1.0} | changes))


def site(tmp_path: Path, **policy: Any) -> dict[str, Any]:
    file = tmp_path / "policy.toml"
    file.write_text(
        "\n".join(f"{k.replace('_', '-')} = {json.dumps(v)}" for k, v in policy.items())
    )
    return {"state-dir": str(tmp_path / "state"), "policy": str(file)}


def ledger(tmp_path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tmp_path / "state" / FILE).read_text())
    return found


def steps_of(answer: RecordDict) -> Spending:
    """What a round of `private` takes: batches of 32, one pass."""
    examples = int(answer[wire.METRICS]["num-examples"])  # type: ignore[call-overload]
    return Spending(min(1.0, 32 / examples), 1.0, -(-examples // 32))


def test_a_site_sends_nothing_that_the_noise_does_not_cover(tmp_path: Path) -> None:
    config = private(tmp_path)
    node = site(tmp_path)
    answer = ask(config, "train", work(config), **node)
    assert set(answer) == {wire.STAMP, wire.METRICS, wire.ARRAYS}
    assert set(answer[wire.METRICS]) == {"num-examples", "images"}
    measured = ask(config, "evaluate", work(config), **node)
    assert set(measured[wire.METRICS]) == {"num-examples", "num-test", "trained-rounds"}
    told = site(tmp_path, tell_epsilon=True, uncovered_figures=True)
    again = ask(config, "train", work(config, round=2), **told)
    twice = [steps_of(again)] * 2
    assert again[wire.METRICS]["epsilon"] == pytest.approx(epsilon(twice, 1e-5))
    measured = ask(config, "evaluate", work(config, round=2), **told)
    assert "personal/realigned/accuracy" in measured[wire.METRICS]


def test_noise_at_a_site_is_its_own_and_in_a_simulation_the_seeds(tmp_path: Path) -> None:
    config = private(tmp_path)
    sent = [
        ask(config, "train", work(config, run_id=f"run-{k}"), **site(tmp_path)) for k in range(2)
    ]
    one, other = (wire.decode(answer[wire.ARRAYS]) for answer in sent)
    assert not any(one[name].equal(other[name]) for name in one)
    same = [ask(config, "train", work(config, run_name=f"run-{k}")) for k in range(2)]
    one, other = (wire.decode(answer[wire.ARRAYS]) for answer in same)
    assert all(one[name].equal(other[name]) for name in one)
    expected = epsilon([steps_of(same[0])], 1e-5)
    assert same[0][wire.METRICS]["epsilon"] == pytest.approx(expected)
    assert "train/loss" in same[0][wire.METRICS]


def test_what_is_spent_is_on_the_disk_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = private(tmp_path)
    found: list[dict[str, Any]] = []

    def killed(*_: Any) -> None:
        found.append(ledger(tmp_path))
        raise KeyboardInterrupt

    monkeypatch.setattr("fedloge.learning.private_steps.ExampleGradients.clipped_sum", killed)
    with pytest.raises(KeyboardInterrupt):
        ask(config, "train", work(config), **site(tmp_path))
    (run,) = found[0]["runs"].values()
    assert run["name"] == "run" and run["steps"][0]["noise"] == 1.0 and found[0]["epsilon"] > 0
    # The round that is asked again is paid for again.
    monkeypatch.undo()
    ask(config, "train", work(config), **site(tmp_path))
    (twice,) = ledger(tmp_path)["runs"].values()
    assert twice["steps"][0]["steps"] == 2 * run["steps"][0]["steps"]


def test_epsilon_is_bounded_over_all_runs(tmp_path: Path) -> None:
    config = private(tmp_path)
    first = ask(config, "train", work(config), **site(tmp_path))
    one, two = (epsilon([steps_of(first)] * k, 1e-5) for k in (1, 2))
    assert ledger(tmp_path)["epsilon"] == pytest.approx(one)
    node = site(tmp_path, max_epsilon=two * 0.99)
    another = work(config, run_id="run-2", run_name="another")
    said = reason(ask(config, "train", another, **node))
    assert said.startswith("this site's policy, max-epsilon: with ") and f"{two:.3g}" in said
    assert len(ledger(tmp_path)["runs"]) == 1, "what is refused is not spent"
    assert not (tmp_path / "state/run-2").exists()
    allowed = ask(config, "train", another, **site(tmp_path, max_epsilon=two * 1.01))
    assert wire.failure_reason(allowed) is None
    assert ledger(tmp_path)["epsilon"] == pytest.approx(two)


NEGATIVE = '{"name": "a", "steps": [{"sampling": 0.1, "noise": 1.0, "steps": -3}]}'


@pytest.mark.parametrize(
    "content", ["{", '{"format": 2}', '{"format": 1, "runs": {"a": ' + NEGATIVE + "}}"]
)
def test_a_damaged_ledger_stops_the_training(content: str, tmp_path: Path) -> None:
    config = private(tmp_path)
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / FILE).write_text(content)
    said = reason(ask(config, "train", work(config), **site(tmp_path)))
    assert "privacy.json cannot be read" in said and "restore a backup" in said
    assert (tmp_path / "state" / FILE).read_text() == content


def test_what_cannot_be_written_down_is_not_spent(tmp_path: Path) -> None:
    config = private(tmp_path)
    (tmp_path / "state" / (FILE + ".tmp")).mkdir(parents=True)  # in the way of every write
    assert "cannot be written" in reason(ask(config, "train", work(config), **site(tmp_path)))
    assert not (tmp_path / "state/run-1").exists()


def test_each_loop_of_a_method_is_paid_for(tmp_path: Path) -> None:
    config = private(tmp_path, method="fedrep", method_options={"head-epochs": 3})
    answer = ask(config, "train", work(config), **site(tmp_path))
    (run,) = ledger(tmp_path)["runs"].values()
    assert run["steps"][0]["steps"] == 4 * steps_of(answer).steps


def test_without_noise_a_bounded_ledger_spends_nothing(tmp_path: Path) -> None:
    book = PrivacyLedger(tmp_path, 5.0, 1e-5)
    with pytest.raises(PolicyError, match="epsilon would be inf"):
        book.spend("run-1", "run", Spending(0.1, 0.0, 1))
    PrivacyLedger(tmp_path, 0.0, 1e-5).spend("run-1", "run", Spending(0.1, 0.0, 1))
    assert json.loads((tmp_path / FILE).read_text())["epsilon"] is None
    with pytest.raises(PolicyError, match="max-epsilon"):
        book.spend("run-2", "run", Spending(0.1, 9.0, 1))


def test_plain_training_does_not_touch_the_ledger(tmp_path: Path) -> None:
    config = harness.tiny(tmp_path)
    ask(config, "train", work(config), **site(tmp_path))
    assert not (tmp_path / "state" / FILE).exists()
