"""Pods and nodes to endpoints and node records.

In: a Pod, or a Node.  Out: the endpoint without the services that expose it (they are other
objects), its profiles with what they hold, and findings.  A pod that is finished, has no address
or shares its node's is no endpoint.
"""

import hashlib
import sys
from collections.abc import Iterable, Mapping

import msgspec

from calico_k8s.errors import InputError
from calico_k8s.model import keys
from calico_k8s.model.addresses import Address, Net, parse_address, parse_net
from calico_k8s.model.names import EndpointId, NamespaceName, NodeName, ProfileId
from calico_k8s.model.resources import (
    NamedPort,
    Node,
    Tags,
    Value,
    WorkloadEndpoint,
)
from calico_k8s.translate import objects
from calico_k8s.translate.annotations import (
    annotation_findings,
    find_annotation,
    translate_annotation,
)
from calico_k8s.translate.findings import Code, Finding, ObjectRef, make_finding
from calico_k8s.translate.labels import endpoint_labels, is_reserved, own_labels
from calico_k8s.translate.namespaces import (
    TranslateSettings,
    namespace_labels_profile,
    namespace_profile,
)
from calico_k8s.translate.tags import label_tag

FINISHED_PHASES = frozenset({"Succeeded", "Failed"})
"""Such a pod's address may already be another's."""

DEFAULT_SERVICE_ACCOUNT = "default"
"""What the API server gives a pod that names none."""

PROFILE_HASH_LENGTH = 16

_NODE_ADDRESS_TYPES = frozenset({"InternalIP", "ExternalIP"})

ProfileItems = Mapping[keys.Key, Value]
"""What a profile holds: its rules, tags and labels, each under its key."""


class Workload(msgspec.Struct, frozen=True):
    """A pod as an endpoint, the services that expose it aside."""

    endpoint: WorkloadEndpoint
    """Its ``profiles`` are empty: :func:`with_services` fills them in."""
    first_profile: ProfileId
    last_profiles: tuple[ProfileId, ...]
    own_profiles: dict[ProfileId, dict[keys.Key, Value]]
    """Those of its profiles that are made of the pod itself, so of nothing else."""
    service_account: str
    pod_labels: dict[str, str]
    """As Kubernetes has them: what services select by."""

    @property
    def profiles(self) -> tuple[ProfileId, ...]:
        """All that it holds, services' aside; none twice."""
        return (self.first_profile, *self.last_profiles)

    @property
    def brings(self) -> tuple[str, tuple[NamedPort, ...]]:
        """What of it policies may name."""
        return self.service_account, self.endpoint.named_ports


class PodReading(msgspec.Struct, frozen=True):
    """What a pod says; ``workload`` None is no endpoint."""

    workload: Workload | None
    findings: tuple[Finding, ...] = ()


def read_pod(pod: objects.Pod, settings: TranslateSettings) -> PodReading:
    """What a pod says."""
    ref = objects.object_ref(pod)
    labels = pod.metadata.labels or {}
    addresses, findings = _addresses(pod, ref)
    annotation = find_annotation(pod.metadata.annotations or {}, settings.annotation_keys)
    own_texts = own_labels(labels)
    if len(own_texts) < len(labels):
        findings += _label_findings(labels, ref)
    else:
        labels = own_texts
    findings += _key_findings(pod, ref, settings)
    own: dict[ProfileId, dict[keys.Key, Value]] = {}
    first = namespace_profile(ref.namespace)
    if annotation is not None:
        findings += annotation_findings(annotation, ref)
        translated = translate_annotation(annotation.text, ref.namespace)
        first = _hashed("annotation", ref.namespace, _policy_text(translated.text))
        own[first] = {keys.ProfileRulesKey(first): translated.rules}
    if not addresses or not is_endpoint(pod):
        return PodReading(None, tuple(findings))
    last: list[ProfileId] = []
    if own_texts:
        tags = _label_tags(own_texts, ref.namespace)
        text = msgspec.json.encode(sorted(own_texts.items())).decode()
        profile = _hashed("pod-labels", ref.namespace, text)
        own[profile] = {keys.ProfileTagsKey(profile): tags}
        last.append(profile)
    account = service_account(pod)
    last.append(namespace_labels_profile(ref.namespace))
    last.append(service_account_profile(ref.namespace, account))
    endpoint = WorkloadEndpoint(
        id=EndpointId(_node_name(pod), NamespaceName(ref.namespace), ref.name),
        addresses=addresses,
        labels=endpoint_labels(
            own_texts, ref.namespace, account, has_annotation=annotation is not None
        ),
        named_ports=named_ports(pod),
        uid=pod.metadata.uid or "",
        created=created.timestamp() if (created := pod.metadata.creation_timestamp) else 0.0,
    )
    return PodReading(Workload(endpoint, first, tuple(last), own, account, labels), tuple(findings))


def with_services(workload: Workload, services: Iterable[ProfileId]) -> WorkloadEndpoint:
    """The endpoint with all its profiles, in the order in which their rules are tried."""
    profiles = (workload.first_profile, *sorted(services), *workload.last_profiles)
    return msgspec.structs.replace(workload.endpoint, profiles=profiles)


def is_endpoint(pod: objects.Pod) -> bool:
    """Whether a pod is one that policy can speak of, once it has an address."""
    spec, status = pod.spec, pod.status
    if spec is None or not spec.node_name or spec.host_network:
        return False
    return status is None or status.phase not in FINISHED_PHASES


def service_account(pod: objects.Pod) -> str:
    """The name of the service account the pod runs as."""
    spec = pod.spec or objects.PodSpec()
    written = spec.service_account_name or spec.service_account
    return sys.intern(written) if written else DEFAULT_SERVICE_ACCOUNT


def service_account_profile(namespace: str, name: str) -> ProfileId:
    """The profile with the labels that a service account gives."""
    return ProfileId(sys.intern(f"serviceaccount.{namespace}.{name}"))


def container_ports(pod: objects.Pod) -> Iterable[objects.ContainerPort]:
    """Every port that the pod's containers and sidecars declare.

    Source of the order: Kubernetes, pkg/api/v1/pod FindPort; the first port of a name is meant.
    """
    if pod.spec is None:
        return
    for container in pod.spec.containers or ():
        yield from container.ports or ()
    for container in pod.spec.init_containers or ():
        if container.restart_policy == "Always":
            yield from container.ports or ()


def named_ports(pod: objects.Pod) -> tuple[NamedPort, ...]:
    """The pod's ports that have a name, sorted; one for each name and protocol."""
    found: dict[tuple[str, int], NamedPort] = {}
    for port in container_ports(pod):
        if port.name:
            protocol = objects.protocol_number(port.protocol)
            named = NamedPort(port.name, protocol, port.container_port)
            found.setdefault((port.name, protocol), named)
    return tuple(sorted(found.values()))


def pod_addresses(pod: objects.Pod) -> tuple[str, ...]:
    """The addresses in the pod's status, as written there."""
    if pod.status is None:
        return ()
    listed = tuple(entry.ip for entry in pod.status.pod_ips or () if entry.ip)
    if listed:
        return listed
    return (pod.status.pod_ip,) if pod.status.pod_ip else ()


def read_node(node: objects.Node) -> tuple[Node, tuple[Finding, ...]]:
    """The record of a node: its addresses are exempt from its own pods' ingress policy."""
    ref = objects.object_ref(node)
    findings: list[Finding] = []
    addresses: dict[Address, None] = {}
    for index, entry in enumerate((node.status.addresses if node.status else None) or ()):
        if entry.type in _NODE_ADDRESS_TYPES:
            path = ("status", "addresses", index, "address")
            address = _parsed(entry.address, ref, path, findings)
            if address is not None:
                addresses[address] = None
    record = Node(
        NodeName(ref.name), tuple(addresses), node.metadata.labels or {}, _pod_cidrs(node)
    )
    return record, tuple(findings)


def _pod_cidrs(node: objects.Node) -> tuple[Net, ...]:
    if node.spec is None:
        return ()
    written = node.spec.pod_cidrs or ((node.spec.pod_cidr,) if node.spec.pod_cidr else ())
    nets = []
    for text in written:
        try:
            nets.append(parse_net(text))
        except InputError:
            continue  # only a fallback for finding workload interfaces: one less is safe
    return tuple(nets)


def _addresses(pod: objects.Pod, ref: ObjectRef) -> tuple[tuple[Address, ...], list[Finding]]:
    """The pod's addresses, canonical, each once; what is none is left out and found."""
    findings: list[Finding] = []
    addresses: dict[Address, None] = {}
    for text in pod_addresses(pod):
        address = _parsed(text, ref, ("status",), findings)
        if address is not None:
            addresses[address] = None
    return tuple(addresses), findings


def _parsed(
    text: str, ref: ObjectRef, path: tuple[str | int, ...], findings: list[Finding]
) -> Address | None:
    try:
        return parse_address(text)
    except InputError as error:
        message = f"{error}, so it is left out"
        findings.append(make_finding(Code.ADDRESS_INVALID, message, ref, path))
        return None


def _label_findings(labels: Mapping[str, str], ref: ObjectRef) -> Iterable[Finding]:
    for key in sorted(labels):
        if is_reserved(key):
            message = f"the label {key} says where a pod comes from and is not a pod's to give: it is left out"
            path = ("metadata", "labels", key)
            yield make_finding(Code.LABEL_RESERVED, message, ref, path)


def _key_findings(
    pod: objects.Pod, ref: ObjectRef, settings: TranslateSettings
) -> Iterable[Finding]:
    annotations = pod.metadata.annotations or {}
    first, *others = [key for key in settings.annotation_keys if key in annotations] or [""]
    for other in others:
        if annotations[other] != annotations[first]:
            message = (
                f"the annotation {other} is not looked at: {first} is there too, and goes first"
            )
            path = ("metadata", "annotations", other)
            yield make_finding(Code.ANNOTATION_KEYS, message, ref, path)


def _label_tags(own: Mapping[str, str], namespace: str) -> Tags:
    return Tags(tuple(sorted(label_tag(namespace, key, value) for key, value in own.items())))


def _policy_text(canonical: str | None) -> str:
    # No canonical text begins with a colon.
    return ":not understood" if canonical is None else canonical


def _hashed(kind: str, namespace: str, text: str) -> ProfileId:
    digest = hashlib.sha256(text.encode()).hexdigest()[:PROFILE_HASH_LENGTH]
    return ProfileId(f"{kind}.{namespace}.{digest}")


def _node_name(pod: objects.Pod) -> NodeName:
    return NodeName(sys.intern((pod.spec.node_name if pod.spec else None) or ""))
