from __future__ import annotations

import logging

import pytest

from fedloge.console import stderr, warnings_shown


def test_warnings_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("fedloge")
    before = logger.propagate, list(logger.handlers)
    with pytest.raises(ValueError, match="stop"), warnings_shown():
        logging.getLogger("fedloge.learning.loop").warning("[bold]%s[/]", "no markup")
        logging.getLogger("fedloge.learning.loop").info("not shown")
        raise ValueError("stop")
    assert capsys.readouterr().err == "[bold]no markup[/]\n"
    assert (logger.propagate, logger.handlers) == before


def test_everything_on_standard_error_goes_through_one_console() -> None:
    # Two would write over each other's progress bar.
    assert stderr() is stderr()
