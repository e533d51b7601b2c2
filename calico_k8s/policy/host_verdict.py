"""The definition for host endpoints: what a node's own interfaces let through.

In: a snapshot, and a new flow's way past one node.  Out: a verdict, and each decision that was
made.  What pods' policies say of the same flow is :mod:`.verdict`'s; a flow passes if both let it.

::

    arrives ─► untracked ─► pre-DNAT ─┬─► for the node ─► local, ingress ──────────► node
                  allow: the rest ────┤                                                │
                  is not asked        └─► forwarded, ingress ─► forwarded, egress      │
                                                                            │          │
    leaves  ◄───────────────────────────────────────────────────────────────┴◄─ local, egress
                                                                               untracked first

At every hook but the forwarded ones a failsafe port passes first.  A flow of an interface without
a host endpoint, from the node to its own pods, or to the node itself, is not judged.

Source: Calico, felix/rules/static.go and endpoints.go.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import msgspec

from calico_k8s.errors import InputError
from calico_k8s.model.addresses import Address
from calico_k8s.model.failsafes import (
    DEFAULT_INBOUND,
    DEFAULT_OUTBOUND,
    INBOUND_SETTING,
    OUTBOUND_SETTING,
    Failsafes,
    parse_failsafes,
)
from calico_k8s.model.names import NodeName
from calico_k8s.model.resources import (
    EARLY_HOOKS,
    EVERY_INTERFACE,
    ICMPV6,
    Action,
    Direction,
    HostEndpoint,
    HostHook,
)
from calico_k8s.policy.match import Flow
from calico_k8s.policy.snapshot import Snapshot
from calico_k8s.policy.verdict import Decision, decide_at

LOOPBACK = "lo"
"""No host endpoint of every interface is about it: a node always reaches itself."""

NEIGHBOUR_TYPES = frozenset({130, 131, 132, 133, 134, 135, 136, 137, 143})
"""ICMPv6 without which there is no neighbour: passes at every host endpoint.  Source: RFC 4890."""


class Passage(NamedTuple):
    """A new flow's way past one node, by interface names."""

    node: NodeName
    flow: Flow
    """After DNAT."""
    arrives: str | None = None
    """None: the node itself sends it."""
    leaves: str | None = None
    """None: it is for the node itself."""
    is_to_pod: bool = False
    """Whether it leaves to a pod of this node."""
    before_dnat: Flow | None = None
    """As the sender meant it; None where nothing was translated."""


class HostStep(msgspec.Struct, frozen=True):
    """One hook of one host endpoint that a flow met."""

    endpoint: HostEndpoint
    interface: str
    hook: HostHook
    direction: Direction
    decision: Decision | None = None
    """None: nothing was decided here, so that the flow goes on."""
    is_failsafe: bool = False
    """Whether no policy was asked, for the port stays open."""


class HostVerdict(msgspec.Struct, frozen=True):
    """What a node's host endpoints say of a flow."""

    allowed: bool
    steps: tuple[HostStep, ...] = ()
    """In the order in which they were met; the last is the one that denied, if any did."""

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """In the order in which they were made."""
        return tuple(step.decision for step in self.steps if step.decision is not None)


def judge_host(
    snapshot: Snapshot, passage: Passage, own: Mapping[Address, str] | None = None
) -> HostVerdict:
    """The verdict on a new flow at one node; ``own`` has the interface of each of its addresses."""
    steps: list[HostStep] = []
    there = snapshot.hosts_by_node.get(passage.node, ())
    for hook, direction, interface in _hooks(passage) if there else ():
        endpoint = find_host_endpoint(there, passage.node, interface, own or {}, hook)
        if endpoint is None or is_neighbour_discovery(passage.flow):
            continue
        flow = passage.flow
        if hook in EARLY_HOOKS and passage.before_dnat is not None:
            flow = passage.before_dnat
        is_open = _is_failsafe(snapshot, endpoint, direction, flow, hook)
        decision = (
            None if is_open else decide_at(snapshot, endpoint.as_peer(), direction, flow, hook)
        )
        steps.append(HostStep(endpoint, interface, hook, direction, decision, is_open))
        if decision is not None and decision.action is Action.DENY:
            return HostVerdict(allowed=False, steps=tuple(steps))
        if decision is not None and hook in EARLY_HOOKS:
            break
    return HostVerdict(allowed=True, steps=tuple(steps))


def find_host_endpoint(
    endpoints: Iterable[HostEndpoint],
    node: NodeName,
    interface: str,
    own: Mapping[Address, str],
    hook: HostHook = HostHook.LOCAL,
) -> HostEndpoint | None:
    """The host endpoint of an interface: the first by name, that of every interface last."""
    mine = sorted((each for each in endpoints if each.node == node), key=lambda each: each.name)
    for endpoint in mine:
        if interface in interfaces_of(endpoint, own):
            return endpoint
    if interface == LOOPBACK or hook is HostHook.UNTRACKED:
        return None
    return next((each for each in mine if each.interface == EVERY_INTERFACE), None)


def interfaces_of(endpoint: HostEndpoint, own: Mapping[Address, str]) -> tuple[str, ...]:
    """The interfaces that a host endpoint names, or that have an address it expects; sorted.

    None of one that is for every interface.
    """
    if endpoint.interface == EVERY_INTERFACE:
        return ()
    if endpoint.interface:
        return (endpoint.interface,)
    return tuple(sorted({own[a] for a in endpoint.expected_ips if a in own}))


def failsafes_of(snapshot: Snapshot, node: NodeName, direction: Direction) -> Failsafes:
    """The ports that stay open on a node; those of the default where the setting is no list."""
    name, default = {
        Direction.INGRESS: (INBOUND_SETTING, DEFAULT_INBOUND),
        Direction.EGRESS: (OUTBOUND_SETTING, DEFAULT_OUTBOUND),
    }[direction]
    for text in (snapshot.settings.get((node, name)), snapshot.settings.get((None, name))):
        try:
            if text is not None:
                return parse_failsafes(text)
        except InputError:
            continue
    return parse_failsafes(default)


def _hooks(passage: Passage) -> Iterator[tuple[HostHook, Direction, str]]:
    """The hooks on the way, each with the interface that is asked."""
    if passage.arrives is not None:
        yield HostHook.UNTRACKED, Direction.INGRESS, passage.arrives
        yield HostHook.PRE_DNAT, Direction.INGRESS, passage.arrives
        if passage.leaves is None:
            yield HostHook.LOCAL, Direction.INGRESS, passage.arrives
            return
        yield HostHook.FORWARDED, Direction.INGRESS, passage.arrives
        yield HostHook.FORWARDED, Direction.EGRESS, passage.leaves
    elif passage.leaves is not None and not passage.is_to_pod:
        yield HostHook.UNTRACKED, Direction.EGRESS, passage.leaves
        yield HostHook.LOCAL, Direction.EGRESS, passage.leaves


def _is_failsafe(
    snapshot: Snapshot,
    endpoint: HostEndpoint,
    direction: Direction,
    flow: Flow,
    hook: HostHook,
) -> bool:
    """Whether the flow is one of a port that stays open; untracked, also what answers one."""
    if hook is HostHook.FORWARDED:
        return False
    peer = flow.src if direction is Direction.INGRESS else flow.dst
    ports = [(failsafes_of(snapshot, endpoint.node, direction), flow.dst_port)]
    if hook is HostHook.UNTRACKED:
        other = Direction.EGRESS if direction is Direction.INGRESS else Direction.INGRESS
        ports.append((failsafes_of(snapshot, endpoint.node, other), flow.src_port))
    return any(
        each.opens(flow.protocol, peer, port) for failsafes, port in ports for each in failsafes
    )


def is_neighbour_discovery(flow: Flow) -> bool:
    """Whether it is what IPv6 finds its neighbours and routers by."""
    return flow.protocol == ICMPV6 and flow.icmp is not None and flow.icmp.type in NEIGHBOUR_TYPES
