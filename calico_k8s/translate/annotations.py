"""A pod's policy annotation to the rules of a profile.

In: annotations, and the keys to look under.  Out: ingress rules in the order of the statements,
and findings.  ``from`` becomes criteria on the source, ``to`` criteria on the destination, which
is the annotated pod itself.  A text that does not parse becomes a rule that denies everything.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple, assert_never

import grammar
from calico_k8s.model.addresses import Net, Version
from calico_k8s.model.resources import (
    ANYTHING,
    PROTOCOL_NUMBERS,
    Action,
    EntityMatch,
    IcmpMatch,
    Origin,
    PortRange,
    Rule,
    Rules,
)
from calico_k8s.translate.findings import Code, FieldPath, Finding, ObjectRef, severity_of
from calico_k8s.translate.labels import is_reserved
from calico_k8s.translate.selecting import conjunction, in_namespace, operands
from calico_k8s.translate.tags import label_tag, namespace_tag

REMEMBERED_TEXT_MAX = 4096
"""Longer texts are not remembered, so that the memory for remembered ones is bounded."""

_ACTIONS = {grammar.Action.ALLOW: Action.ALLOW, grammar.Action.DENY: Action.DENY}


class AnnotationText(NamedTuple):
    """The policy text of a pod and the key it stands under."""

    key: str
    text: str


class AnnotationProfile(NamedTuple):
    """What a policy text means in a namespace; ``text`` is canonical, None if it cannot be read."""

    text: str | None
    rules: Rules


def allow_egress(namespace: str) -> tuple[Rule, ...]:
    """The outbound rules of every first profile: annotations and flags limit nothing outbound."""
    return (Rule(Action.ALLOW, Origin(kind="Namespace", name=namespace)),)


def find_annotation(annotations: Mapping[str, str], keys: Sequence[str]) -> AnnotationText | None:
    """The first of the keys that is there, whatever it holds; None for a pod without any."""
    for key in keys:
        if key in annotations:
            return AnnotationText(key, annotations[key])
    return None


def translate_annotation(text: str, namespace: str) -> AnnotationProfile:
    """What a policy text on pods of a namespace means; pods of one workload share the answer."""
    if len(text) > REMEMBERED_TEXT_MAX:
        return _translate(text, namespace)
    return _translate_remembered(text, namespace)


def _translate(text: str, namespace: str) -> AnnotationProfile:
    egress = allow_egress(namespace)
    origin = Origin(kind="Pod", namespace=namespace)
    try:
        policy = grammar.parse_policy(text)
    except grammar.PolicyErrors:
        denied = Rules((Rule(Action.DENY, origin),), egress, origin)
        return AnnotationProfile(None, denied)
    rules = tuple(
        translate_statement(statement, namespace, index)
        for index, statement in enumerate(policy.statements)
    )
    return AnnotationProfile(grammar.print_policy(policy), Rules(rules, egress, origin))


_translate_remembered = lru_cache(maxsize=16384)(_translate)


def annotation_findings(annotation: AnnotationText, ref: ObjectRef) -> tuple[Finding, ...]:
    """One finding for each statement that does not parse."""
    try:
        grammar.parse_policy(annotation.text)
    except grammar.PolicyErrors as errors:
        path = ("metadata", "annotations", annotation.key)
        return tuple(_finding(error, ref, path) for error in errors.errors)
    return ()


def translate_statement(statement: grammar.Statement, namespace: str, index: int) -> Rule:
    """The rule of one statement; ``index`` is its place in the text."""
    icmp = None
    if statement.icmp_type is not None:
        icmp = IcmpMatch(statement.icmp_type, statement.icmp_code)
    protocol = statement.protocol
    return Rule(
        action=_ACTIONS[statement.action],
        origin=Origin(kind="Pod", namespace=namespace, index=index),
        ip_version=_ip_version(protocol),
        protocol=None if protocol is None else PROTOCOL_NUMBERS[protocol],
        icmp=icmp,
        src=_entity(statement.src, namespace),
        dst=_entity(statement.dst, namespace),
    )


def _ip_version(protocol: grammar.Protocol | None) -> Version | None:
    if protocol is grammar.Protocol.ICMP:
        return 4
    return 6 if protocol is grammar.Protocol.ICMPV6 else None


def _entity(matches: tuple[grammar.Match, ...], namespace: str) -> EntityMatch:
    """The criteria of one clause; labels and selectors look in the clause's namespace, or ours."""
    if not matches:
        return ANYTHING
    peers: list[grammar.Selector] = []
    scope: str | None = None
    nets: tuple[Net, ...] = ()
    ports: tuple[grammar.PortRange | str, ...] = ()
    for match in matches:
        match match:
            case grammar.NamespaceMatch(name):
                scope = name
            case grammar.LabelMatch(key, value):
                peers.append(grammar.Equal(key, value))
            case grammar.SelectorMatch(selector):
                peers.append(selector)
            case grammar.CidrMatch(cidrs):
                nets = tuple(Net(cidr) for cidr in cidrs)
            case grammar.PortsMatch(found):
                ports = found
            case _:
                assert_never(match)
    pods = ANYTHING if scope is None and not peers else _pods(peers, scope or namespace)
    return EntityMatch(
        tag=pods.tag,
        selector=pods.selector,
        nets=nets,
        ports=tuple(PortRange(*port) for port in ports if not isinstance(port, str)),
        named_ports=tuple(port for port in ports if isinstance(port, str)),
    )


def _pods(peers: list[grammar.Selector], namespace: str) -> EntityMatch:
    """Pods of a namespace that all of the selectors are true of: a tag where one says it all.

    A label of ours is on the endpoint, not among the pod's own that become tags.
    """
    parts = [part for peer in peers for part in operands(peer)]
    match parts:
        case []:
            return EntityMatch(tag=namespace_tag(namespace))
        case [grammar.Equal(key, value)] if not is_reserved(key):
            return EntityMatch(tag=label_tag(namespace, key, value))
        case _:
            return EntityMatch(selector=conjunction([in_namespace(namespace), *parts]))


def _finding(error: grammar.GrammarError, ref: ObjectRef, path: FieldPath) -> Finding:
    hint = f"; {error.hint}" if error.hint else ""
    return Finding(
        code=Code.ANNOTATION_SYNTAX,
        severity=severity_of(Code.ANNOTATION_SYNTAX),
        message=f"the policy does not parse, so nothing reaches the pod: {error.message}{hint}",
        object=ref,
        path=path,
        span=(error.span.start, error.span.end),
        excerpt=str(error),
    )
