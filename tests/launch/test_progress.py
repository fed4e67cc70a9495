from __future__ import annotations

import io
import re
from pathlib import Path

import harness
from rich.console import Console

from fedloge.launch.progress import Progress


def shown(folder: Path, *, terminal: bool) -> str:
    """What a run of two rounds shows."""
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=120)
    harness.run_local(harness.tiny(folder, rounds=2), observers=[Progress(console)])
    return text.getvalue()


def test_plain_lines_where_there_is_no_terminal(tmp_path: Path) -> None:
    text = shown(tmp_path, terminal=False)
    lines = text.splitlines()
    assert lines[0] == "run run: rounds 1 to 2"
    for number, line in enumerate(lines[1:], start=1):
        assert re.fullmatch(
            rf"round {number}  loss \d\.\d+  global \d+\.\d%  personal \d+\.\d%  "
            r"[\d,]+ images/s  \d+:\d\d left",
            line,
        ), line
    assert len(lines) == 3
    assert "\x1b" not in text


def test_a_bar_on_a_terminal(tmp_path: Path) -> None:
    text = shown(tmp_path, terminal=True)
    assert "\x1b[" in text and "2/2" in text and "images/s" in text


def test_a_run_with_nothing_left_to_do_says_so(tmp_path: Path) -> None:
    folder = harness.run_local(harness.tiny(tmp_path, rounds=1))
    text = io.StringIO()
    console = Console(file=text, force_terminal=False)
    again = harness.tiny(tmp_path, rounds=1, resume=True)
    harness.run_local(again, observers=[Progress(console)])
    assert text.getvalue() == (
        "run run is complete, all 1 rounds are done; "
        f"'fedloge resume {folder} --rounds N' runs on to round N\n"
    )
