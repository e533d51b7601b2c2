"""Kubernetes objects with only the fields that are used, and their decoding.

In: an object as JSON or YAML has it, a mapping; or bytes, by ``msgspec`` and the types here.  Out:
frozen values, or findings that name the object and the field.  What the fields mean is not known
here.  As lenient as Kubernetes: unknown fields are ignored, null is absent.
"""

import re
import sys
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import msgspec

from calico_k8s.model.resources import PROTOCOL_NUMBERS, Protocol
from calico_k8s.translate.findings import Code, FieldPath, Finding, ObjectRef, make_finding

_Type = TypeVar("_Type")

NAME_MAX = 253  # Kubernetes IsDNS1123Subdomain
NAMESPACE_MAX = 63  # Kubernetes IsDNS1123Label

DEFAULT_NAMESPACE = "default"
"""Where an object without a namespace goes, as with kubectl."""

Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
TargetPort = Annotated[int, msgspec.Meta(ge=0, le=65535)]
"""0 is absent: Go programs write it so."""
PortProtocol = Literal["TCP", "UDP", "SCTP", ""]
"""Empty is TCP."""


class OwnerReference(msgspec.Struct, frozen=True, rename="camel"):
    """Which object made this one."""

    kind: str = ""
    name: str = ""


class Metadata(msgspec.Struct, frozen=True, rename="camel"):
    """What every object carries."""

    name: str
    namespace: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    uid: str | None = None
    creation_timestamp: datetime | None = None
    generation: int | None = None
    owner_references: tuple[OwnerReference, ...] | None = None


class ContainerPort(msgspec.Struct, frozen=True, rename="camel"):
    """A port that a container says it listens on."""

    container_port: Port
    name: str | None = None
    protocol: PortProtocol | None = None


class Container(msgspec.Struct, frozen=True, rename="camel"):
    """A container; one of a pod's init containers that is restarted always is a sidecar."""

    ports: tuple[ContainerPort, ...] | None = None
    restart_policy: str | None = None


class PodSpec(msgspec.Struct, frozen=True, rename="camel"):
    """What a pod is to be."""

    node_name: str | None = None
    host_network: bool | None = None
    service_account_name: str | None = None
    service_account: str | None = None
    """The field's first name, which manifests may still use.  Source: Kubernetes, core/v1 PodSpec."""
    containers: tuple[Container, ...] | None = None
    init_containers: tuple[Container, ...] | None = None


class PodIp(msgspec.Struct, frozen=True):
    """One address of a pod."""

    ip: str | None = None


class PodStatus(msgspec.Struct, frozen=True):
    """What a pod has become."""

    phase: str | None = None
    pod_ip: str | None = msgspec.field(default=None, name="podIP")
    pod_ips: tuple[PodIp, ...] | None = msgspec.field(default=None, name="podIPs")


class Pod(msgspec.Struct, frozen=True):
    """``v1/Pod``."""

    metadata: Metadata
    spec: PodSpec | None = None
    status: PodStatus | None = None


class Namespace(msgspec.Struct, frozen=True):
    """``v1/Namespace``."""

    metadata: Metadata


class ServiceAccount(msgspec.Struct, frozen=True):
    """``v1/ServiceAccount``."""

    metadata: Metadata


class ServicePort(msgspec.Struct, frozen=True, rename="camel"):
    """A port of a service, and the port of its pods that it leads to."""

    port: Port
    name: str | None = None
    protocol: PortProtocol | None = None
    target_port: TargetPort | str | None = None


class ServiceSpec(msgspec.Struct, frozen=True, rename="camel"):
    """What a service is to be."""

    type: str | None = None
    selector: dict[str, str] | None = None
    ports: tuple[ServicePort, ...] | None = None
    cluster_ip: str | None = msgspec.field(default=None, name="clusterIP")
    cluster_ips: tuple[str, ...] | None = msgspec.field(default=None, name="clusterIPs")
    ip_families: tuple[str, ...] | None = None
    ip_family_policy: str | None = None
    external_traffic_policy: str | None = None


class Service(msgspec.Struct, frozen=True):
    """``v1/Service``."""

    metadata: Metadata
    spec: ServiceSpec | None = None


class SliceEndpoint(msgspec.Struct, frozen=True):
    """Addresses of one endpoint of a service."""

    addresses: tuple[str, ...] | None = None


class SlicePort(msgspec.Struct, frozen=True):
    """A port of a service's endpoints, by the name of the service's port."""

    name: str | None = None
    port: Port | None = None
    protocol: PortProtocol | None = None


class EndpointSlice(msgspec.Struct, frozen=True, rename="camel"):
    """``discovery.k8s.io/v1/EndpointSlice``: where a service leads."""

    metadata: Metadata
    endpoints: tuple[SliceEndpoint, ...] | None = None
    address_type: str | None = None
    ports: tuple[SlicePort, ...] | None = None


class NodeSpec(msgspec.Struct, frozen=True):
    """What a node is given."""

    pod_cidr: str | None = msgspec.field(default=None, name="podCIDR")
    pod_cidrs: tuple[str, ...] | None = msgspec.field(default=None, name="podCIDRs")


class NodeAddress(msgspec.Struct, frozen=True):
    """An address or name of a node."""

    type: str
    address: str


class NodeStatus(msgspec.Struct, frozen=True):
    """What a node has."""

    addresses: tuple[NodeAddress, ...] | None = None


class Node(msgspec.Struct, frozen=True):
    """``v1/Node``."""

    metadata: Metadata
    spec: NodeSpec | None = None
    status: NodeStatus | None = None


# Specs of policies are read piece by piece (:mod:`.reading`): what is not understood of one closes
# what that piece speaks of, and no more.  Any: what JSON can say.


class _Written(msgspec.Struct, frozen=True):
    metadata: Metadata
    spec: Any = None


class NetworkPolicy(_Written, frozen=True):
    """``networking.k8s.io/v1/NetworkPolicy``."""


class ClusterNetworkPolicy(_Written, frozen=True):
    """``policy.networking.k8s.io/v1alpha2/ClusterNetworkPolicy``."""


class CalicoTier(_Written, frozen=True):
    """``projectcalico.org/v3/Tier``."""


class GlobalNetworkPolicy(_Written, frozen=True):
    """``projectcalico.org/v3/GlobalNetworkPolicy``."""


class CalicoNetworkPolicy(_Written, frozen=True):
    """``projectcalico.org/v3/NetworkPolicy``."""


class GlobalNetworkSet(_Written, frozen=True):
    """``projectcalico.org/v3/GlobalNetworkSet``."""


class CalicoNetworkSet(_Written, frozen=True):
    """``projectcalico.org/v3/NetworkSet``."""


class CalicoProfile(_Written, frozen=True):
    """``projectcalico.org/v3/Profile``."""


class CalicoHostEndpoint(_Written, frozen=True):
    """``projectcalico.org/v3/HostEndpoint``."""


class StagedGlobalNetworkPolicy(_Written, frozen=True):
    """``projectcalico.org/v3/StagedGlobalNetworkPolicy``."""


class StagedNetworkPolicy(_Written, frozen=True):
    """``projectcalico.org/v3/StagedNetworkPolicy``."""


class StagedKubernetesNetworkPolicy(_Written, frozen=True):
    """``projectcalico.org/v3/StagedKubernetesNetworkPolicy``."""


PolicyObject = (
    NetworkPolicy
    | ClusterNetworkPolicy
    | CalicoTier
    | GlobalNetworkPolicy
    | CalicoNetworkPolicy
    | GlobalNetworkSet
    | CalicoNetworkSet
    | CalicoProfile
    | CalicoHostEndpoint
    | StagedGlobalNetworkPolicy
    | StagedNetworkPolicy
    | StagedKubernetesNetworkPolicy
)
"""Objects that are nothing but policy."""

ClusterObject = Pod | Namespace | ServiceAccount | Service | EndpointSlice | Node
"""Objects that are there without any policy."""

KubeObject = ClusterObject | PolicyObject


class KindInfo(NamedTuple):
    """How objects of a kind are decoded."""

    group: str
    type: type[Any]  # Any: one of the types of KubeObject
    is_namespaced: bool
    written: str = ""
    """The kind as it is written, where ours is another because two groups have one of that name."""


_CALICO = "projectcalico.org"

KINDS: Mapping[str, KindInfo] = {
    "Pod": KindInfo("", Pod, is_namespaced=True),
    "Namespace": KindInfo("", Namespace, is_namespaced=False),
    "ServiceAccount": KindInfo("", ServiceAccount, is_namespaced=True),
    "Service": KindInfo("", Service, is_namespaced=True),
    "EndpointSlice": KindInfo("discovery.k8s.io", EndpointSlice, is_namespaced=True),
    "Node": KindInfo("", Node, is_namespaced=False),
    "NetworkPolicy": KindInfo("networking.k8s.io", NetworkPolicy, is_namespaced=True),
    "ClusterNetworkPolicy": KindInfo(
        "policy.networking.k8s.io", ClusterNetworkPolicy, is_namespaced=False
    ),
    "Tier": KindInfo(_CALICO, CalicoTier, is_namespaced=False),
    "GlobalNetworkPolicy": KindInfo(_CALICO, GlobalNetworkPolicy, is_namespaced=False),
    "CalicoNetworkPolicy": KindInfo(
        _CALICO, CalicoNetworkPolicy, is_namespaced=True, written="NetworkPolicy"
    ),
    "GlobalNetworkSet": KindInfo(_CALICO, GlobalNetworkSet, is_namespaced=False),
    "NetworkSet": KindInfo(_CALICO, CalicoNetworkSet, is_namespaced=True),
    "Profile": KindInfo(_CALICO, CalicoProfile, is_namespaced=False),
    "HostEndpoint": KindInfo(_CALICO, CalicoHostEndpoint, is_namespaced=False),
    "StagedGlobalNetworkPolicy": KindInfo(_CALICO, StagedGlobalNetworkPolicy, is_namespaced=False),
    "StagedNetworkPolicy": KindInfo(_CALICO, StagedNetworkPolicy, is_namespaced=True),
    "StagedKubernetesNetworkPolicy": KindInfo(
        _CALICO, StagedKubernetesNetworkPolicy, is_namespaced=True
    ),
}
"""By the name that a kind has here: in findings, in origins and keys of policies."""

_KIND_BY_TYPE = {info.type: kind for kind, info in KINDS.items()}
_KIND_BY_WRITTEN = {(info.group, info.written or kind): kind for kind, info in KINDS.items()}

_NAMESPACE = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
_NAME = re.compile(rf"{_NAMESPACE.pattern}(?:\.{_NAMESPACE.pattern})*")
_TYPE_WORDS = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "a mapping",
    "null": "nothing",
    "datetime": "a time",
}
_UNQUOTED = frozenset({"int", "float", "bool"})
"""What YAML takes a word without quotes for."""

_ERROR_PATH = re.compile(r" - at `(?:key in )?\$([^`]*)`$")
_PATH_STEP = re.compile(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]")


class Decoded(NamedTuple):
    """An object, None if it cannot be used, and what was wrong with it."""

    ref: ObjectRef
    object: KubeObject | None
    findings: tuple[Finding, ...] = ()


def protocol_number(name: PortProtocol | None) -> Protocol:
    """The protocol of a container's or service's port; TCP where none is written."""
    return PROTOCOL_NUMBERS[(name or "TCP").lower()]


def api_group(api_version: str) -> str:
    """The group of ``group/version``; empty for the core group's ``v1``."""
    group, slash, _version = api_version.partition("/")
    return group if slash else ""


def known_kind(api_version: str, kind: str) -> str | None:
    """What a kind is called here; None for one that is not used, as one of another group."""
    return _KIND_BY_WRITTEN.get((api_group(api_version), kind))


def object_ref(value: KubeObject) -> ObjectRef:
    """The name of an object; its namespace is one text for all objects there."""
    kind = _KIND_BY_TYPE[type(value)]
    namespace = ""
    if KINDS[kind].is_namespaced:
        namespace = sys.intern(value.metadata.namespace or DEFAULT_NAMESPACE)
    return ObjectRef(kind, namespace, value.metadata.name)


def decode_object(kind: str, document: object) -> Decoded:
    """The object of one of ``KINDS`` that a document stands for; never raises.

    Names are held to Kubernetes' rules: keys of the datastore are made of them.
    """
    info = KINDS[kind]
    ref, value, findings = decode_as(info.type, kind, document, is_namespaced=info.is_namespaced)
    return Decoded(ref, value, findings)


def decode_as(
    type_: type[_Type], kind: str, document: object, *, is_namespaced: bool
) -> tuple[ObjectRef, _Type | None, tuple[Finding, ...]]:
    """A document as any type that has metadata, None with findings where it is not one."""
    ref = describe(kind, document)
    if is_namespaced:
        ref = ref._replace(namespace=ref.namespace or DEFAULT_NAMESPACE)
    try:
        value = msgspec.convert(document, type=type_)
    except msgspec.ValidationError as error:
        return ref, None, (_invalid(ref, document, str(error)),)
    problem = _name_problem(ref, is_namespaced=is_namespaced)
    if problem is not None:
        return ref, None, (problem,)
    return ref, value, ()


def describe(kind: str, document: object) -> ObjectRef:
    """The name of a document as far as it can be told, ``?`` where it has none."""
    metadata = document.get("metadata") if isinstance(document, Mapping) else None
    if not isinstance(metadata, Mapping):
        return ObjectRef(kind, "", "?")
    name, namespace = metadata.get("name"), metadata.get("namespace")
    return ObjectRef(
        kind,
        namespace if isinstance(namespace, str) else "",
        name if isinstance(name, str) and name else "?",
    )


def _name_problem(ref: ObjectRef, *, is_namespaced: bool) -> Finding | None:
    is_label = ref.kind == "Namespace"
    if not _is_name(ref.name, is_label=is_label):
        return _bad_name(ref, "name", ref.name)
    if is_namespaced and not _is_name(ref.namespace, is_label=True):
        return _bad_name(ref, "namespace", ref.namespace)
    return None


def _is_name(text: str, *, is_label: bool) -> bool:
    if is_label:
        return len(text) <= NAMESPACE_MAX and _NAMESPACE.fullmatch(text) is not None
    return len(text) <= NAME_MAX and _NAME.fullmatch(text) is not None


def _bad_name(ref: ObjectRef, field: str, text: str) -> Finding:
    message = (
        f"{ref}: metadata.{field} '{text}' is no name: give lower-case letters, digits and "
        "dashes, a letter or digit at both ends"
    )
    return make_finding(Code.OBJECT_INVALID, message, ref, ("metadata", field))


def _invalid(ref: ObjectRef, document: object, error: str) -> Finding:
    """A message of msgspec's as ours: object, field, what was expected."""
    path, problem = conversion_problem(document, error)
    where = field_text(path) or "the object"
    return make_finding(Code.OBJECT_INVALID, f"{ref}: {where} {problem}", ref, path)


def conversion_problem(document: object, error: str) -> tuple[FieldPath, str]:
    """Which field of a document msgspec means, and what is wrong with it, to follow its name."""
    found = _ERROR_PATH.search(error)
    problem = error[: found.start()] if found else error
    path = _real_path(document, found[1]) if found else ()
    if missing := re.fullmatch(r"Object missing required field `(\w+)`", problem):
        return (*path, missing[1]), "is missing"
    if unknown := re.fullmatch(r"Object contains unknown field `(.*)`", problem):
        return (*path, unknown[1]), "is no field that is known here"
    problem = _reworded(problem)
    return path, f"{problem}: TCP, UDP or SCTP" if path[-1:] == ("protocol",) else problem


def field_text(path: FieldPath) -> str:
    """A path as people write it: ``spec.ingress[0].from``."""
    field = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return field.lstrip(".")


def _reworded(problem: str) -> str:
    """What msgspec says of a value, in the words of somebody who writes YAML."""
    if found := re.fullmatch(r"Expected `([^`]+)`, got `([^`]+)`", problem):
        types = [name for name in found[1].split(" | ") if name != "null"]
        wanted = " or ".join(_TYPE_WORDS.get(name, name) for name in types)
        advice = ": put it in quotes" if "str" in types and found[2] in _UNQUOTED else ""
        return f"should be {wanted}, not {_TYPE_WORDS.get(found[2], found[2])}{advice}"
    if found := re.fullmatch(r"Expected `int` ([<>])= (\d+)", problem):
        return f"should be {'at most' if found[1] == '<' else 'at least'} {found[2]}"
    if found := re.fullmatch(r"Invalid enum value '(.*)'", problem):
        return f"has the value '{found[1]}', which is none of its choices"
    return f"is wrong: {problem}".replace("`", "'")


def _real_path(document: object, text: str) -> FieldPath:
    """The path of a message, with the keys that msgspec leaves out (``[...]``) found again."""
    path: list[str | int] = []
    value = document
    for found in _PATH_STEP.finditer(text):
        name, index = found[1], found[2]
        step: str | int = name or (index if index == "..." else int(index))
        if index == "..." and isinstance(value, Mapping):
            # The values of every map we decode are strings.
            step = next((key for key, item in value.items() if not isinstance(item, str)), "")
        path.append(step)
        value = _child(value, step)
    return tuple(path)


def _child(value: object, step: str | int) -> object:
    if isinstance(value, Mapping):
        return value.get(step)
    if isinstance(value, list | tuple) and isinstance(step, int) and step < len(value):
        return value[step]
    return None
