"""Whom a policy speaks of: the endpoints it selects, and the peers its rules resolve to.

In: a snapshot and the name of the object that holds the policy: a Pod with an annotation, a
Namespace, an open Service, or a policy object.  Out: an :class:`Affected`, and its lines.  What
other policies say of the same endpoints is not looked at here: that is a verdict's.
"""

import difflib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from calico_k8s.errors import InputError
from calico_k8s.model.addresses import Net
from calico_k8s.model.domains import DomainPattern
from calico_k8s.model.names import NetsetName
from calico_k8s.model.resources import (
    PROTOCOL_NAMES,
    Direction,
    EntityMatch,
    HostHook,
    Origin,
    Rule,
    Rules,
    WorkloadEndpoint,
)
from calico_k8s.policy.match import address_matches
from calico_k8s.policy.snapshot import Snapshot, selector
from calico_k8s.query.describe import HOOK_WORDS, describe_netset, describe_rule
from grammar import evaluate

NAMES_MAX = 6
"""Pods that a line of text names; the JSON form has all."""

_CLUSTER_WIDE = frozenset({"Namespace"})
_WITHOUT_POLICY = {
    "Pod": "a Pod has one where it carries a policy annotation",
    "Service": "a Service has one where it is labelled projectcalico-policy=open",
}


class ObjectName(NamedTuple):
    """The object that was asked for; ``namespace`` is empty for cluster-wide kinds."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return "/".join(part for part in self if part)


class SelectedEndpoint(msgspec.Struct, frozen=True):
    """An endpoint that the policy speaks of."""

    pod: str
    """``HostEndpoint/name`` for a host endpoint, here and wherever pods are named."""
    node: str
    addresses: tuple[str, ...]


class Peers(msgspec.Struct, frozen=True):
    """The other end of a rule.

    ``everyone`` is true where the rule names nobody; ``pods`` are then those that are left where it
    names exceptions, else none.  ``nets`` are all addresses in them but those in ``except_nets``,
    pods or not; both are empty where a rule asks for labels too, which only pods carry.
    """

    everyone: bool
    pods: tuple[str, ...]
    nets: tuple[Net, ...]
    except_nets: tuple[Net, ...]
    netsets: tuple[str, ...]
    domains: tuple[DomainPattern, ...] = ()
    """Whose addresses each node learns."""


class ResolvedPort(msgspec.Struct, frozen=True):
    """What the name of a port stands for on one pod."""

    name: str
    pod: str
    port: int
    protocol: str


class AffectedRule(msgspec.Struct, frozen=True):
    """A rule of the policy; ``number`` is its place as it was written, as in ``explain``.

    One that names several peers or protocols is several here, of the same number.
    """

    direction: Direction
    number: int
    rule: str
    endpoints: tuple[str, ...]
    """Those of the selected endpoints that the rule itself can match."""
    peers: Peers
    named_ports: tuple[ResolvedPort, ...]


class Affected(msgspec.Struct, frozen=True):
    """``affected -o json``."""

    policy: str
    endpoints: tuple[SelectedEndpoint, ...]
    rules: tuple[AffectedRule, ...]
    host_hook: HostHook = HostHook.LOCAL
    """Where it is asked, of host endpoints; pods are asked about at the first alone."""


class _Holder(NamedTuple):
    """A policy as it was found: whom it selects, and its rules in order for each direction."""

    endpoints: tuple[WorkloadEndpoint, ...]
    rules: tuple[tuple[Direction, tuple[Rule, ...]], ...]
    host_hook: HostHook = HostHook.LOCAL


def parse_object_name(text: str) -> ObjectName:
    """``Kind/namespace/name``, or ``Kind/name`` for cluster-wide kinds.

    Raises:
        InputError: not of that form.
    """
    parts = text.split("/")
    if not all(parts) or len(parts) not in (2, 3):
        raise InputError(f"policy '{text}': give KIND/NAMESPACE/NAME, or KIND/NAME if cluster-wide")
    kind = next((k for k in ("Pod", "Namespace", "Service") if k.lower() == parts[0].lower()), None)
    name = ObjectName(kind or parts[0], parts[1] if len(parts) == 3 else "", parts[-1])
    if kind is not None and (kind in _CLUSTER_WIDE) is bool(name.namespace):
        form = f"{kind}/NAME" if kind in _CLUSTER_WIDE else f"{kind}/NAMESPACE/NAME"
        raise InputError(f"policy '{text}': give {form}")
    return name


def affected(snapshot: Snapshot, name: ObjectName) -> Affected:
    """Whom the policy of an object speaks of.

    Raises:
        InputError: no such object, or it holds no policy.
    """
    holder = _find(snapshot, name)
    endpoints = sorted(holder.endpoints, key=endpoint_name)
    return Affected(
        policy=str(name),
        endpoints=tuple(
            SelectedEndpoint(endpoint_name(e), e.id.node, e.addresses) for e in endpoints
        ),
        rules=tuple(
            _affected_rule(snapshot, rule, direction, endpoints)
            for direction, rules in holder.rules
            for rule in rules
        ),
        host_hook=holder.host_hook,
    )


def affected_lines(found: Affected) -> Iterator[str]:
    """The same for people."""
    yield f"{found.policy} selects {_count(len(found.endpoints), 'endpoint')}"
    for endpoint in found.endpoints:
        addresses = ", ".join(endpoint.addresses) or "no expectedIPs"
        yield f"  {endpoint.pod} on {endpoint.node}, {addresses}"
    if found.host_hook is not HostHook.LOCAL:
        yield f"it is asked {HOOK_WORDS[found.host_hook]}"
    for rule in found.rules:
        yield f"{rule.direction} rule {rule.number}: {rule.rule}"
        if len(rule.endpoints) < len(found.endpoints):
            yield f"  only for {_names(rule.endpoints)}"
        preposition = "from" if rule.direction is Direction.INGRESS else "to"
        yield f"  {preposition} {_peers(rule.peers)}"
        for port in rule.named_ports:
            yield f"  port {port.name} of {port.pod} is {port.port}/{port.protocol}"
    if not found.rules:
        yield "no rule"


def endpoint_name(endpoint: WorkloadEndpoint) -> str:
    """``namespace/pod``, or ``HostEndpoint/name``."""
    return f"HostEndpoint/{endpoint.id.name}" if endpoint.id.is_host else endpoint.id.pod


def _find(snapshot: Snapshot, name: ObjectName) -> _Holder:
    if name.kind == "Pod":
        return _find_annotation(snapshot, name)
    if name.kind in ("Namespace", "Service"):
        return _find_profile(snapshot, name)
    return _find_policy(snapshot, name)


def _find_annotation(snapshot: Snapshot, name: ObjectName) -> _Holder:
    pods = {endpoint.id.pod: endpoint for endpoint in snapshot.endpoints.values()}
    endpoint = pods.get(f"{name.namespace}/{name.name}")
    if endpoint is None:
        raise _unknown(name, (f"Pod/{pod}" for pod in pods))
    for rules in (snapshot.rules_of(profile) for profile in endpoint.profiles):
        if rules.origin is not None and rules.origin.kind == "Pod":
            return _Holder((endpoint,), _inbound(rules))
    raise InputError(
        f"{name} carries no policy annotation: Namespace/{name.namespace} speaks for it"
    )


def _find_profile(snapshot: Snapshot, name: ObjectName) -> _Holder:
    origins = {
        profile: rules.origin for profile, rules in snapshot.profile_rules.items() if rules.origin
    }
    wanted = Origin(*name)
    profile = next((each for each, origin in origins.items() if origin == wanted), None)
    if profile is None:
        of_kind = (origin for origin in origins.values() if origin.kind == name.kind)
        raise _unknown(name, (str(ObjectName(o.kind, o.namespace, o.name)) for o in of_kind))
    endpoints = (e for e in snapshot.endpoints.values() if profile in e.profiles)
    return _Holder(tuple(endpoints), _inbound(snapshot.rules_of(profile)))


def _find_policy(snapshot: Snapshot, name: ObjectName) -> _Holder:
    by_name = {each.id.path: each for each in snapshot.policies.values()}
    matching = (each for each in by_name if each.lower() == str(name).lower())
    policy = by_name.get(str(name)) or by_name.get(next(matching, ""))
    if policy is None:
        raise _unknown(name, by_name)
    is_of_pods = policy.is_asked_at(HostHook.LOCAL)
    endpoints = (
        endpoint
        for endpoint in snapshot.everybody.values()
        if (is_of_pods or endpoint.id.is_host) and snapshot.selects(policy.selector, endpoint)
    )
    rules = {Direction.INGRESS: policy.ingress, Direction.EGRESS: policy.egress}
    speaking = tuple((way, rules[way]) for way in policy.types)
    return _Holder(tuple(endpoints), speaking, policy.host_hook)


def _inbound(rules: Rules) -> tuple[tuple[Direction, tuple[Rule, ...]], ...]:
    # Annotations, flags and services say nothing of outbound traffic.
    return ((Direction.INGRESS, rules.ingress),)


def _unknown(name: ObjectName, known: Iterable[str]) -> InputError:
    near = difflib.get_close_matches(str(name), list(known), n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    why = f": {_WITHOUT_POLICY[name.kind]}" if name.kind in _WITHOUT_POLICY else ""
    return InputError(f"no policy of {name} is known{why}{hint}")


def _affected_rule(
    snapshot: Snapshot,
    rule: Rule,
    direction: Direction,
    selected: list[WorkloadEndpoint],
) -> AffectedRule:
    is_ingress = direction is Direction.INGRESS
    own, other = (rule.dst, rule.src) if is_ingress else (rule.src, rule.dst)
    # A host endpoint is an interface, whatever the address that a packet there has.
    endpoints = [e for e in selected if e.id.is_host or _is_matched(snapshot, own, e)]
    peers = _find_peers(snapshot, other)
    # A port's name is the destination's: of the endpoints themselves, or of their peers.
    others = (e for e in snapshot.everybody.values() if endpoint_name(e) in peers.pods)
    holders = endpoints if is_ingress else sorted(others, key=endpoint_name)
    return AffectedRule(
        direction=direction,
        number=max(rule.origin.index, 0) + 1,  # a whole list that is not understood has no place
        rule=describe_rule(rule),
        endpoints=tuple(map(endpoint_name, endpoints)),
        peers=peers,
        named_ports=tuple(_named_ports(rule, holders)),
    )


def _find_peers(snapshot: Snapshot, entity: EntityMatch) -> Peers:
    has_owner = any((entity.tag, entity.selector, entity.netset))
    is_named = has_owner or bool(entity.nets or entity.domains)
    is_limited = any((entity.not_tag, entity.not_selector, entity.not_netset, entity.not_nets))
    pods = [
        endpoint_name(e) for e in snapshot.everybody.values() if _is_matched(snapshot, entity, e)
    ]
    return Peers(
        everyone=not is_named,
        pods=tuple(sorted(pods)) if is_named or is_limited else (),
        nets=() if has_owner else entity.nets,
        except_nets=() if has_owner else entity.not_nets,
        netsets=tuple(sorted(_netsets(snapshot, entity))),
        domains=entity.domains,
    )


def _netsets(snapshot: Snapshot, entity: EntityMatch) -> Iterator[str]:
    for netset in snapshot.netsets.values():
        is_named = entity.netset == netset.name
        is_selected = (
            entity.selector is not None
            and netset.labels is not None
            and evaluate(selector(entity.selector), netset.labels)
        )
        if is_named or is_selected:
            yield netset.name


def _is_matched(snapshot: Snapshot, entity: EntityMatch, endpoint: WorkloadEndpoint) -> bool:
    """Whether an address that is the endpoint's own meets the criteria."""
    owners = snapshot.peer_by_address
    return any(
        owners[address].id == endpoint.id and address_matches(snapshot, entity, address)
        for address in endpoint.addresses
    )


def _named_ports(rule: Rule, holders: list[WorkloadEndpoint]) -> Iterator[ResolvedPort]:
    for endpoint in holders if rule.dst.named_ports else ():
        for port in endpoint.named_ports:
            if port.name in rule.dst.named_ports and rule.protocol in (None, port.protocol):
                protocol = PROTOCOL_NAMES[port.protocol]
                yield ResolvedPort(port.name, endpoint_name(endpoint), port.port, protocol)


def _peers(peers: Peers) -> str:
    words = ["every address" if peers.everyone else _names(peers.pods, "no pod")]
    if peers.domains:
        words = [f"domains {', '.join(peers.domains)}"]
    if peers.nets:
        words.append(f"cidr {','.join(peers.nets)}")
    derived = {name: describe_netset(NetsetName(name)) for name in peers.netsets}
    words += [text for text in derived.values() if not text.startswith("netset ")]
    if plain := [name for name, text in derived.items() if text.startswith("netset ")]:
        words.append(f"network sets {', '.join(plain)}")
    if peers.except_nets:
        words.append(f"not cidr {','.join(peers.except_nets)}")
    return ", ".join(words)


def _names(pods: tuple[str, ...], nobody: str = "no endpoint") -> str:
    if not pods:
        return nobody
    more = f" and {len(pods) - NAMES_MAX} more" if len(pods) > NAMES_MAX else ""
    return ", ".join(pods[:NAMES_MAX]) + more


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
