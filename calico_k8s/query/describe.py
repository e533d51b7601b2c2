"""Rules, matches and origins in words, as ``explain``, ``affected`` and ``get`` show them."""

from collections.abc import Iterator

import grammar
from calico_k8s.model.denial import Deciding
from calico_k8s.model.names import EndpointId, NetsetName, SelectorText
from calico_k8s.model.resources import (
    PROTOCOL_NAMES,
    EntityMatch,
    HostHook,
    Origin,
    PortRange,
    Protocol,
    Rule,
)
from calico_k8s.policy.match import Flow
from calico_k8s.policy.snapshot import selector
from calico_k8s.render.notes import Unasked
from calico_k8s.translate.labels import NAMESPACE_LABEL, NAMESPACE_PREFIX, SERVICE_ACCOUNT_PREFIX
from calico_k8s.translate.selecting import IS_POD

_KINDS = {"Pod": "annotation of pod", "Tier": "tier"}


REASONS = {
    "self": "a pod always reaches itself",
    "own-node": "a node always reaches its own pods",
    "host-action": "a pod's traffic to its own node, by the setting pod-to-host-action",
    "no-endpoint": "neither end is a pod: nothing of ours judges it",
}
"""Of a verdict that no policy was asked for."""
HOOK_WORDS = {
    HostHook.LOCAL: "of the node's own traffic",
    HostHook.FORWARDED: "of what passes through (applyOnForward)",
    HostHook.PRE_DNAT: "before DNAT (preDNAT)",
    HostHook.UNTRACKED: "before any connection (doNotTrack)",
}
"""Where a host endpoint is asked, as its policy's fields call it."""
_UNASKED = {
    Unasked.UNKNOWN_SRC: "it came from a workload, and its source is no known pod's address there",
    Unasked.UNKNOWN_DST: "it goes to a workload, and its destination is no known pod's address",
    Unasked.STOLEN: "its source is the address of a pod that did not send it",
    Unasked.HOST: REASONS["host-action"],
}


def describe_cause(cause: Origin | Unasked, endpoint: EndpointId | None = None) -> str:
    """What decided a packet's verdict: a rule, the end of a list of rules, or none of them."""
    if isinstance(cause, Unasked):
        return _UNASKED[cause]
    origin = describe_origin(cause, endpoint)
    return f"end of {origin}" if cause.index < 0 else origin


def deciding_of(origin: Origin, endpoint: EndpointId | None) -> Deciding:
    """The same as values."""
    return Deciding(
        kind=origin.kind,
        namespace=origin.namespace,
        name=_name(origin, endpoint),
        rule=origin.index + 1 if origin.index >= 0 else None,
    )


def _name(origin: Origin, endpoint: EndpointId | None) -> str:
    is_own = origin.kind == "Pod" and not origin.name
    return endpoint.name if is_own and endpoint is not None else origin.name


def describe_origin(origin: Origin, endpoint: EndpointId | None = None) -> str:
    """The object a rule was written in, and its place there, counted from 1."""
    name = _name(origin, endpoint)
    where = "/".join(part for part in (origin.namespace, name) if part)
    words = f"{_KINDS.get(origin.kind, origin.kind)} {where}".strip()
    if origin.kind == "Profile" and not name:  # the end of those of whoever has none that speaks
        is_host = endpoint is not None and endpoint.is_host
        words = f"profiles of HostEndpoint {endpoint.name}" if is_host and endpoint else "profiles"
    if origin.index < 0:
        return words
    title = f" '{origin.title}'" if origin.title else ""
    return f"{words}, rule {origin.index + 1}{title}"


def describe_rule(rule: Rule) -> str:
    """A rule in the order of an annotation's statement."""
    words = [str(rule.action)]
    if rule.ip_version is not None:
        words.append(f"IPv{rule.ip_version}")
    if rule.protocol is not None:
        words.append(_protocol(rule.protocol))
    if rule.not_protocol is not None:
        words.append(f"not {_protocol(rule.not_protocol)}")
    for negation, icmp in (("", rule.icmp), ("not ", rule.not_icmp)):
        if icmp is not None:
            code = "" if icmp.code is None else f" code {icmp.code}"
            words.append(f"{negation}type {icmp.type}{code}")
    for preposition, entity in (("from", rule.src), ("to", rule.dst)):
        matches = list(_matches(entity))
        if matches:
            words += [preposition, *matches]
    return " ".join(words)


def describe_selector(text: SelectorText) -> str:
    """A selector by what its parts speak of: pods of a namespace, namespaces, service accounts."""
    parsed = selector(text)
    parts = parsed.operands if isinstance(parsed, grammar.And) else (parsed,)
    words: list[str] = []
    own: list[grammar.Selector] = []
    for part in parts:
        names = grammar.label_names(part)
        printed = grammar.print_selector(part)
        if part == IS_POD:
            continue
        if isinstance(part, grammar.Equal) and part.key == NAMESPACE_LABEL:
            words.append(f"namespace {part.value}")
        elif names and all(name.startswith(NAMESPACE_PREFIX) for name in names):
            words.append(f"namespaces ({printed.replace(NAMESPACE_PREFIX, '')})")
        elif names and all(name.startswith(SERVICE_ACCOUNT_PREFIX) for name in names):
            words.append(f"service accounts ({printed.replace(SERVICE_ACCOUNT_PREFIX, '')})")
        else:
            own.append(part)
    if own:
        whole = own[0] if len(own) == 1 else grammar.And(tuple(own))
        words.append(f"selector ({grammar.print_selector(whole)})")
    return " ".join(words or ["every pod"])


def _matches(entity: EntityMatch) -> Iterator[str]:
    if entity.tag:
        yield f"tag {entity.tag}"
    if entity.not_tag:
        yield f"not tag {entity.not_tag}"
    if entity.selector:
        yield describe_selector(entity.selector)
    if entity.not_selector:
        yield f"not selector ({entity.not_selector})"
    if entity.netset:
        yield describe_netset(entity.netset)
    if entity.not_netset:
        yield f"not {describe_netset(entity.not_netset)}"
    criteria = (
        ("domain", ",".join(entity.domains), ""),
        ("cidr", ",".join(entity.nets), ",".join(entity.not_nets)),
        (
            "port",
            _ports(entity.ports, entity.named_ports),
            _ports(entity.not_ports, entity.not_named_ports),
        ),
    )
    for kind, wanted, unwanted in criteria:
        if wanted:
            yield f"{kind} {wanted}"
        if unwanted:
            yield f"not {kind} {unwanted}"


def describe_netset(name: NetsetName) -> str:
    """A network set by what it follows from: a service's pods, nodes, or nothing but itself."""
    kind, _, rest = name.partition("/")
    if kind == "service" and "/" in rest:  # docs/design/policy-semantics.md, section 8
        return f"service {'/'.join(rest.split('/')[:2])}"
    if kind == "nodes" and rest:
        return f"nodes ({rest})"
    return f"netset {name}"


def _ports(ports: tuple[PortRange, ...], names: tuple[str, ...]) -> str:
    numbers = [str(low) if low == high else f"{low}:{high}" for low, high in ports]
    return ",".join([*numbers, *names])


def describe_service(flow: Flow) -> str:
    """The protocol of a flow, and its port where it has one."""
    protocol = describe_protocol(flow.protocol)
    return protocol if flow.icmp else f"{protocol} {flow.dst_port}"


def describe_protocol(protocol: Protocol) -> str:
    """The name of a protocol, or its number."""
    return PROTOCOL_NAMES.get(protocol, str(protocol))


def _protocol(protocol: Protocol) -> str:
    return PROTOCOL_NAMES.get(protocol, f"protocol {protocol}")
