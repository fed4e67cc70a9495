"""Two commands side by side, with commands that are scripts of three lines."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import against
import pytest

from fedloge.errors import InputError, RunError

# Writes the timing of a run whose rounds take as long as it says.
STANDS_IN = """
import json, sys
from pathlib import Path
given = dict(arg.lstrip("-").split("=", 1) for arg in sys.argv[3:] if not arg.startswith("--set"))
run = Path(given["runs-dir"]) / given["name"]
run.mkdir(parents=True)
rounds = int(next(a for a in sys.argv if a.startswith("--set=rounds=")).split("=")[2])
rows = [{"round": r + 1, "seconds": float(sys.argv[1])} for r in range(rounds)]
rows[0]["seconds"] = 100.0
rows[-1] |= {"seconds": 200.0, "evaluate-seconds": 190.0}
(run / "timing.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in rows))
"""


@pytest.fixture
def command(tmp_path: Path) -> str:
    path = tmp_path / "stands-in.py"
    path.write_text(STANDS_IN)
    return f"{sys.executable} {path}"


def tiny(_: bool) -> tuple[against.Workload, ...]:
    return (against.Workload("tiny", "cnn", clients=2, images=1, side=4, rounds=3),)


def test_the_first_round_and_the_evaluated_one_do_not_count(command: str, tmp_path: Path) -> None:
    workload = against.Workload("tiny", "cnn", clients=2, images=1, side=4, rounds=1)
    settings = workload.settings(tmp_path)
    assert settings["rounds"] == 3 and settings["clients-per-round"] == 2
    timed = against.time_run([*command.split(), "0.5"], settings, tmp_path / "cache")
    assert timed["round"] == 0.5 and timed["processor"] > 0


def test_a_command_that_fails_is_named_with_what_it_said(tmp_path: Path) -> None:
    code = "import sys; sys.stderr.write('so far\\nno such thing\\n'); sys.exit(3)"
    with pytest.raises(RunError, match=r"-c .*: no such thing$"):
        against.time_run([sys.executable, "-c", code], {}, tmp_path)


def test_the_two_take_turns_in_going_first_and_are_compared_pair_by_pair() -> None:
    order = ""
    seconds = {"A": iter((1.0, 2.0, 4.0)), "B": iter((3.0, 2.0, 2.0))}

    def timed(side: str) -> dict[str, float]:
        nonlocal order
        order += side
        return {"round": next(seconds[side])}

    pairs = against.paired(lambda: timed("A"), lambda: timed("B"), 3)
    assert order == "ABBAAB"
    assert against.compared(pairs) == {
        "round": {"old": 2.0, "new": 2.0, "ratio": 1.0, "low": 0.5, "high": 3.0}
    }


@pytest.mark.parametrize(("new", "kept"), [("1.02", True), ("1.05", False)])
def test_whether_the_speed_is_kept(
    new: str,
    kept: bool,
    command: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(against, "workloads", tiny)
    sides = {"old": f"{command} 1.0", "new": f"{command} {new}"}
    if kept:
        against.against(**sides, repeats=1, json_=True)
    else:
        with pytest.raises(RunError, match=r"slower than 1\.03 times the old: tiny"):
            against.against(**sides, repeats=1, json_=True)
    figures = json.loads(capsys.readouterr().out)["results"]["tiny"]["round"]
    assert figures["ratio"] == pytest.approx(float(new))


def test_a_setting_without_a_value_is_refused(command: str) -> None:
    with pytest.raises(InputError, match="--set lr: expected key=value"):
        against.against(f"{command} 1.0", set_=["lr"])


def test_the_images_are_the_same_whenever_they_are_written(tmp_path: Path) -> None:
    (workload,) = tiny(True)
    written = [workload.write_images(tmp_path / name) for name in "ab"]
    one, other = (
        {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.png")}
        for folder in written
    )
    assert one == other and len(one) == 2 + 20
