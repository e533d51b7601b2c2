"""ClusterNetworkPolicy v1alpha2 to policies of the tiers ``kube-admin`` and ``kube-baseline``.

In: a ClusterNetworkPolicy.  Out: a :class:`~.reading.Reading`.  Its priority is its order,
and it applies only in directions that it has rules for.  One rule of it becomes one for each peer
and protocol, with the same place.

Baseline speaks only where nobody did.  Under a policy of an earlier tier that is so by the order
of tiers; for the ingress of an annotated pod, or of one in a namespace with a flag of its own, by
a criterion of each rule on its own end: not a pod with the label :data:`~.labels.INGRESS_GIVEN_LABEL`.

Source: kubernetes-sigs/network-policy-api, apis/v1alpha2/clusternetworkpolicy_types.go.
"""

from collections.abc import Iterator, Mapping

import msgspec

import grammar
from calico_k8s.model.domains import WILDCARD, DomainPattern
from calico_k8s.model.names import NetsetName, PolicyId, SelectorText, TierName
from calico_k8s.model.resources import (
    ANYTHING,
    PROTOCOL_NUMBERS,
    Action,
    Direction,
    EntityMatch,
    Policy,
    PortRange,
    Rule,
)
from calico_k8s.translate.findings import FieldPath
from calico_k8s.translate.labels import INGRESS_GIVEN_LABEL
from calico_k8s.translate.network_policies import PORT_MAX, PortMatch, port_name
from calico_k8s.translate.objects import ClusterNetworkPolicy, object_ref
from calico_k8s.translate.reading import (
    Document,
    Misread,
    Reader,
    Reading,
    action_word,
    convert,
    read_domains,
    read_nets,
)
from calico_k8s.translate.selecting import (
    IS_POD,
    LabelSelector,
    conjunction,
    label_selector,
    namespace_terms,
)
from calico_k8s.translate.tiers import ADMIN_TIER, BASELINE_TIER

PRIORITY_MAX = 1000
UNSPOKEN = EntityMatch(
    not_selector=SelectorText(grammar.print_selector(grammar.Has(INGRESS_GIVEN_LABEL)))
)
"""The pods that Baseline speaks of inbound."""

_SPEC = ("tier", "priority", "subject", "ingress", "egress")
_TIERS: Mapping[str, TierName] = {"Admin": ADMIN_TIER, "Baseline": BASELINE_TIER}
_ACTIONS = {"accept": Action.ALLOW, "deny": Action.DENY, "pass": Action.PASS}
_PORT_PROTOCOLS = ("tcp", "udp", "sctp")


class NamespacedPods(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Pods of some namespaces: of all where none are named."""

    pod_selector: LabelSelector
    namespace_selector: LabelSelector = LabelSelector()


class Subject(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whom a policy speaks of."""

    namespaces: LabelSelector | None = None
    pods: NamespacedPods | None = None


class ClusterPeer(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """One of ``from`` or ``to``."""

    namespaces: LabelSelector | None = None
    pods: NamespacedPods | None = None
    networks: tuple[str, ...] | None = None
    nodes: LabelSelector | None = None
    domain_names: tuple[str, ...] | None = None


class Span(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A range of ports, both ends included."""

    start: int
    end: int


class DestinationPort(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A port or a range."""

    number: int | None = None
    range: Span | None = None


class WithPort(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """What is said of a protocol."""

    destination_port: DestinationPort | None = None


class ProtocolEntry(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """One of ``protocols``."""

    tcp: WithPort | None = None
    udp: WithPort | None = None
    sctp: WithPort | None = None
    destination_named_port: str | None = None


class ClusterRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of ``ingress`` or ``egress``."""

    action: str
    name: str | None = None
    from_: tuple[ClusterPeer, ...] | None = msgspec.field(default=None, name="from")
    to: tuple[ClusterPeer, ...] | None = None
    protocols: tuple[ProtocolEntry, ...] | None = None


def read_cluster_network_policy(value: ClusterNetworkPolicy) -> Reading:
    """What a ClusterNetworkPolicy says; without a tier, subject or priority it says nothing."""
    reader = Reader(object_ref(value))
    spec = value.spec
    try:
        if not isinstance(spec, dict):
            raise Misread(("spec",), "is missing")
        tier, order = _tier(spec), _priority(spec)
        selector = _subject(spec)
        _check_actions(spec)
    except Misread as error:
        reader.tell_unusable(error, "the policy is not enforced")
        return reader.nothing()
    read = _RuleReader(reader, is_baseline=tier == BASELINE_TIER)
    ingress = reader.rules(spec.get("ingress"), ("spec", "ingress"), _action_of, read.ingress)
    egress = reader.rules(spec.get("egress"), ("spec", "egress"), _action_of, read.egress)
    if not reader.known_fields(spec, _SPEC):
        ingress, egress = reader.closed(ingress), reader.closed(egress)
    written = ((Direction.INGRESS, spec.get("ingress")), (Direction.EGRESS, spec.get("egress")))
    policy = Policy(
        id=PolicyId(*reader.ref),
        tier=tier,
        selector=selector,
        types=tuple(direction for direction, documents in written if documents),
        order=order,
        ingress=ingress,
        egress=egress,
    )
    return reader.policy(policy, node_selectors=read.node_selectors)


def nodes_netset(selector: str) -> NetsetName:
    """The network set of the addresses of the nodes that a selector is true of."""
    return NetsetName(f"nodes/{selector}")


def _tier(spec: Document) -> TierName:
    word = spec.get("tier")
    tier = _TIERS.get(word) if isinstance(word, str) else None
    if tier is None:
        raise Misread(("spec", "tier"), f"'{word}' is neither Admin nor Baseline")
    return tier


def _priority(spec: Document) -> float:
    priority = convert(spec.get("priority"), int, ("spec", "priority"))
    if not 0 <= priority <= PRIORITY_MAX:
        raise Misread(("spec", "priority"), f"{priority} is not 0 to {PRIORITY_MAX}")
    return float(priority)


def _subject(spec: Document) -> SelectorText:
    path: FieldPath = ("spec", "subject")
    subject = convert(spec.get("subject") or {}, Subject, path)
    if (subject.namespaces is None) is (subject.pods is None):
        raise Misread(path, "is not one of namespaces and pods")
    return conjunction([IS_POD, *_pod_terms(subject.namespaces, subject.pods, path)])


def _pod_terms(
    namespaces: LabelSelector | None, pods: NamespacedPods | None, path: FieldPath
) -> Iterator[grammar.Selector]:
    """What must hold of pods; exactly one of the two is given."""
    if namespaces is not None:
        yield from namespace_terms(namespaces, (*path, "namespaces"))
    elif pods is not None:
        yield from namespace_terms(pods.namespace_selector, (*path, "pods", "namespaceSelector"))
        yield from label_selector(pods.pod_selector, (*path, "pods", "podSelector"))


def _check_actions(spec: Document) -> None:
    for direction in ("ingress", "egress"):
        documents = spec.get(direction)
        for index, document in enumerate(documents if isinstance(documents, list) else ()):
            if action_word(document) not in _ACTIONS:
                path = ("spec", direction, index, "action")
                word = document.get("action") if isinstance(document, dict) else None
                raise Misread(path, f"'{word}' is none of Accept, Deny and Pass")


def _action_of(document: Document) -> str:
    return "allow" if action_word(document) == "accept" else action_word(document)


class _RuleReader:
    """Reads the rules of one policy."""

    def __init__(self, reader: Reader, *, is_baseline: bool) -> None:
        self._reader = reader
        self._own = UNSPOKEN if is_baseline else ANYTHING
        self.node_selectors: set[str] = set()

    def ingress(self, document: Document, path: FieldPath, index: int) -> Iterator[Rule]:
        rule = self._rule(document, path, "from", "to")
        for place, peer in enumerate(rule.from_ or ()):
            if peer.networks is not None or peer.nodes is not None or peer.domain_names is not None:
                raise Misread((*path, "from", place), "is neither namespaces nor pods")
            src = self._peer(peer, (*path, "from", place))
            for port in _ports(rule, path):
                dst = _with_ports(self._own, port)
                yield self._made(rule, index, port, src, dst)

    def egress(self, document: Document, path: FieldPath, index: int) -> Iterator[Rule]:
        rule = self._rule(document, path, "to", "from")
        for place, peer in enumerate(rule.to or ()):
            dst = self._peer(peer, (*path, "to", place))
            if dst.domains and rule.action.lower() != "accept":
                at = (*path, "to", place, "domainNames")
                raise Misread(at, "stands in rules with the action Accept only")
            is_pods = peer.namespaces is not None or peer.pods is not None
            for port in _ports(rule, path):
                if port.names and not is_pods:
                    raise Misread((*path, "to", place), "has no ports with names: only pods do")
                yield self._made(rule, index, port, ANYTHING, _with_ports(dst, port))

    def _rule(self, document: Document, path: FieldPath, peers: str, others: str) -> ClusterRule:
        rule = convert(document, ClusterRule, path)
        if others in document:
            raise Misread((*path, others), "belongs to rules of the other direction")
        if not document.get(peers):
            raise Misread((*path, peers), "names no peer")
        return rule

    def _made(
        self, rule: ClusterRule, index: int, port: PortMatch, src: EntityMatch, dst: EntityMatch
    ) -> Rule:
        return Rule(
            _ACTIONS[rule.action.lower()],
            self._reader.origin(index, rule.name or ""),
            protocol=port.protocol,
            src=src,
            dst=dst,
        )

    def _peer(self, peer: ClusterPeer, path: FieldPath) -> EntityMatch:
        given = [name for name in peer.__struct_fields__ if getattr(peer, name) is not None]
        if len(given) != 1:
            raise Misread(path, "is not one known kind of peer")
        if peer.domain_names is not None:
            return EntityMatch(domains=_domains(peer.domain_names, (*path, "domainNames")))
        if peer.networks is not None:
            if not peer.networks:
                raise Misread((*path, "networks"), "names no network")
            return EntityMatch(nets=read_nets(peer.networks, (*path, "networks")))
        if peer.nodes is not None:
            selector = conjunction(label_selector(peer.nodes, (*path, "nodes")))
            self.node_selectors.add(selector)
            return EntityMatch(netset=nodes_netset(selector))
        terms = _pod_terms(peer.namespaces, peer.pods, path)
        return EntityMatch(selector=conjunction([IS_POD, *terms]))


def _domains(written: tuple[str, ...], path: FieldPath) -> tuple[DomainPattern, ...]:
    """Domain names; a wildcard stands first here."""
    if not written:
        raise Misread(path, "names no domain")
    domains = read_domains(written, path)
    for index, domain in enumerate(domains):
        if WILDCARD in domain[1:]:
            raise Misread((*path, index), f"'{domain}' has a wildcard that is not its first label")
    return domains


def _with_ports(entity: EntityMatch, port: PortMatch) -> EntityMatch:
    return msgspec.structs.replace(entity, ports=port.ports, named_ports=port.names)


def _ports(rule: ClusterRule, path: FieldPath) -> Iterator[PortMatch]:
    """What the protocols of a rule ask for; a named port may be of any protocol that has ports."""
    if not rule.protocols:
        yield PortMatch()
        return
    for index, entry in enumerate(rule.protocols):
        at: FieldPath = (*path, "protocols", index)
        given = [name for name in entry.__struct_fields__ if getattr(entry, name) is not None]
        if len(given) != 1:
            raise Misread(at, "is not one known protocol or named port")
        if entry.destination_named_port is not None:
            name = port_name(entry.destination_named_port, (*at, "destinationNamedPort"))
            for protocol in _PORT_PROTOCOLS:
                yield PortMatch(PROTOCOL_NUMBERS[protocol], names=(name,))
        else:
            (protocol,) = given
            wanted: WithPort = getattr(entry, protocol)
            ports = _range(wanted.destination_port, (*at, protocol, "destinationPort"))
            yield PortMatch(PROTOCOL_NUMBERS[protocol], ports)


def _range(port: DestinationPort | None, path: FieldPath) -> tuple[PortRange, ...]:
    if port is None:
        return ()
    if (port.number is None) is (port.range is None):
        raise Misread(path, "is not one of number and range")
    low, high = (
        (port.range.start, port.range.end) if port.range else (port.number or 0, port.number or 0)
    )
    if not 1 <= low <= high <= PORT_MAX:
        raise Misread(path, f"{low} to {high} are no ports: give 1 to {PORT_MAX}")
    return (PortRange(low, high),)
