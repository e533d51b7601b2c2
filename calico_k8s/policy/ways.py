"""The definition of a flow's whole way: pods' policy, and each node's host endpoints that it passes.

In: a snapshot and new flows.  Out: :class:`Judged`, one for each way that a flow may take.  A node's
routes are nowhere in a snapshot, so where it does not tell the interface, each that it knows of is
a way of its own, and who asks has an answer for all of them::

    one end                the other      the interface that is passed
    ───────                ─────────      ────────────────────────────
    an address of a node   anybody        the one that a host endpoint gives the address
    a pod                  the cluster    the one that has an address of the pod's node
    any                    any            else: each that a host endpoint names, and, where one is
                                          for every interface, any other

A node without a host endpoint is no way's matter, and who reaches itself passes nothing.
"""

from collections.abc import Iterator, Mapping
from itertools import product
from typing import NamedTuple

import msgspec

from calico_k8s.model.addresses import Address, address_version
from calico_k8s.model.names import NodeName
from calico_k8s.model.resources import EVERY_INTERFACE, Action, HostEndpoint, HostHook
from calico_k8s.policy.host_verdict import HostStep, Passage, judge_host
from calico_k8s.policy.match import Flow
from calico_k8s.policy.snapshot import Snapshot
from calico_k8s.policy.verdict import Decision, Verdict, judge

POD_LINK = "a pod's interface"
ANY_INTERFACE = "any interface"
ANY_OTHER_INTERFACE = "any other interface"
"""In place of names: no interface is called so."""


class Via(NamedTuple):
    """The interfaces that somebody asks about; None: not that of this end."""

    src: str | None = None
    dst: str | None = None


NOT_SAID = Via()


class Judged(msgspec.Struct, frozen=True):
    """A flow on one way, and what is said of it there."""

    flow: Flow
    verdict: Verdict
    """What pods' policy says."""
    steps: tuple[HostStep, ...] = ()
    """What host endpoints say, in the order of the way; none where pods' policy denies."""
    way: tuple[Passage, ...] = ()

    @property
    def allowed(self) -> bool:
        """Whether it arrives."""
        return self.verdict.allowed and self.denying_step is None

    @property
    def denying_step(self) -> HostStep | None:
        """The host endpoint that denies it, if one does."""
        found = (
            step
            for step in self.steps
            if step.decision is not None and step.decision.action is Action.DENY
        )
        return next(found, None)

    @property
    def deciding(self) -> Decision | None:
        """What settled it: what denies, else what pods' policy says, else a host endpoint's."""
        step = self.deciding_step
        return self.verdict.deciding if step is None else step.decision

    @property
    def deciding_step(self) -> HostStep | None:
        """The same, where a host endpoint settled it."""
        if self.denying_step is not None or self.verdict.deciding is not None:
            return self.denying_step
        return next((step for step in reversed(self.steps) if step.decision is not None), None)

    @property
    def failsafe_step(self) -> HostStep | None:
        """Where it passed a port of a node that stays open."""
        found = (s for s in self.steps if s.is_failsafe and s.hook is HostHook.LOCAL)
        return next(found, None)


class Ways:
    """The ways through one snapshot."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        hosts = snapshot.hosts_by_node.items()
        self._own = {node: dict(_interfaces_by_address(there)) for node, there in hosts}
        self._links = {node: tuple(_known_links(there, self._own[node])) for node, there in hosts}
        self._node_by_address = {
            address: node for node, known in nodes_known(snapshot).items() for address in known
        } | {address: node.name for node in snapshot.nodes.values() for address in node.addresses}

    def own(self, node: NodeName) -> Mapping[Address, str]:
        """The addresses of a node whose interface is told, and what it is called here."""
        return self._own.get(node, {})

    def judge(self, flow: Flow, via: Via = NOT_SAID) -> tuple[Judged, ...]:
        """What is said of a flow on each of its ways; never empty."""
        verdict = judge(self._snapshot, flow)
        return tuple(
            self._judged(self._snapshot, flow, verdict, way) for way in self._ways(flow, via)
        )

    def again(self, snapshot: Snapshot, judged: Judged) -> Judged:
        """The same flow on the same way, judged by a state that differs in policy alone."""
        return self._judged(snapshot, judged.flow, judge(snapshot, judged.flow), judged.way)

    def _judged(
        self, snapshot: Snapshot, flow: Flow, verdict: Verdict, way: tuple[Passage, ...]
    ) -> Judged:
        steps = tuple(self._steps(snapshot, way)) if verdict.allowed else ()
        return Judged(flow, verdict, steps, way)

    def _steps(self, snapshot: Snapshot, way: tuple[Passage, ...]) -> Iterator[HostStep]:
        for passage in way:
            said = judge_host(snapshot, passage, self.own(passage.node))
            yield from said.steps
            if not said.allowed:
                return

    def _ways(self, flow: Flow, via: Via) -> tuple[tuple[Passage, ...], ...]:
        if not self._own:
            return ((),)
        owners = self._snapshot.owner_by_address
        src, dst = owners.get(flow.src), owners.get(flow.dst)
        src_node = src.id.node if src is not None else self._node_by_address.get(flow.src)
        dst_node = dst.id.node if dst is not None else self._node_by_address.get(flow.dst)
        arrives = POD_LINK if src is not None else None
        leaves = POD_LINK if dst is not None else None
        if src_node is not None and src_node == dst_node:
            is_to_itself = src is dst  # the node, too
            if src_node not in self._own or is_to_itself:
                return ((),)
            return ((Passage(src_node, flow, arrives, leaves, dst is not None),),)
        first = self._passed(src_node, dst_node, flow.src, via.src)
        last = self._passed(dst_node, src_node, flow.dst, via.dst)
        out = [Passage(node, flow, arrives, link) for node, link in first]
        into = [Passage(node, flow, link, leaves, dst is not None) for node, link in last]
        if not (out and into):
            return tuple((passage,) for passage in (*out, *into)) or ((),)
        return tuple(product(out, into))

    def _passed(
        self, node: NodeName | None, other: NodeName | None, end: Address, said: str | None
    ) -> list[tuple[NodeName, str]]:
        """The interfaces of one end's node that a flow may pass; ``other`` is the other end's."""
        if node is None or node not in self._own:
            return []
        if said is not None:
            return [(node, said)]
        own = self._own[node]
        if end in own and end not in self._snapshot.owner_by_address:
            return [(node, own[end])]
        if other is not None and node in self._snapshot.nodes:
            addresses = self._snapshot.nodes[node].addresses
            version = address_version(end)
            uplinks = [own[a] for a in addresses if a in own and address_version(a) == version]
            if uplinks:
                return [(node, link) for link in dict.fromkeys(uplinks)]
        return [(node, link) for link in self._links[node]]


def _interfaces_by_address(endpoints: tuple[HostEndpoint, ...]) -> Iterator[tuple[Address, str]]:
    """Each address that host endpoints of a node expect, and its interface, named or not."""
    names: dict[Address, str] = {}
    for endpoint in endpoints:
        if endpoint.interface and endpoint.interface != EVERY_INTERFACE:
            for address in endpoint.expected_ips:
                names.setdefault(address, endpoint.interface)
    for endpoint in endpoints:
        if endpoint.interface == "" and endpoint.expected_ips:
            known = [names[a] for a in endpoint.expected_ips if a in names]
            name = known[0] if known else f"the interface with {endpoint.expected_ips[0]}"
            for address in endpoint.expected_ips:
                names.setdefault(address, name)
    yield from names.items()


def _known_links(endpoints: tuple[HostEndpoint, ...], own: Mapping[Address, str]) -> Iterator[str]:
    named = [e.interface for e in endpoints if e.interface not in ("", EVERY_INTERFACE)]
    known = tuple(dict.fromkeys([*named, *own.values()]))
    yield from known
    if any(endpoint.interface == EVERY_INTERFACE for endpoint in endpoints) or not known:
        yield ANY_OTHER_INTERFACE if known else ANY_INTERFACE


def nodes_known(snapshot: Snapshot) -> Mapping[NodeName, tuple[Address, ...]]:
    """Every node that is named anywhere, and its addresses: its own, and those it is expected to have."""
    found: dict[NodeName, dict[Address, None]] = {}
    for node in snapshot.nodes.values():
        found.setdefault(node.name, {}).update(dict.fromkeys(node.addresses))
    for endpoint in snapshot.host_endpoints.values():
        found.setdefault(endpoint.node, {}).update(dict.fromkeys(endpoint.expected_ips))
    return {name: tuple(addresses) for name, addresses in sorted(found.items())}
