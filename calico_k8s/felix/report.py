"""What the agent knows of its own health, gathered as it works.

In: what happened.  Out: a :class:`~.status.NodeStatus`, metrics, and whether the kernel may be
written.
"""

import os

import structlog

from calico_k8s.calc.deltas import LocalEndpoint
from calico_k8s.calc.graph import Graph
from calico_k8s.datastore.store import Revision
from calico_k8s.datastore.updates import Arrival
from calico_k8s.errors import KernelError
from calico_k8s.felix.apply import Written
from calico_k8s.felix.interfaces import Interfaces
from calico_k8s.felix.ipsets import Sizes
from calico_k8s.felix.metrics import DriftKind, Metrics, ProblemKind
from calico_k8s.felix.status import NodeStatus
from calico_k8s.model.addresses import Net
from calico_k8s.model.names import NodeName
from calico_k8s.model.resources import EVERY_INTERFACE
from calico_k8s.model.status import ENFORCED, EndpointState, EndpointStatus, NodeState
from calico_k8s.policy.host_verdict import interfaces_of

ERRORS_MAX = 20
"""A status holds no more: the rest is in the log."""

_WELL = EndpointStatus(ENFORCED)

log = structlog.get_logger()


class Report:
    """One agent's health."""

    def __init__(self, node: NodeName, backend: str, started_s: float, metrics: Metrics) -> None:
        self._metrics = metrics
        self._node = node
        self._backend = backend
        self._started_s = started_s
        self._stored: dict[str, tuple[str, ...]] = {}
        self._problems: tuple[str, ...] = ()
        self._settings: tuple[str, ...] = ()
        self._foreign: tuple[str, ...] = ()
        self._failure: str | None = None
        self._applied_s = 0.0
        self._applied_revision = Revision(0)
        self._drift = 0
        self._told: NodeState | None = None
        self._seen_revision = Revision(0)
        self.is_store_away = False
        self._log = log.bind()  # once: it would take some 10 us for each batch

    @property
    def is_enforcing(self) -> bool:
        """Whether the kernel was brought to what the datastore said, and nothing failed since."""
        return bool(self._applied_s) and self._failure is None

    @property
    def is_well(self) -> bool:
        """Whether the last write of the kernel did not fail."""
        return self._failure is None

    @property
    def has_turned(self) -> bool:
        """Whether its state is another one than the last status told."""
        return self._state() != self._told

    def problem(self) -> str | None:
        """Why the kernel may not be as the datastore last said; None where it is."""
        if self._failure is not None:
            return f"the kernel is not written: {self._failure}"
        return None if self._applied_s else "the datastore's first snapshot is not in"

    def note_changes(self, first: Arrival | None, revision: Revision) -> None:
        """Changes up to a revision have come, the oldest of them ``first``."""
        self._seen_revision = revision
        self._metrics.on_changes(first, revision)

    def note_calculated(self) -> None:
        """It is known what these changes mean for this node."""
        self._metrics.on_calculated()

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

    def note_foreign(self, drops: tuple[str, ...]) -> bool:
        """Chains of others that drop what policy allows; whether they are other than before."""
        is_news, self._foreign = drops != self._foreign, drops
        for sentence in drops if is_news else ():
            log.warning("another program drops what policy allows", problem=sentence)
        return is_news

    def note_failed(self, error: KernelError) -> None:
        """A write of the kernel failed."""
        self._failure = str(error)
        self._metrics.on_failed(error)

    def note_well(self) -> None:
        """What failed is no longer tried."""
        self._failure = None

    def note_applied(self, written: Written, duration_s: float, now_s: float) -> bool:
        """The kernel is as the datastore says, up to the revision that was seen.

        Whether others should hear of it soon: it is another revision, the first, or good news.
        """
        is_first = not self._applied_s
        is_news = (
            is_first or self._failure is not None or self._applied_revision != self._seen_revision
        )
        if is_first or self._failure is not None:
            log.info("enforcing", node=self._node, revision=self._seen_revision)
        if is_first:
            self._metrics.on_begun(now_s - self._started_s)
        self._metrics.on_applied(written, duration_s, self._seen_revision)
        self._failure = None
        self._applied_revision = self._seen_revision
        self._applied_s = now_s
        if any(written):
            self._log.debug("kernel written", lines=written.lines, members=written.members)
        return is_news

    def note_drift(self, where: DriftKind, count: int) -> None:
        """Something in the kernel had been changed by others, and was mended."""
        if count:
            self._drift += count
            self._metrics.on_drift(where, count)
            log.warning("mended what another program had changed", where=where, count=count)

    def status(self, graph: Graph, found: Interfaces, groups: int, sizes: Sizes) -> NodeStatus:
        """The node's status now, told to the metrics, too.  Cost: the node's endpoints and sets."""
        endpoints = {e.id: endpoint_status(graph, found, e) for e in graph.endpoints.values()}
        problems: dict[ProblemKind, list[str]] = {
            "kernel": [] if self._failure is None else [self._failure],
            "network": [
                *(_overlap(net, subnet) for net, subnet in sorted(found.overlaps.items())),
                *host_problems(graph, found),
                *self._foreign,
            ],
            "stored": [problem for problems in self._stored.values() for problem in problems],
            "settings": list(self._settings),
            "rendering": list(self._problems),
        }
        errors = [sentence for sentences in problems.values() for sentence in sentences]
        self._metrics.on_status(
            [each.state for each in endpoints.values()],
            {kind: len(sentences) for kind, sentences in problems.items()},
        )
        self._metrics.on_sizes(groups, sizes, graph.endpoint_count)
        self._told = self._state()
        return NodeStatus(
            node=self._node,
            pid=os.getpid(),
            started=self._started_s,
            state=self._told,
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


def _overlap(pod_net: Net, subnet: Net) -> str:
    return (
        f"pod range {pod_net} overlaps {subnet}, which this node is on: it is not used to tell pods"
        " from other machines; give --workload-interfaces, or another --pod-cidr"
    )


def host_problems(graph: Graph, found: Interfaces) -> list[str]:
    """Host endpoints whose interface this node does not have, or which lack a profile."""
    problems: list[str] = []
    there = ", ".join(sorted(found.names)) or "none"
    for name, host in sorted(graph.hosts.items()):
        endpoint = host.endpoint
        if endpoint.interface not in (EVERY_INTERFACE, "", *found.names):
            problems.append(
                f"host endpoint {endpoint.name}: this node has no interface {endpoint.interface}"
                f" (it has {there}), so it protects nothing until there is one"
            )
        elif not endpoint.interface and not interfaces_of(endpoint, found.node_addresses):
            expected = ", ".join(endpoint.expected_ips)
            problems.append(
                f"host endpoint {endpoint.name}: no interface of this node has an address that it"
                f" expects ({expected}), so it protects nothing until one has"
            )
        problems += (
            f"host endpoint {endpoint.name}: profile {profile} is not in the datastore"
            for profile in graph.unknown_profiles(name)
        )
    return problems


def endpoint_status(graph: Graph, found: Interfaces, endpoint: LocalEndpoint) -> EndpointStatus:
    """How one endpoint is, with the reason where it is not as its owner would have it."""
    lost, unknown = graph.lost_addresses(endpoint.id), graph.unknown_profiles(endpoint.id)
    if endpoint.addresses and not (lost or unknown or found.missing or found.unsettled):
        return _WELL
    reasons = [f"{a} belongs to {owner}, which is newer" for a, owner in sorted(lost.items())]
    state: EndpointState = ENFORCED
    if not endpoint.addresses:
        state = "no-address"
    elif not found.missing.isdisjoint(endpoint.addresses):
        state = "no-interface"
    elif not found.unsettled.keys().isdisjoint(endpoint.addresses):
        state = "no-port"
    reasons += (
        f"no interface of this node leads to {a}: not enforceable, what passes this node is denied"
        " and what goes round it is not seen"
        for a in endpoint.addresses
        if a in found.missing
    )
    reasons += (
        f"{a} has not yet been seen behind a port of bridge {found.unsettled[a]}: it sends nothing"
        for a in endpoint.addresses
        if a in found.unsettled
    )
    reasons += (f"profile {profile} is not in the datastore" for profile in unknown)
    return EndpointStatus(state, "; ".join(reasons))
