"""How far decoding is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from fedloge.console import stderr

if TYPE_CHECKING:
    from rich.progress import Progress

# Nothing is shown of what takes less, and elsewhere than on a terminal no more than a line in so many.
_QUIET_SECONDS, _LINE_SECONDS = 1.0, 30.0


@contextlib.contextmanager
def decoding_shown(total: int) -> Iterator[Callable[[int, int], None]]:
    """Show the progress of decoding while the block runs.

    Yields what is to be told how many images are done, of how many.
    """
    bar: Progress | None = None
    began = last = time.monotonic()

    def tell(done: int, of: int) -> None:
        nonlocal bar, last
        now = time.monotonic()
        if now - began < _QUIET_SECONDS:
            return
        console = stderr()
        if not console.is_terminal:
            if now - last >= _LINE_SECONDS:
                last = now
                console.print(f"decoding images: {done:,} of {of:,}", markup=False)
            return
        if bar is None:
            # Most starts find everything decoded, and show nothing.
            from rich.errors import LiveError
            from rich.progress import Progress

            bar = Progress(console=console, transient=True)
            bar.add_task("decoding images", total=of)
            with contextlib.suppress(LiveError):  # a run's bar is there already
                bar.start()
        bar.update(bar.task_ids[0], completed=done)

    try:
        yield tell
    finally:
        if bar is not None:
            bar.stop()
