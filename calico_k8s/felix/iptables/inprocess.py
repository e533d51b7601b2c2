"""Edits of a legacy table by python-iptables' libiptc, without a process.

In: the plan for a table.  Out: whether it was carried out; if not, nothing was written and
``iptables-restore`` does it.  That program looks each port up as a service's name, for which the C
library reads every address of the machine: on a node with 50 pods 0.3 ms a rule, where this takes 0.03.

Taken on only when every line is one of those below, each of whose rules :mod:`.entries` knows: for
these a test compares what both ways leave in the kernel, byte for byte; anything else is for
``iptables-restore``, which alone knows all of iptables' language.  libiptc does not lock: the lock is
taken here, the same file and the same way as iptables does, so that nobody's change is lost.

=====  ======================================
lines  declare or empty a chain, append, insert, delete a chain
rules  as in :mod:`.entries`
=====  ======================================
"""

import ctypes
import fcntl
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from calico_k8s.errors import IptablesError, LockHeld
from calico_k8s.felix.iptables.entries import compile_entry
from calico_k8s.felix.iptables.plan import Plan
from calico_k8s.model.addresses import Version
from calico_k8s.render.tables import TableName

LINES_MAX: Final = 1000
"""A line costs some 40 us here, while the loop does nothing else; iptables-restore has other
processors for it."""

DEFAULT_LOCK: Final = "/run/xtables.lock"
LOCK_PAUSE_S: Final = 0.01


class InProcessRefusal(IptablesError):
    """python-iptables or the kernel refused; iptables-restore can say why, with the line."""


class Edit(NamedTuple):
    """A line taken apart; entry is None for a chain's own lines."""

    verb: str
    chain: str
    place: int
    entry: bytes | None


def load() -> bool:
    """Import python-iptables, so that :func:`is_loaded`; whether it can be used on this machine.

    Cost: 0.2 s once (it looks for libxtables by running programs): for a moment without haste.
    """
    try:
        import iptc
    except (ImportError, OSError, AttributeError):  # no wrapper, or no libxtables it knows
        return False
    return hasattr(iptc, "Table")


def is_loaded() -> bool:
    """Whether edits can be carried out here without the cost of :func:`load`."""
    return "iptc" in sys.modules


def split_plan(plan: Plan, version: Version, indexes: Mapping[str, int]) -> list[Edit] | None:
    """The plan's lines taken apart; None where it is not for this module.

    ``indexes`` are the numbers of the sets that its rules ask.
    """
    if plan.line_count > LINES_MAX:
        return None
    edits: list[Edit] = []
    for line in (*plan.lines, *plan.deletes):
        edit = _split_line(line, version, indexes)
        if edit is None:
            return None
        edits.append(edit)
    return edits


def _split_line(line: str, version: Version, indexes: Mapping[str, int]) -> Edit | None:
    verb, chain, rest = (*line.split(" ", 2), "", "")[:3]
    if line.startswith(":"):
        return Edit(":", verb[1:], 0, None)
    if verb == "-X":
        return Edit(verb, chain, 0, None)
    place = 0
    if verb == "-I":
        number, _, rest = rest.partition(" ")
        place = int(number) - 1
    entry = compile_entry(rest, version, indexes)
    return Edit(verb, chain, place, entry) if verb in ("-A", "-I") and entry is not None else None


def edit_table(
    version: Version, table: TableName, edits: list[Edit], lock_timeout_s: float
) -> None:
    """Carry out the edits as one transaction, under the xtables lock.

    Raises:
        InProcessRefusal: refused; nothing was written.
        LockHeld: the lock was not had in time.
    """
    import iptc

    table_kind = iptc.Table if version == 4 else iptc.Table6
    with _xtables_lock(lock_timeout_s):
        handle = None
        try:
            handle = table_kind(table, autocommit=False)
            handle.refresh()  # python-iptables keeps one object for a table: read it anew
            for edit in edits:
                _carry_out(handle, edit)
            handle.commit()
        except iptc.IPTCError as error:
            raise InProcessRefusal(f"legacy table {table}, in process: {error}") from error
        finally:
            if handle is not None:
                handle.close()


def _carry_out(handle: Any, edit: Edit) -> None:  # Any: iptc has no types
    if edit.entry is not None:
        entry = ctypes.create_string_buffer(edit.entry, len(edit.entry))
        if edit.verb == "-A":
            handle.append_entry(edit.chain, entry)
        else:
            handle.insert_entry(edit.chain, entry, edit.place)
    elif edit.verb == "-X":
        handle.delete_chain(edit.chain)
    elif handle.is_chain(edit.chain):
        handle.flush_entries(edit.chain)
    else:
        handle.create_chain(edit.chain)


def is_lock_held() -> bool:
    """Whether another program has the xtables lock at this moment."""
    try:
        with _xtables_lock(0):
            return False
    except LockHeld:
        return True
    except InProcessRefusal:
        return False  # whoever writes says what is wrong


@contextmanager
def _xtables_lock(timeout_s: float) -> Iterator[None]:
    """The lock every legacy iptables program takes; a new open file each time, as they do.

    Raises:
        InProcessRefusal: the file cannot be opened.
        LockHeld: another program held it for all of the time.
    """
    path = Path(os.environ.get("XTABLES_LOCKFILE") or DEFAULT_LOCK)
    end = time.monotonic() + timeout_s
    try:
        file = path.open("a", encoding="ascii")
    except OSError as error:
        raise InProcessRefusal(f"xtables lock {path}: {error.strerror}") from error
    with file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise LockHeld(
                        f"another program holds the xtables lock {path} for over {timeout_s:g} s"
                    ) from None
                time.sleep(LOCK_PAUSE_S)
        yield
