"""The program's three standard streams, made usable however it was started.

In: what the shell, a cron or a service manager gave.  Out: streams that can be written and read.
"""

import io
import os
import sys


def prepare_streams() -> None:
    """Open what is closed, and let no character of an answer be one that cannot be printed.

    A stream that is closed (``>&-``) becomes the null device: left so, the next file to be opened,
    such as a datastore, would have its number and be written answers to.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            _open_null(number)
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Not "replace": in Latin-1 it makes one question mark of both ✓ and ✗.
        sys.stdout.reconfigure(errors="backslashreplace")


def _open_null(number: int) -> None:
    try:
        os.fstat(number)
    except OSError:
        opened = os.open(os.devnull, os.O_RDWR)
        if opened != number:
            os.dup2(opened, number)
            os.close(opened)
