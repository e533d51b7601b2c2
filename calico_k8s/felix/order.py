"""In which order a batch of changes reaches the kernel: pure.

In: the sets that a batch changes, each with what it can do to a verdict.  Out: the steps, in
order; which members they add and remove is the ipset driver's difference.  At every instant a new
flow gets its old verdict, its new one, or is denied; never an allow that neither state gives.
Why the order achieves that, with *O* the sets whose members open, *C* those whose members close:

== =====================================  ========================================================
1  create new sets, and fill them         nobody asks them yet
2  C: add; endpoints that come or go:     only closes
   shut; that move: hold
3  O of egress and of affected groups,    only closes; from here egress sets let through at most
   or all O where a step lets out:        what both states would
   remove
4  write tables, one transaction each     affected groups go from at most old to at most new
5  move endpoints into their groups       an entry is replaced whole
6  other O of ingress: add, then remove   what passes, passes in the old or in the new ingress
7  O of step 3: add                       ingress is new; at most new
8  C: remove                              opens only what is new
9  forget endpoints that went             nobody is let in or out there any more
10 destroy sets                           nobody asks them any more
== =====================================  ========================================================

A group is *affected* when its chains change in this batch or an endpoint joins or leaves it.
A batch *lets out* when step 4 or 5 changes what an endpoint may send: an egress group gets other
chains, an endpoint its first egress group or another.  Its old ingress, of a peer that it is no
more, must not meet its new egress, so all ingress is at most what both states have by then.  Where
neither is so, an ingress peer that goes from one allowed set to another is never denied between.
Chains that endpoints leave stay: the agent retires them, and a later batch drops them.

A set that pass rules ask can open by either change.  The endpoints that ask it are held, below,
while it changes between steps 2 and 3, and their groups count as affected.  Host endpoints have no
mark to be held by: where they ask such a set, everybody is in a set that they deny, until the end.
So they are where their untracked policy changes, which is in the raw table: it is written first, and
what it lets past the rest meanwhile is what the new state lets past.

Endpoints that move are *held* where the batch changes verdicts at more than one moment: it
rewrites the chains of a group that has endpoints, moves endpoints' egress or has some come, moves
their ingress or has some come.  An old egress could then meet a new ingress that no state has, of an
endpoint that stays or of one that comes.  A held endpoint is in a group that
denies every new flow, from step 2 until it is in its new one.

While an address is known here, nobody may come from elsewhere with it.  So endpoints that come or
go are *shut*, known and in that group: those that go until no ingress rule means them any more,
those that come before any means them.
"""

from collections.abc import Iterable
from enum import Enum, auto
from typing import NamedTuple

from calico_k8s.render.tables import IpsetName


class Role(Enum):
    """What a change of a set's members can do."""

    NEW = auto()
    """Not in the kernel before this batch."""
    OPENS_INGRESS = auto()
    OPENS_EGRESS = auto()
    CLOSES = auto()
    PASSES = auto()
    """Asked by pass rules: adding may open or close."""
    EGRESS_MAP = auto()
    """(address, interface) of local endpoints to egress group; missing is closed."""
    INGRESS_MAP = auto()
    """Address of local endpoints to ingress group; missing is closed."""
    HOST_HOLD = auto()
    """Whoever is in it opens no flow at a host endpoint: empty but while sets that pass change."""
    NEUTRAL = auto()
    """No verdict depends on it."""


class ChangedSet(NamedTuple):
    """A set whose members may differ from what is programmed."""

    name: IpsetName
    role: Role
    is_affected: bool = False
    """Whether an affected group asks it, or the batch lets out."""


class Do(Enum):
    """What a step does to its sets."""

    ADD = auto()
    """Add the missing members, and replace the marks that differ."""
    REMOVE = auto()
    SHUT = auto()
    """Give endpoints that come or go the mark that denies."""
    HOLD = auto()
    """Give endpoints the mark that denies: those whose mark is about to be replaced, and those
    that ask a changed set of role PASSES."""
    WRITE_TABLES = auto()


class Step(NamedTuple):
    """One step; without names where it is not about particular sets."""

    do: Do
    names: tuple[IpsetName, ...] = ()


class Switches(NamedTuple):
    """The kinds of moments at which the batch changes verdicts."""

    chains: bool = False
    """A group that has endpoints before and after gets other rules."""
    egress: bool = False
    """An endpoint goes from one egress group to another, or comes."""
    ingress: bool = False
    """An endpoint goes from one ingress group to another, or comes."""
    raw: bool = False
    """Host endpoints' policy differs in the raw table: another transaction than the rest."""


def steps(
    changed: Iterable[ChangedSet], *, writes_tables: bool, switches: Switches
) -> tuple[Step, ...]:
    """The steps of one family's part of a batch, in order, between the making of sets and their end.

    None is about particular sets that names no set.
    """
    sets = tuple(changed)
    if not (sets or writes_tables):
        return ()
    tight = _names(sets, Role.OPENS_EGRESS) + tuple(
        s.name for s in sets if s.role is Role.OPENS_INGRESS and s.is_affected
    )
    loose = tuple(s.name for s in sets if s.role is Role.OPENS_INGRESS and not s.is_affected)
    closes, neutral = _names(sets, Role.CLOSES), _names(sets, Role.NEUTRAL)
    passes, new = _names(sets, Role.PASSES), _names(sets, Role.NEW)
    egress, ingress = _names(sets, Role.EGRESS_MAP), _names(sets, Role.INGRESS_MAP)
    maps, host_hold = egress + ingress, _names(sets, Role.HOST_HOLD)
    held = maps if passes or sum(switches[:3]) > 1 else ()
    held += host_hold if passes or switches.raw else ()
    ordered = (
        (Do.ADD, new),
        (Do.REMOVE, new),
        (Do.ADD, closes),
        (Do.REMOVE, egress),
        (Do.SHUT, ingress),
        (Do.HOLD, held),
        (Do.REMOVE, tight),
        (Do.ADD, passes),
        (Do.REMOVE, passes),
        (Do.WRITE_TABLES, ()),
        (Do.ADD, maps),
        (Do.ADD, loose),
        (Do.REMOVE, loose),
        (Do.ADD, tight),
        (Do.REMOVE, closes),
        (Do.ADD, neutral),
        (Do.REMOVE, neutral),
        (Do.REMOVE, ingress),
        (Do.REMOVE, host_hold),
    )
    return tuple(
        Step(do, names)
        for do, names in ordered
        if names or (writes_tables and do is Do.WRITE_TABLES)
    )


def _names(sets: tuple[ChangedSet, ...], role: Role) -> tuple[IpsetName, ...]:
    return tuple(s.name for s in sets if s.role is role)
