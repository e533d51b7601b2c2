"""How far a change has come: on how many nodes, and on which it has not.

In: the revision of the datastore that each node has in its kernel, as its Felix tells.  Out: how
many have a given one.  What the revision holds is not known here.

A node counts while its Felix tells, and while it has pods.  One whose pods nobody tells of has
nothing: it may enforce all of it still, and nobody knows.
"""

from bisect import bisect_left
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from heapq import nsmallest
from typing import NamedTuple

from calico_k8s.datastore.store import Revision
from calico_k8s.model.names import NodeName

GRACE_S = 60.0
"""A node with pods that falls silent counts by its last words for so long, and one that is new not
at all: agents are replaced, and nodes begin with their pods."""
NAMES_MAX = 5
NOTHING = Revision(0)


class Count(NamedTuple):
    """On how many nodes of how many, and the first of the others by name."""

    reached: int
    total: int
    behind: tuple[NodeName, ...] = ()

    @property
    def is_all(self) -> bool:
        """Whether there are nodes, and all of them have it."""
        return 0 < self.total == self.reached

    def __str__(self) -> str:
        text = f"on {self.reached} of {self.total} nodes"
        if not self.behind:
            return text
        others = self.total - self.reached - len(self.behind)
        return f"{text}, not on {', '.join(self.behind)}" + (
            f" and {others} more" if others else ""
        )


class Reach:
    """Nodes by what they have.  Cost: O(nodes log nodes) once, O(log nodes) for each question."""

    def __init__(self, revisions: Mapping[NodeName, Revision]) -> None:
        self._revisions = sorted(revisions.values())
        self._nodes = sorted(revisions, key=revisions.__getitem__)
        self._counts: dict[int, Count] = {}

    def of(self, revision: Revision) -> Count:
        """How many nodes have this revision."""
        return self._count(bisect_left(self._revisions, revision))

    def of_nothing(self) -> Count:
        """What has no revision is on no node."""
        return Count(0, len(self._nodes))

    def _count(self, behind: int) -> Count:
        if behind not in self._counts:
            names = nsmallest(NAMES_MAX, self._nodes[:behind])
            total = len(self._nodes)
            self._counts[behind] = Count(total - behind, total, tuple(names))
        return self._counts[behind]


class RollCall:
    """Which nodes count, as they come, fall silent and go."""

    def __init__(self) -> None:
        self._last: dict[NodeName, tuple[Revision, float]] = {}
        self._first_s: dict[NodeName, float] | None = None

    def call(
        self, told: Mapping[NodeName, Revision], with_pods: AbstractSet[NodeName], now_s: float
    ) -> Reach:
        """The nodes that count now; at the first call none is taken for new."""
        since_s = now_s - GRACE_S
        known = self._first_s if self._first_s is not None else dict.fromkeys(with_pods, since_s)
        self._first_s = {node: known.get(node, now_s) for node in with_pods}
        self._last.update((node, (revision, now_s)) for node, revision in told.items())
        counted: dict[NodeName, Revision] = {}
        for node in told.keys() | with_pods:
            revision, seen_s = self._last.get(node, (NOTHING, since_s))
            if seen_s > since_s:
                counted[node] = revision
            elif self._first_s[node] <= since_s:
                counted[node] = NOTHING
        self._last = {node: self._last[node] for node in counted.keys() & self._last.keys()}
        return Reach(counted)
