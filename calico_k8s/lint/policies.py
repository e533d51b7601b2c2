"""Rules about policies of every kind: what they mean is clear, but is it what was meant?

In: a view of a cluster.  Out: findings.  Each rule is sure of what it says, or silent: whom a policy
names may be in manifests that are not here, so an empty choice is told only where others to
choose from are there.
"""

from collections.abc import Iterator
from itertools import chain, combinations
from typing import Any

import grammar
from calico_k8s.lint.problems import LintCode
from calico_k8s.lint.view import View, lint_finding
from calico_k8s.model.names import EndpointId, PolicyId, SelectorText, TierName
from calico_k8s.model.resources import (
    PROTOCOL_NUMBERS,
    Action,
    Direction,
    EntityMatch,
    Policy,
    Rule,
    WorkloadEndpoint,
)
from calico_k8s.model.staging import enforced_kind
from calico_k8s.policy.match import in_ranges
from calico_k8s.policy.snapshot import selector
from calico_k8s.policy.staging import rehearsed
from calico_k8s.policy.verdict import applies
from calico_k8s.translate.findings import FieldPath, Finding, ObjectRef
from calico_k8s.translate.labels import NAMESPACE_LABEL, ORCHESTRATOR_LABEL
from calico_k8s.translate.objects import NetworkPolicy, StagedKubernetesNetworkPolicy, object_ref

OfKubernetes = NetworkPolicy | StagedKubernetesNetworkPolicy

Document = Any
"""What JSON can say."""

DNS_PORTS = (53, 5353)
"""53, and what some clusters' DNS pods listen on instead."""
_PLACE_LABELS = frozenset({NAMESPACE_LABEL, ORCHESTRATOR_LABEL})


def policy_findings(view: View) -> Iterator[Finding]:
    """Everything about policies that only the whole cluster, or a habit of people, shows."""
    either = list(_either_findings(view))
    told = {(finding.object, finding.path[:3]) for finding in either}
    yield from either
    for finding in _findings(view):
        is_same = finding.code == LintCode.PEER_MATCHES_NOTHING
        if not (is_same and (finding.object, finding.path[:3]) in told):
            yield finding


def _either_findings(view: View) -> Iterator[Finding]:
    for value in view.cluster.policies:
        if isinstance(value, OfKubernetes) and isinstance(value.spec, dict):
            yield from _two_entries(view, object_ref(value), value.spec)


def _findings(view: View) -> Iterator[Finding]:
    choices = _Choices(view)
    policies = sorted(view.snapshot.policies.values(), key=lambda policy: policy.id)
    for policy in policies:
        ref = ObjectRef(*policy.id)
        endpoints = choices.of(policy)
        yield from _selects_nothing(choices, policy, ref)
        yield from _catches_hosts(policy, ref)
        for direction in policy.types:
            yield from _peers_match_nothing(choices, policy, ref, direction)
            yield from _names_nobody_has(policy, ref, direction, endpoints)
        yield from _shadowed(view, policy, ref, endpoints)
    for value in view.cluster.policies:
        if isinstance(value, OfKubernetes) and isinstance(value.spec, dict):
            yield from _ignored_direction(object_ref(value), value.spec)
            yield from _port_without_protocol(object_ref(value), value.spec)
    dns = [*_without_dns(choices, [policy for policy in policies if policy.staged is None])]
    yield from dict.fromkeys([*dns, *_without_dns(choices, rehearsed(policies))])
    yield from _equal_priorities(choices, policies)


class _Choices:
    """Whom each policy selects, found once; of a namespace's policies, in that namespace."""

    def __init__(self, view: View) -> None:
        self.view = view
        self._endpoints: dict[str, list[WorkloadEndpoint]] = {}
        for endpoint in view.snapshot.endpoints.values():
            self._endpoints.setdefault(endpoint.id.namespace, []).append(endpoint)
        self._chosen: dict[tuple[TierName, PolicyId], tuple[WorkloadEndpoint, ...]] = {}

    def has_pods(self, namespace: str) -> bool:
        """Whether a namespace has pods to choose from."""
        return namespace in self._endpoints

    def of(self, policy: Policy) -> tuple[WorkloadEndpoint, ...]:
        """The pods that a policy selects."""
        key = (policy.tier, policy.id)
        if key not in self._chosen:
            self._chosen[key] = tuple(self.matching(policy.selector))
        return self._chosen[key]

    def matching(self, text: SelectorText) -> Iterator[WorkloadEndpoint]:
        """The pods that a selector is true of."""
        namespace = _namespace(text)
        among = (
            self._endpoints.values() if namespace is None else [self._endpoints.get(namespace, [])]
        )
        is_true_of = grammar.compile_selector(selector(text))
        for endpoint in chain.from_iterable(among):
            if is_true_of(self.view.snapshot.labels_of(endpoint)):
                yield endpoint


def _rules(policy: Policy, direction: Direction) -> tuple[Rule, ...]:
    return policy.ingress if direction is Direction.INGRESS else policy.egress


def _rule_path(rule: Rule, direction: Direction) -> FieldPath:
    return ("spec", str(direction), rule.origin.index)


def _operands(text: SelectorText) -> tuple[grammar.Selector, ...]:
    parsed = selector(text)
    return parsed.operands if isinstance(parsed, grammar.And) else (parsed,)


def _own_terms(text: SelectorText) -> list[grammar.Selector]:
    """What a selector asks beside the place: labels of pods themselves."""
    return [part for part in _operands(text) if not grammar.label_names(part) <= _PLACE_LABELS]


def _namespace(text: SelectorText) -> str | None:
    """The one namespace that a selector is about."""
    found = (
        part.value
        for part in _operands(text)
        if isinstance(part, grammar.Equal) and part.key == NAMESPACE_LABEL
    )
    return next(found, None)


def _selects_nothing(choices: _Choices, policy: Policy, ref: ObjectRef) -> Iterator[Finding]:
    namespace = _namespace(policy.selector)
    if choices.of(policy) or namespace is None or not _own_terms(policy.selector):
        return
    if choices.has_pods(namespace):
        is_kubernetes = enforced_kind(ref.kind) == "NetworkPolicy"
        path = ("spec", "podSelector" if is_kubernetes else "selector")
        message = f"no pod of namespace {namespace} matches, so the policy says nothing"
        yield lint_finding(LintCode.POLICY_SELECTS_NOTHING, message, ref, path)


def _catches_hosts(policy: Policy, ref: ObjectRef) -> Iterator[Finding]:
    """A selector that is true of no labels at all is true of host endpoints, which have none."""
    parts = _operands(policy.selector)
    is_about_namespaces = any(
        name.startswith("pcns.") for part in parts for name in grammar.label_names(part)
    )
    is_cluster_wide = enforced_kind(ref.kind) == "GlobalNetworkPolicy"
    if is_cluster_wide and is_about_namespaces and grammar.evaluate(selector(policy.selector), {}):
        message = (
            "a negative namespaceSelector is true of host endpoints too, which are in no "
            "namespace: add has(projectcalico.org/namespace) to the selector"
        )
        path = ("spec", "namespaceSelector")
        yield lint_finding(LintCode.NAMESPACE_SELECTOR_NEGATIVE, message, ref, path)


def _peers_match_nothing(
    choices: _Choices, policy: Policy, ref: ObjectRef, direction: Direction
) -> Iterator[Finding]:
    netsets = choices.view.snapshot.netsets.values()
    for rule in _rules(policy, direction):
        peer = rule.src if direction is Direction.INGRESS else rule.dst
        namespace = _namespace(peer.selector) if peer.selector is not None else None
        if peer.selector is None or namespace is None or not _own_terms(peer.selector):
            continue
        if next(choices.matching(peer.selector), None) is not None:
            continue
        parsed = selector(peer.selector)
        if any(s.labels is not None and grammar.evaluate(parsed, s.labels) for s in netsets):
            continue
        if choices.has_pods(namespace):
            wanted = " && ".join(map(grammar.print_selector, _own_terms(peer.selector)))
            message = f"no pod of namespace {namespace} has labels with {wanted}"
            path = _rule_path(rule, direction)
            yield lint_finding(LintCode.PEER_MATCHES_NOTHING, message, ref, path)


def _names_nobody_has(
    policy: Policy,
    ref: ObjectRef,
    direction: Direction,
    endpoints: tuple[WorkloadEndpoint, ...],
) -> Iterator[Finding]:
    """Names of the selected pods' own ports; of peers' ports nothing is sure."""
    if direction is not Direction.INGRESS or not endpoints:
        return
    is_of_any = policy.id.kind == "ClusterNetworkPolicy"  # there a name is of any protocol
    for rule in policy.ingress:
        for name in rule.dst.named_ports:
            has_it = any(
                port.name == name and (is_of_any or port.protocol == rule.protocol)
                for endpoint in endpoints
                for port in endpoint.named_ports
            )
            if not has_it:
                message = f"none of the policy's pods has a port named '{name}' of that protocol"
                path = _rule_path(rule, direction)
                yield lint_finding(LintCode.PORT_NAME_UNKNOWN, message, ref, path)


def _shadowed(
    view: View, policy: Policy, ref: ObjectRef, endpoints: tuple[WorkloadEndpoint, ...]
) -> Iterator[Finding]:
    """In each of its directions, for each of its pods, an earlier policy decides everything.

    NetworkPolicies have no order of their own.
    """
    if ref.kind == "NetworkPolicy":
        return
    before = _before(view, policy)
    blockers: set[PolicyId] = set()
    for direction in policy.types:
        for endpoint in endpoints:
            found = (
                other.id
                for other in before
                if _decides_all(_rules(other, direction))
                and applies(view.snapshot, other, endpoint, direction)
            )
            first = next(found, None)
            if first is None:
                return
            blockers.add(first)
    if blockers:
        names = ", ".join(sorted(blocker.path for blocker in blockers))
        message = f"nothing ever comes to the policy: {names}, before it, decides everything"
        yield lint_finding(LintCode.POLICY_SHADOWED, message, ref, ("spec",))


def _before(view: View, policy: Policy) -> tuple[Policy, ...]:
    for tier, policies in view.snapshot.policies_by_tier:
        if tier.name == policy.tier and policy in policies:
            return policies[: policies.index(policy)]
    return ()


def _decides_all(rules: tuple[Rule, ...]) -> bool:
    return any(
        rule.action is not Action.LOG and rule == Rule(rule.action, rule.origin) for rule in rules
    )


def _ignored_direction(ref: ObjectRef, spec: Document) -> Iterator[Finding]:
    types = _list(spec.get("policyTypes"))
    for word, field in (("Ingress", "ingress"), ("Egress", "egress")):
        written = spec.get(field)
        if written is None or word in types:
            continue
        if types and written:
            message = f"policyTypes has no {word}, so these rules say nothing"
        elif not types and field == "egress" and not written:
            message = "an empty egress without policyTypes says nothing of egress: add policyTypes"
        else:
            continue
        yield lint_finding(LintCode.POLICY_DIRECTION_IGNORED, message, ref, ("spec", field))


def _port_without_protocol(ref: ObjectRef, spec: Document) -> Iterator[Finding]:
    """A port 53 without a protocol is TCP; a name server is asked by UDP."""
    for field in ("ingress", "egress"):
        for index, rule in enumerate(_list(spec.get(field))):
            ports = [port for port in _list(_get(rule, "ports")) if isinstance(port, dict)]
            by_udp = any(_get(p, "protocol") == "UDP" and p.get("port") == 53 for p in ports)
            for place, port in enumerate(ports):
                if port.get("port") == 53 and not port.get("protocol") and not by_udp:
                    message = (
                        "port 53 without a protocol is TCP alone: name servers are asked by UDP"
                    )
                    path = ("spec", field, index, "ports", place)
                    yield lint_finding(LintCode.PORT_PROTOCOL_MISSING, message, ref, path)


def _two_entries(view: View, ref: ObjectRef, spec: Document) -> Iterator[Finding]:
    """Two entries where one was meant: the pods are only where the other entry's namespaces are."""
    for field, peers in (("ingress", "from"), ("egress", "to")):
        for index, rule in enumerate(_list(spec.get(field))):
            entries = [entry for entry in _list(_get(rule, peers)) if isinstance(entry, dict)]
            if [sorted(entry) for entry in entries] not in (
                [["namespaceSelector"], ["podSelector"]],
                [["podSelector"], ["namespaceSelector"]],
            ):
                continue
            wanted = _match_labels(next(e["podSelector"] for e in entries if "podSelector" in e))
            spaces = _match_labels(
                next(e["namespaceSelector"] for e in entries if "namespaceSelector" in e)
            )
            in_spaces = {f"pcns.{key}": value for key, value in spaces.items()}
            carriers = [
                labels for labels in view.labels.values() if wanted.items() <= labels.items()
            ]
            is_here = any(labels[NAMESPACE_LABEL] == ref.namespace for labels in carriers)
            is_there = any(in_spaces.items() <= labels.items() for labels in carriers)
            if wanted and spaces and is_there and not is_here:
                message = (
                    "two entries, so either may hold; pods with these labels are only in these "
                    "namespaces: for both to hold, put both selectors into one entry"
                )
                path = ("spec", field, index, peers)
                yield lint_finding(LintCode.PEERS_EITHER, message, ref, path)


def _match_labels(selected: Document) -> dict[str, str]:
    """The labels of a selector that asks for nothing else."""
    labels = _get(selected, "matchLabels")
    return labels if isinstance(labels, dict) and len(selected) == 1 else {}


def _without_dns(choices: _Choices, policies: list[Policy]) -> Iterator[Finding]:
    """Pods that may reach others by name, if only they could ask for the name."""
    told: set[PolicyId] = set()
    speaking_for: dict[EndpointId, list[Policy]] = {}
    for policy in policies:
        if Direction.EGRESS in policy.types and policy.tier in choices.view.snapshot.tiers:
            for endpoint in choices.of(policy):
                speaking_for.setdefault(endpoint.id, []).append(policy)
    for pod, speaking in speaking_for.items():
        allowing = [
            (policy, rule)
            for policy in speaking
            for rule in policy.egress
            if rule.action in (Action.ALLOW, Action.PASS)
        ]
        if not allowing or any(_lets_ask(rule) for _, rule in allowing):
            continue
        first, rule = allowing[0]
        if first.id in told or all(_is_addresses(each.dst) for _, each in allowing):
            continue
        told.add(first.id)
        message = (
            f"{pod.pod} may reach others, and no policy lets it ask a name server: "
            "allow UDP and TCP port 53 too"
        )
        path = _rule_path(rule, Direction.EGRESS)
        yield lint_finding(LintCode.EGRESS_WITHOUT_DNS, message, ObjectRef(*first.id), path)


def _lets_ask(rule: Rule) -> bool:
    if rule.protocol not in (None, PROTOCOL_NUMBERS["udp"]) or rule.dst.named_ports:
        return rule.protocol == PROTOCOL_NUMBERS["udp"] and bool(rule.dst.named_ports)
    return not rule.dst.ports or any(in_ranges(rule.dst.ports, port) for port in DNS_PORTS)


def _is_addresses(entity: EntityMatch) -> bool:
    return bool(entity.nets) and entity.selector is None


def _equal_priorities(choices: _Choices, policies: list[Policy]) -> Iterator[Finding]:
    ours = [policy for policy in policies if policy.id.kind == "ClusterNetworkPolicy"]
    for one, other in combinations(ours, 2):
        if (one.tier, one.order) != (other.tier, other.order):
            continue
        both = {*one.types} & {*other.types}
        if both and {e.id for e in choices.of(one)} & {e.id for e in choices.of(other)}:
            message = f"{one.id.path} has the same priority and pods in common: which goes first is nobody's choice"
            path = ("spec", "priority")
            yield lint_finding(LintCode.PRIORITY_EQUAL, message, ObjectRef(*other.id), path)


def _list(value: Document) -> list[Document]:
    return value if isinstance(value, list) else []


def _get(value: Document, key: str) -> Document:
    return value.get(key) if isinstance(value, dict) else None
