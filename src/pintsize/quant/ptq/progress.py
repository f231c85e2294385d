"""A progress bar for what takes more than a moment."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def bar(what: str, total: int, show: bool | None) -> Iterator[Callable[[], None]]:
    """Within it, call what it gives after each of `total` units of work.

    Args:
        what: is done.
        total: number of units.
        show: None: only on a terminal.
    """
    if not (sys.stderr.isatty() if show is None else show):
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True, force_terminal=show or None), transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda: progress.advance(task)
