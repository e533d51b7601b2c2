"""A progress bar on standard error, where a person waits for longer than a second."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PATIENCE_S = 1.0
"""What takes less shows no bar."""

Advance = Callable[[int, int], None]
"""Takes what is done, and what there is to do in all."""


@contextmanager
def progress_bar(title: str) -> Iterator[Advance]:
    """Draws a bar while the context lasts; nothing where standard error is no terminal."""
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    # Imported here: it takes 40 ms that output to a file does without.
    from rich.console import Console
    from rich.progress import Progress

    start_s = time.monotonic()
    with Progress(console=Console(stderr=True), transient=True, disable=False) as bar:
        task = bar.add_task(title, total=None, visible=False)

        def advance(done: int, total: int) -> None:
            is_slow = time.monotonic() - start_s > PATIENCE_S
            bar.update(task, completed=done, total=total, visible=is_slow)

        yield advance
