"""Rules about host endpoints: is each at one interface of a node there is, and does anything speak for it?

In: a view of a cluster.  Out: findings.  Which interfaces a node has is nowhere in a source, so what
is looked at is what two objects say of one.
"""

import difflib
from collections.abc import Iterator

from calico_k8s.lint.problems import LintCode
from calico_k8s.lint.view import View, lint_finding
from calico_k8s.model.addresses import Address
from calico_k8s.model.names import NodeName, ProfileId
from calico_k8s.model.resources import (
    EARLY_HOOKS,
    EVERY_INTERFACE,
    Action,
    Direction,
    HostEndpoint,
    HostHook,
    Policy,
)
from calico_k8s.policy.snapshot import Snapshot
from calico_k8s.policy.verdict import applies
from calico_k8s.translate.findings import Finding, ObjectRef
from calico_k8s.translate.host_endpoints import ALLOW_ALL_NAME, profile_id, profile_name
from calico_k8s.translate.objects import CalicoHostEndpoint, object_ref


def host_findings(view: View) -> Iterator[Finding]:
    """Everything about host endpoints, and policy that is for them alone, that the cluster shows."""
    written = {
        value.metadata.name
        for value in view.cluster.policies
        if isinstance(value, CalicoHostEndpoint)
    }
    endpoints = sorted(
        (each for each in view.snapshot.host_endpoints.values() if each.name in written),
        key=lambda each: each.name,
    )
    nodes = _given_nodes(view)
    node_by_address = {
        a: node.name for node in view.snapshot.nodes.values() for a in node.addresses
    }
    firsts = {(each.node, each.interface): each for each in reversed(endpoints)}
    for endpoint in endpoints:
        if nodes and endpoint.node not in nodes:
            yield _of(endpoint, LintCode.HOST_NODE_UNKNOWN, _no_node(endpoint, nodes), "node")
        yield from _shared_interface(endpoint, firsts[endpoint.node, endpoint.interface])
        for address in endpoint.expected_ips:
            node = node_by_address.get(address, endpoint.node)
            if elsewhere := _elsewhere(view.snapshot, endpoint, address, node):
                message = f"expects {address}, which is {elsewhere}"
                yield _of(endpoint, LintCode.HOST_ADDRESS_SHARED, message, "expectedIPs")
        unknown = list(_unknown_profiles(view.snapshot, endpoint))
        yield from unknown
        if not unknown:
            yield from _closed(view.snapshot, endpoint)
    for policy in sorted(_enforced(view.snapshot), key=lambda policy: policy.id):
        if policy.host_hook in EARLY_HOOKS:
            yield from _selects_none(view.snapshot, policy)
            yield from _one_way(view.snapshot, policy)


def _of(endpoint: HostEndpoint, code: LintCode, message: str, field: str) -> Finding:
    ref = ObjectRef("HostEndpoint", "", endpoint.name)
    return lint_finding(code, message, ref, ("spec", field))


def _given_nodes(view: View) -> set[NodeName]:
    """The nodes that are there; none where the source has no Node, so that nothing tells."""
    nodes = view.cluster.nodes
    is_live = not view.cluster.written
    if is_live or any(object_ref(node) in view.cluster.written for node in nodes):
        return {NodeName(node.metadata.name) for node in nodes}
    return set()


def _no_node(endpoint: HostEndpoint, nodes: set[NodeName]) -> str:
    return f"there is no node '{endpoint.node}'{_nearest(endpoint.node, nodes)}"


def _nearest(name: str, known: set[NodeName] | set[str]) -> str:
    near = difflib.get_close_matches(name, sorted(known), n=1)
    return f"; did you mean '{near[0]}'?" if near else ""


def _shared_interface(endpoint: HostEndpoint, first: HostEndpoint) -> Iterator[Finding]:
    if endpoint.interface and first is not endpoint:
        message = (
            f"HostEndpoint {first.name} is about {_interface(endpoint)} of {endpoint.node} too, "
            "and the first by name holds: this one is not looked at"
        )
        yield _of(endpoint, LintCode.HOST_INTERFACE_SHARED, message, "interfaceName")


def _interface(endpoint: HostEndpoint) -> str:
    if endpoint.interface == EVERY_INTERFACE:
        return "every interface"
    return endpoint.interface or f"the interface with {endpoint.expected_ips[0]}"


def _elsewhere(snapshot: Snapshot, endpoint: HostEndpoint, address: Address, node: NodeName) -> str:
    """Whose the address is as well; empty where nobody else's."""
    owner = snapshot.peer_by_address[address]
    if not owner.id.is_host:
        return f"pod {owner.id.pod}'s: rules mean the pod by it"
    if node != endpoint.node:
        return f"node {node}'s, not {endpoint.node}'s"
    if owner.id != endpoint.id:
        return f"expected by HostEndpoint {owner.id.name} too: rules mean that one by it"
    return ""


def _unknown_profiles(snapshot: Snapshot, endpoint: HostEndpoint) -> Iterator[Finding]:
    for profile in endpoint.profiles:
        if profile not in snapshot.profile_rules:
            name = profile_name(profile)
            known = {profile_name(each) for each in snapshot.profile_rules if _is_written(each)}
            near = _nearest(name, known)
            message = f"there is no Profile '{name}', so it allows nothing{near}"
            yield _of(endpoint, LintCode.HOST_PROFILE_UNKNOWN, message, "profiles")


def _is_written(profile: ProfileId) -> bool:
    return profile == profile_id(profile_name(profile))


def _closed(snapshot: Snapshot, endpoint: HostEndpoint) -> Iterator[Finding]:
    """Nothing speaks for a direction of it, so that but for a few ports all is denied."""
    words = {Direction.INGRESS: "takes", Direction.EGRESS: "sends"}
    closed = [words[way] for way in Direction if not _is_spoken_for(snapshot, endpoint, way)]
    if closed:
        message = (
            f"no policy and no profile speaks of what {endpoint.node} {' and '.join(closed)} by "
            f"{_interface(endpoint)}, so all of it is denied, but for the ports that stay open: "
            f"write the policy first, or name the profile {ALLOW_ALL_NAME}"
        )
        yield _of(endpoint, LintCode.HOST_CLOSED, message, "profiles")


def _is_spoken_for(snapshot: Snapshot, endpoint: HostEndpoint, direction: Direction) -> bool:
    peer = endpoint.as_peer()
    rules = [snapshot.rules_of(profile) for profile in endpoint.profiles]
    is_ingress = direction is Direction.INGRESS
    return any(each.ingress if is_ingress else each.egress for each in rules) or any(
        applies(snapshot, policy, peer, direction, hook)
        for policy in _enforced(snapshot)
        for hook in (HostHook.LOCAL, *EARLY_HOOKS)
    )


def _enforced(snapshot: Snapshot) -> Iterator[Policy]:
    for _, policies in snapshot.policies_by_tier:
        yield from policies


def _selects_none(snapshot: Snapshot, policy: Policy) -> Iterator[Finding]:
    hosts = snapshot.host_endpoints.values()
    chosen = [host for host in hosts if snapshot.selects(policy.selector, host.as_peer())]
    is_untracked = policy.host_hook is HostHook.UNTRACKED
    useful = [h for h in chosen if not (is_untracked and h.interface == EVERY_INTERFACE)]
    if not hosts or useful:
        return
    field = "doNotTrack" if is_untracked else "preDNAT"
    message = f"{field} is about host endpoints alone, and none of those that are here is selected"
    if chosen:
        message = (
            f"{field} is not about host endpoints of every interface, and no other is selected"
        )
    ref = ObjectRef(*policy.id)
    yield lint_finding(LintCode.HOST_POLICY_UNUSED, message, ref, ("spec", "selector"))


def _one_way(snapshot: Snapshot, policy: Policy) -> Iterator[Finding]:
    """Of what is in no connection nothing knows that it is an answer."""
    rules = (*policy.ingress, *policy.egress)
    if policy.host_hook is not HostHook.UNTRACKED or all(
        r.action is not Action.ALLOW for r in rules
    ):
        return
    for direction in Direction:
        is_spoken_of = any(
            direction in other.types and other.host_hook is HostHook.UNTRACKED
            for other in _enforced(snapshot)
        )
        if not is_spoken_of:
            message = (
                f"what it allows is answered by packets of no connection: allow the answers by a "
                f"doNotTrack policy for {direction}, with their source ports"
            )
            ref = ObjectRef(*policy.id)
            yield lint_finding(LintCode.UNTRACKED_ONE_WAY, message, ref, ("spec", "types"))
