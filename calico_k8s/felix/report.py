"""What the agent knows of its own health, gathered as it works.

In: what happened.  Out: a :class:`~.status.NodeStatus`, and whether the kernel may be written.
"""

import os

import structlog

from calico_k8s.calc.deltas import LocalEndpoint
from calico_k8s.calc.graph import Graph
from calico_k8s.datastore.store import Revision
from calico_k8s.felix.apply import Written
from calico_k8s.felix.interfaces import Interfaces
from calico_k8s.felix.status import EndpointState, EndpointStatus, NodeState, NodeStatus
from calico_k8s.model.names import NodeName

ERRORS_MAX = 20
"""A status holds no more: the rest is in the log."""

log = structlog.get_logger()


class Report:
    """One agent's health."""

    def __init__(self, node: NodeName, backend: str, started_s: float) -> None:
        self._node = node
        self._backend = backend
        self._started_s = started_s
        self._stored: dict[str, tuple[str, ...]] = {}
        self._problems: tuple[str, ...] = ()
        self._settings: tuple[str, ...] = ()
        self._failure: str | None = None
        self._applied_s = 0.0
        self._applied_revision = Revision(0)
        self._drift = 0
        self.seen_revision = Revision(0)
        self.is_store_away = False

    @property
    def is_enforcing(self) -> bool:
        """Whether the kernel was brought to what the datastore said, and nothing failed since."""
        return bool(self._applied_s) and self._failure is None

    @property
    def is_well(self) -> bool:
        """Whether the last write of the kernel did not fail."""
        return self._failure is None

    def note_stored(self, path: str, problems: tuple[str, ...]) -> None:
        """What was not understood of a stored value; nothing where it is well, or gone."""
        if problems:
            self._stored[path] = problems
            for problem in problems:
                log.warning("a stored value is not understood", problem=problem)
        else:
            self._stored.pop(path, None)

    def note_problems(self, problems: tuple[str, ...]) -> None:
        """What cannot be rendered as it should."""
        self._problems = problems

    def note_settings(self, problems: tuple[str, ...]) -> None:
        """Settings of the datastore that were passed over."""
        self._settings = problems

    def note_failed(self, error: str) -> None:
        """A write of the kernel failed."""
        self._failure = error

    def note_well(self) -> None:
        """What failed is no longer tried."""
        self._failure = None

    def note_applied(self, written: Written, now_s: float) -> bool:
        """The kernel is as the datastore says, up to the revision that was seen.

        Whether others should hear of it soon: it is another revision, the first, or good news.
        """
        is_news = (
            not self._applied_s
            or self._failure is not None
            or self._applied_revision != self.seen_revision
        )
        self._failure = None
        self._applied_revision = self.seen_revision
        self._applied_s = now_s
        if any(written):
            log.debug("kernel written", lines=written.lines, members=written.members)
        return is_news

    def note_drift(self, where: str, count: int) -> None:
        """Something in the kernel had been changed by others, and was mended."""
        if count:
            self._drift += count
            log.warning("mended what another program had changed", where=where, count=count)

    def status(self, graph: Graph, found: Interfaces, groups: int) -> NodeStatus:
        """The node's status now.  Cost: the node's endpoints."""
        endpoints = {e.id: endpoint_status(graph, found, e) for e in graph.endpoints.values()}
        errors = [] if self._failure is None else [self._failure]
        errors += [problem for problems in self._stored.values() for problem in problems]
        errors += [*self._settings, *self._problems]
        return NodeStatus(
            node=self._node,
            pid=os.getpid(),
            started=self._started_s,
            state=self._state(),
            revision=self._applied_revision,
            backend=self._backend,
            groups=groups,
            applied=self._applied_s,
            drift_repaired=self._drift,
            errors=tuple(errors[:ERRORS_MAX]),
            endpoints=endpoints,
        )

    def _state(self) -> NodeState:
        if self._failure is not None:
            return "failing"
        if not self._applied_s:
            return "waiting"
        return "store-away" if self.is_store_away else "in-sync"


def endpoint_status(graph: Graph, found: Interfaces, endpoint: LocalEndpoint) -> EndpointStatus:
    """How one endpoint is, with the reason where it is not as its owner would have it."""
    lost = graph.lost_addresses(endpoint.id)
    reasons = [f"{a} belongs to {owner}, which is newer" for a, owner in sorted(lost.items())]
    state: EndpointState = "enforced"
    if not endpoint.addresses:
        state = "no-address"
    elif found.missing.issuperset(endpoint.addresses):
        state = "no-interface"
    elif not found.unsettled.keys().isdisjoint(endpoint.addresses):
        state = "no-port"
    reasons += (
        f"no interface of this node leads to {a}: it is closed and cannot be reached through us"
        for a in endpoint.addresses
        if a in found.missing
    )
    reasons += (
        f"{a} has not yet been seen behind a port of bridge {found.unsettled[a]}: it sends nothing"
        for a in endpoint.addresses
        if a in found.unsettled
    )
    unknown = graph.unknown_profiles(endpoint.id)
    reasons += (f"profile {profile} is not in the datastore" for profile in unknown)
    return EndpointStatus(state, "; ".join(reasons))
