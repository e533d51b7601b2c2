"""A bar for what takes longer than a second, on standard error, where a person waits.

In: what is done, and what there is to do in all.  Out: nothing where standard error is no terminal,
and nothing at all of what ends sooner.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

PATIENCE_S = 1.0
"""What takes less shows no bar."""

Advance = Callable[[int, int], None]
"""Takes what is done, and what there is to do in all."""


@contextmanager
def progress_bar(title: str) -> Iterator[Advance]:
    """Draws a bar while the context lasts, and takes it away."""
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    start_s = time.monotonic()
    bars: list[Progress] = []
    with ExitStack() as stack:

        def advance(done: int, total: int) -> None:
            if not bars and time.monotonic() - start_s > PATIENCE_S:
                bars.append(stack.enter_context(_new_bar(title)))
            for bar in bars:
                bar.update(bar.task_ids[0], completed=done, total=total)

        yield advance


def _new_bar(title: str) -> "Progress":
    # Imported here: it takes 40 ms that most commands do without.
    from rich.console import Console
    from rich.progress import Progress

    bar = Progress(console=Console(stderr=True), transient=True)
    bar.add_task(title, total=None)
    return bar
