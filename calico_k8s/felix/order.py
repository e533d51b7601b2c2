"""In which order a batch of changes reaches the kernel: pure.

In: the sets that a batch changes, each with what it can do to a verdict.  Out: the steps, in
order; which members they add and remove is the ipset driver's difference.  At every instant a new
flow gets its old verdict, its new one, or is denied; never an allow that neither state gives.
Why the order achieves that, with *O* the sets whose members open, *C* those whose members close:

=  ====================================  =========================================================
1  create new sets and fill them         nobody asks them yet
2  C: add; endpoints that go             only closes
3  O of affected groups and of egress:   only closes; from here egress lets through at most what
   remove                                both states would
4  write tables, one transaction each    affected groups go from at most old to at most new
5  move endpoints between groups         an entry is replaced whole
6  other O of ingress: add, then remove  what passes, passes in the old or in the new ingress
7  O of step 3: add                      ingress is new; at most new
8  C: remove                             opens only what is new
9  destroy sets                          nobody asks them any more
=  ====================================  =========================================================

A group is *affected* when its chains change in this batch or an endpoint joins or leaves it.
Where none is, an ingress peer that goes from one allowed set to another is never denied between.
Chains that endpoints leave stay: the agent retires them, and a later batch drops them.

When endpoints move in both maps at once, an old egress could meet a new ingress that no state
has.  Their ingress entries are then taken out before: a new flow to an unknown endpoint drops.
"""

from collections.abc import Iterable, Iterator
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
    EGRESS_MAP = auto()
    """(address, interface) of local endpoints to egress group; missing is closed."""
    INGRESS_MAP = auto()
    """Address of local endpoints to ingress group; missing is closed."""
    NEUTRAL = auto()
    """No verdict depends on it."""


class ChangedSet(NamedTuple):
    """A set whose members differ from what is programmed."""

    name: IpsetName
    role: Role
    is_affected: bool = False
    """Whether an affected group asks it."""


class Do(Enum):
    """What a step does to its sets."""

    CREATE = auto()
    ADD = auto()
    """Add the missing members, and replace the marks that differ."""
    REMOVE = auto()
    HOLD = auto()
    """Take out the members whose mark is about to be replaced."""
    WRITE_TABLES = auto()
    DESTROY = auto()


class Step(NamedTuple):
    """One step; without names where it is not about particular sets."""

    do: Do
    names: tuple[IpsetName, ...] = ()


class Moves(NamedTuple):
    """Whether the batch replaces marks in the maps: endpoints that change their group."""

    egress: bool = False
    ingress: bool = False


def steps(changed: Iterable[ChangedSet], *, writes_tables: bool, moves: Moves) -> tuple[Step, ...]:
    """The steps of a batch, in order."""
    sets = tuple(changed)
    return tuple(
        step
        for step in _steps(sets, writes_tables, moves)
        if step.names or step.do in (Do.CREATE, Do.WRITE_TABLES, Do.DESTROY)
    )


def _steps(sets: tuple[ChangedSet, ...], writes_tables: bool, moves: Moves) -> Iterator[Step]:  # noqa: FBT001 - one caller, above
    tight = _names(sets, Role.OPENS_EGRESS) + tuple(
        s.name for s in sets if s.role is Role.OPENS_INGRESS and s.is_affected
    )
    loose = tuple(s.name for s in sets if s.role is Role.OPENS_INGRESS and not s.is_affected)
    closes = _names(sets, Role.CLOSES)
    egress_map, ingress_map = _names(sets, Role.EGRESS_MAP), _names(sets, Role.INGRESS_MAP)

    yield Step(Do.CREATE)
    yield Step(Do.ADD, _names(sets, Role.NEW))
    yield Step(Do.ADD, closes)
    yield Step(Do.REMOVE, ingress_map + egress_map)
    yield Step(Do.REMOVE, tight)
    if writes_tables:
        yield Step(Do.WRITE_TABLES)
    if moves.egress and moves.ingress:
        yield Step(Do.HOLD, ingress_map)
    yield Step(Do.ADD, egress_map)
    yield Step(Do.ADD, ingress_map)
    yield Step(Do.ADD, loose)
    yield Step(Do.REMOVE, loose)
    yield Step(Do.ADD, tight)
    yield Step(Do.REMOVE, closes)
    yield Step(Do.ADD, _names(sets, Role.NEUTRAL))
    yield Step(Do.REMOVE, _names(sets, Role.NEUTRAL))
    yield Step(Do.DESTROY)


def _names(sets: tuple[ChangedSet, ...], role: Role) -> tuple[IpsetName, ...]:
    return tuple(s.name for s in sets if s.role is role)
