from __future__ import annotations

import io
import logging
import re
from pathlib import Path

import harness
import pytest
from rich.console import Console

from fedloge.launch.progress import LOGGER, shown_progress


def shown(folder: Path, *, terminal: bool) -> tuple[str, str]:
    """What a run of two rounds shows, and the folder it names."""
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=120)
    with shown_progress(console) as progress:
        harness.run_local(harness.tiny(folder, rounds=2))
    return text.getvalue(), progress.folder


def test_plain_lines_where_there_is_no_terminal(tmp_path: Path) -> None:
    text, folder = shown(tmp_path, terminal=False)
    lines = text.splitlines()
    assert lines[0] == "run run: rounds 1 to 2"
    assert folder == str(tmp_path / "run")
    for number, line in enumerate(lines[1:3], start=1):
        assert re.fullmatch(
            rf"round {number}  loss \d\.\d+  global \d+\.\d%  personal \d+\.\d%  "
            r"[\d,]+ images/s  \d+:\d\d left",
            line,
        ), line
    assert "\x1b" not in text


def test_a_bar_on_a_terminal(tmp_path: Path) -> None:
    text, _ = shown(tmp_path, terminal=True)
    assert "\x1b[" in text and "2/2" in text and "images/s" in text


def test_warnings_are_shown_as_they_are(tmp_path: Path) -> None:
    text = io.StringIO()
    with shown_progress(Console(file=text, force_terminal=False)):
        logging.getLogger(LOGGER).warning("[bold]not markup[/]")
    assert text.getvalue() == "[bold]not markup[/]\n"


def test_the_logger_is_left_as_it_was() -> None:
    logger = logging.getLogger(LOGGER)
    before = (logger.level, logger.propagate, list(logger.handlers))
    with pytest.raises(ValueError, match="stop"), shown_progress(Console(file=io.StringIO())):
        raise ValueError("stop")
    assert (logger.level, logger.propagate, list(logger.handlers)) == before
