"""What this node says of a flow, from its groups and members: as its chains will.

In: a flushed :class:`~.graph.Graph` and a flow.  Out: what each local end decides.  Felix asks it
which live connections a change denies; the definition, :mod:`calico_k8s.policy.verdict`, agrees.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

from calico_k8s.calc.deltas import Group, IpsetId, ResolvedRule
from calico_k8s.calc.graph import Graph
from calico_k8s.model.addresses import Address, Net, address_version
from calico_k8s.model.resources import Action, Direction, Origin, PortRange, Protocol
from calico_k8s.policy.match import Flow, icmp_matches, in_nets, in_ranges, outside_nets
from calico_k8s.policy.verdict import POD_TO_HOST_ACTION

Holds = Callable[[IpsetId, Address, Protocol, int], bool]
"""Whether a set holds an address, or the address with this port where members have ports."""


class Decided(NamedTuple):
    """What a group says of a flow, and where that is written."""

    action: Literal[Action.ALLOW, Action.DENY]
    origin: Origin


class LocalVerdict(NamedTuple):
    """What the local ends of a flow say; None where no policy of theirs was asked."""

    egress: Decided | None = None
    ingress: Decided | None = None
    is_host_denied: bool = False
    """The pod may send it, but pods may not talk to their own node."""

    @property
    def is_allowed(self) -> bool:
        """Whether nothing on this node denies it."""
        return not self.is_host_denied and all(
            decided is None or decided.action is Action.ALLOW
            for decided in (self.egress, self.ingress)
        )


def judge_local(
    graph: Graph, flow: Flow, pod_to_host: str | None = None, *, is_live: bool = False
) -> LocalVerdict:
    """What this node says of a new flow.  Cost: the rules of at most two groups.

    ``pod_to_host`` is the action that holds where it is not the datastore's to say.  A flow that
    ``is_live`` was opened before: that its destination has lapsed since does not end it.
    """
    src, dst = graph.local_owner(flow.src), graph.local_owner(flow.dst)
    node_addresses = graph.record.addresses if graph.record is not None else ()
    if src is not None and dst is not None and src.id == dst.id:
        return LocalVerdict()

    def holds(ipset_id: IpsetId, address: Address, protocol: Protocol, port: int) -> bool:
        if graph.ipset(ipset_id).holds(address, protocol, port):
            return True
        return is_live and graph.had(ipset_id, address)

    egress = judge_group(graph.group(src.egress), flow, holds) if src is not None else None
    if egress is not None and egress.action is Action.DENY:
        return LocalVerdict(egress)
    if src is not None and flow.dst in node_addresses:
        action = pod_to_host or graph.settings.get(POD_TO_HOST_ACTION, "accept")
        return LocalVerdict(egress, is_host_denied=action == "drop")
    if dst is None or flow.src in node_addresses:
        return LocalVerdict(egress)
    return LocalVerdict(egress, judge_group(graph.group(dst.ingress), flow, holds))


def judge_group(group: Group, flow: Flow, holds: Holds) -> Decided:
    """What a group of pods says of a new flow."""
    decided = judge_hook_group(group, flow, holds)
    assert decided is not None, "the last stage of a group of pods never passes"
    return decided


def judge_hook_group(group: Group, flow: Flow, holds: Holds) -> Decided | None:
    """What any group says of a new flow; None: a host endpoint's that has not to decide."""
    for stage in group.stages:
        action: Action = stage.end
        origin = stage.end_origin
        for rule in stage.rules:
            if rule.action is not Action.LOG and rule_holds(rule, group.direction, flow, holds):
                action, origin = rule.action, rule.origin
                break
        if action is not Action.PASS:
            allows = action is Action.ALLOW
            return Decided(Action.ALLOW if allows else Action.DENY, origin)
    return None


def rule_holds(rule: ResolvedRule, direction: Direction, flow: Flow, holds: Holds) -> bool:
    """Whether every criterion of the rule holds for the flow."""
    src = (flow.src, flow.protocol, flow.src_port)
    dst = (flow.dst, flow.protocol, flow.dst_port)
    peer, own = (src, dst) if direction is Direction.INGRESS else (dst, src)
    return (
        rule.ip_version in (None, address_version(flow.src))
        and rule.protocol in (None, flow.protocol)
        and (rule.not_protocol is None or rule.not_protocol != flow.protocol)
        and (rule.icmp is None or icmp_matches(rule.icmp, flow))
        and (rule.not_icmp is None or not icmp_matches(rule.not_icmp, flow))
        and _place_holds(rule.src_nets, rule.src_not_nets, flow.src)
        and _place_holds(rule.dst_nets, rule.dst_not_nets, flow.dst)
        and _port_holds(rule.src_ports, rule.src_not_ports, flow.src_port)
        and _port_holds(rule.dst_ports, rule.dst_not_ports, flow.dst_port)
        and (rule.peer_ipset is None or holds(rule.peer_ipset.id, *peer))
        and not any(holds(ipset.id, *peer) for ipset in rule.peer_not_ipsets)
        and (rule.own_ipset is None or holds(rule.own_ipset.id, *own))
        and not any(holds(ipset.id, *own) for ipset in rule.own_not_ipsets)
    )


def _place_holds(nets: tuple[Net, ...], not_nets: tuple[Net, ...], address: Address) -> bool:
    return (not nets or in_nets(nets, address)) and (
        not not_nets or outside_nets(not_nets, address)
    )


def _port_holds(ports: tuple[PortRange, ...], not_ports: tuple[PortRange, ...], port: int) -> bool:
    return (not ports or in_ranges(ports, port)) and not in_ranges(not_ports, port)
