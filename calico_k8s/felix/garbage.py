"""When Python looks for cycles of objects: not while a snapshot is read, and not at what stays.

In: how much is about to be taken in.  Out: the collector of this process, told.
"""

import gc
from collections.abc import Iterator, Sized
from contextlib import contextmanager

MANY = 1000
"""So many values at once are a snapshot, or a burst like one."""


@contextmanager
def without_collections(values: Sized) -> Iterator[None]:
    """Collects no cycles meanwhile, if there are many: it took a fifth of the reading of a snapshot."""
    if len(values) < MANY:
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def keep_what_is_there() -> None:
    """Look no more at what is there by now: a full collection took 50 ms of the loop for it."""
    gc.freeze()
