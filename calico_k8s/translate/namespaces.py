"""A namespace's flag and labels to its profiles.

In: a Namespace.  Out: the rules that its pods have by the flag, the labels they inherit, and
findings.  ``open`` lets every source in, ``closed`` only pods of the same namespace.
"""

import sys
from collections.abc import Mapping
from typing import Literal, NamedTuple

import msgspec

from calico_k8s.model.dns_servers import DEFAULT_SERVERS, DnsServers, parse_dns_servers
from calico_k8s.model.names import ProfileId
from calico_k8s.model.resources import Action, EntityMatch, Labels, Origin, Rule, Rules, Tags
from calico_k8s.translate.annotations import allow_egress
from calico_k8s.translate.findings import Code, Finding, ObjectRef, make_finding
from calico_k8s.translate.labels import INGRESS_GIVEN_LABEL, NAMESPACE_PREFIX, inherited_labels
from calico_k8s.translate.objects import Namespace, object_ref
from calico_k8s.translate.tags import namespace_tag

FLAG = "projectcalico-policy"
"""The key of a namespace's flag, as annotation or label, and of a service's label."""

SYSTEM_NAMESPACE = "kube-system"
"""Open unless it carries a flag itself: closing it by a default would cut DNS off."""

Flag = Literal["open", "closed"]

_FLAGS: Mapping[str, Flag] = {"open": "open", "closed": "closed"}

ANNOTATION_KEYS = ("projectcalico.org/policy", "policy")


class TranslateSettings(msgspec.Struct, frozen=True):
    """What the controller can be told about sections 1 and 2 of the contract."""

    annotation_keys: tuple[str, ...] = ANNOTATION_KEYS
    """In order: the first that a pod has holds its policy."""
    default_namespace_policy: Flag = "open"
    auto_host_endpoints: bool = False
    """Whether each node has a host endpoint of its own that allows what no policy speaks of."""
    dns_servers: DnsServers = parse_dns_servers(DEFAULT_SERVERS)
    """Who is trusted to say what a name's addresses are."""


class NamespaceReading(NamedTuple):
    """What a namespace says."""

    flag: Flag
    rules: Rules
    labels: Labels
    tags: Tags
    findings: tuple[Finding, ...] = ()


def namespace_profile(namespace: str) -> ProfileId:
    """The profile with the rules by the namespace's flag."""
    return ProfileId(sys.intern(f"namespace.{namespace}"))


def namespace_labels_profile(namespace: str) -> ProfileId:
    """The profile with what every pod of the namespace inherits, annotated or not."""
    return ProfileId(sys.intern(f"namespace-labels.{namespace}"))


def read_namespace(namespace: Namespace, settings: TranslateSettings) -> NamespaceReading:
    """What a namespace says; one with a flag of another value is closed."""
    name = namespace.metadata.name
    labels = namespace.metadata.labels or {}
    flag, findings = _read_flag(namespace, settings)
    inherited = inherited_labels(NAMESPACE_PREFIX, name, labels)
    if has_flag(namespace):
        inherited[INGRESS_GIVEN_LABEL] = "flag"
    return NamespaceReading(
        flag,
        _rules(name, flag),
        Labels(inherited),
        Tags((namespace_tag(name),)),
        findings,
    )


def unknown_namespace(name: str) -> NamespaceReading:
    """What holds for the pods of a namespace that is not there (yet): closed."""
    labels = Labels(inherited_labels(NAMESPACE_PREFIX, name, {}))
    return NamespaceReading("closed", _rules(name, "closed"), labels, Tags((namespace_tag(name),)))


def has_flag(namespace: Namespace) -> bool:
    """Whether the namespace carries a flag of its own, of whatever value."""
    metadata = namespace.metadata
    return FLAG in (metadata.annotations or {}) or FLAG in (metadata.labels or {})


def _read_flag(
    namespace: Namespace, settings: TranslateSettings
) -> tuple[Flag, tuple[Finding, ...]]:
    ref = object_ref(namespace)
    annotation = (namespace.metadata.annotations or {}).get(FLAG)
    label = (namespace.metadata.labels or {}).get(FLAG)
    findings: list[Finding] = []
    if annotation is not None and label is not None and annotation != label:
        message = (
            f"the annotation {FLAG} says '{annotation}' and the label says '{label}': "
            "the annotation holds; remove one of the two"
        )
        findings.append(
            make_finding(Code.FLAG_CONFLICT, message, ref, ("metadata", "annotations", FLAG))
        )
    field = "labels" if annotation is None else "annotations"
    value = label if annotation is None else annotation
    if value is None:
        is_system = namespace.metadata.name == SYSTEM_NAMESPACE
        return ("open" if is_system else settings.default_namespace_policy), tuple(findings)
    if value in _FLAGS:
        return _FLAGS[value], tuple(findings)
    findings.append(_bad_flag(ref, field, value))
    return "closed", tuple(findings)


def _bad_flag(ref: ObjectRef, field: str, value: str) -> Finding:
    message = f"{FLAG} is '{value}', so the namespace is closed: give 'open' or 'closed'"
    return make_finding(Code.FLAG_VALUE, message, ref, ("metadata", field, FLAG))


def _rules(namespace: str, flag: Flag) -> Rules:
    origin = Origin(kind="Namespace", name=namespace)
    peers = EntityMatch() if flag == "open" else EntityMatch(tag=namespace_tag(namespace))
    by_flag = Rule(Action.ALLOW, Origin(kind="Namespace", name=namespace, index=0), src=peers)
    return Rules((by_flag,), allow_egress(namespace), origin)
