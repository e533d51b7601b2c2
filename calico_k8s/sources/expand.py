"""Manifests to a cluster: what the API server and the controllers would make of them.

In: objects as they were written, and how many nodes and which address families to assume.  Out:
decoded objects, pods made of workloads, each with a node and addresses; where each object was
written; what was wrong and what was passed over.  The same input gives the same cluster in every
command, whatever the order of the files.

Added as Kubernetes would: namespaces that are used but not given, their name's label, the default
namespace, the endpoint slices of services with a selector, and nodes where there are none.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import msgspec

from calico_k8s.errors import InputError
from calico_k8s.model.addresses import Version
from calico_k8s.sources.assign import Assigned, Unassigned, assign, written_families
from calico_k8s.sources.documents import Manifest, Path, Place
from calico_k8s.sources.replicas import Workload, decode_workload, make_pods, makes_pods
from calico_k8s.sources.slices import made_slices
from calico_k8s.translate.findings import Code, Finding, ObjectRef, make_finding
from calico_k8s.translate.objects import (
    EndpointSlice,
    KubeObject,
    Metadata,
    Namespace,
    Node,
    Pod,
    PolicyObject,
    Service,
    ServiceAccount,
    decode_object,
    describe,
    known_kind,
    object_ref,
)
from calico_k8s.translate.services import SERVICE_NAME_LABEL
from calico_k8s.translate.workloads import is_endpoint, pod_addresses

NODES_DEFAULT = 2
NAMESPACE_NAME_LABEL = "kubernetes.io/metadata.name"
"""Every namespace carries its name under it.  Source: KEP-2161."""


class ExpandOptions(msgspec.Struct, frozen=True):
    """What to assume where the manifests say nothing."""

    nodes: int | None = None
    """At least so many nodes; None: those that are given, two if no Node is."""
    families: tuple[Version, ...] | None = None
    """None: IPv4, and IPv6 where some object carries an IPv6 address."""
    idle: bool = False
    """Whether a workload without pods (no replicas, suspended) gets one: for checking templates."""


class Written(NamedTuple):
    """Where an object was written: itself, or the workload that makes it."""

    ref: ObjectRef
    """Of the object that a person wrote."""
    manifest: Manifest
    prefix: Path
    """What leads to the object's metadata and spec inside the manifest."""

    def place(self, path: Path) -> Place:
        """Where a field of the object was written."""
        return self.manifest.place((*self.prefix, *path))

    def text_place(self, path: Path, offset: int) -> Place:
        """Where a character of a text in the object was written."""
        return self.manifest.text_place((*self.prefix, *path), offset)


class PlacedFinding(NamedTuple):
    """A finding about an object that is not in the cluster, or there twice, and where it is."""

    finding: Finding
    written: Written


class ClusterObjects(msgspec.Struct, frozen=True, eq=False):
    """A cluster, as lab, matrix, can, lint and standalone take it."""

    nodes: tuple[Node, ...]
    namespaces: tuple[Namespace, ...]
    accounts: tuple[ServiceAccount, ...]
    services: tuple[Service, ...]
    slices: tuple[EndpointSlice, ...]
    pods: tuple[Pod, ...]
    written: Mapping[ObjectRef, Written]
    """Not of objects that were added here."""
    policies: tuple[PolicyObject, ...] = ()
    findings: tuple[PlacedFinding, ...] = ()
    """Objects that could not be decoded, or that are there twice."""
    others: tuple[Manifest, ...] = ()
    """Objects of kinds that make no part of the cluster."""
    notes: tuple[str, ...] = ()

    def objects(self) -> Iterator[KubeObject]:
        """All objects, those first that others refer to."""
        yield from self.nodes
        yield from self.namespaces
        yield from self.accounts
        yield from self.services
        yield from self.slices
        yield from self.policies
        yield from self.pods


def expand(
    manifests: Iterable[Manifest],
    options: ExpandOptions | None = None,
    before: ClusterObjects | None = None,
) -> ClusterObjects:
    """The cluster that the manifests describe.

    With ``before``, what was there keeps the node and addresses it was given then: a pod that is
    added to a running cluster moves no other.

    Raises:
        InputError: there is no room for so many nodes, pods or services.
    """
    options = options or ExpandOptions()
    collected = _Collected()
    for manifest in manifests:
        collected.add(manifest)
    kept = {object_ref(value): value for value in before.objects()} if before else {}
    given = collected.objects
    nodes = _nodes(given, options)
    pods = {ref: value for ref, value in given.items() if isinstance(value, Pod)}
    names = tuple(sorted(node.metadata.name for node in nodes))
    for maker, made in make_pods(collected.workloads, pods, names, idle=options.idle):
        ref = object_ref(made.pod)
        pods[ref] = made.pod
        collected.written[ref] = Written(maker, collected.written[maker].manifest, made.prefix)
    services = [value for value in given.values() if isinstance(value, Service)]
    everything = Unassigned(nodes, services, pods.values())
    families = options.families or _families([*nodes, *services, *pods.values()])
    return _cluster(collected, assign(everything, families, kept))


def with_places(live: ClusterObjects, nodes: int | None = None) -> ClusterObjects:
    """A live cluster, with what it lacks to be built: nodes that only pods name, nodes' addresses.

    Pods and services stay as they are: one without an address is none that policy speaks of.

    Raises:
        InputError: there is no room for so many nodes.
    """
    pods = [pod for pod in live.pods if is_endpoint(pod) and pod_addresses(pod)]
    given: list[KubeObject] = [*live.nodes, *pods]
    by_ref = {object_ref(value): value for value in given}
    everything = Unassigned(_nodes(by_ref, ExpandOptions(nodes)), live.services, pods)
    assigned = assign(everything, _families([*given, *live.services]), {})
    return msgspec.structs.replace(live, nodes=assigned.nodes)


class _Collected:
    """What the manifests hold, by name; of two of one name the later holds, as with kubectl."""

    def __init__(self) -> None:
        self.objects: dict[ObjectRef, KubeObject] = {}
        self.workloads: dict[ObjectRef, Workload] = {}
        self.written: dict[ObjectRef, Written] = {}
        self.findings: list[PlacedFinding] = []
        self.others: list[Manifest] = []

    def add(self, manifest: Manifest) -> None:
        ref: ObjectRef
        kind = known_kind(manifest.api_version, manifest.kind)
        if kind is not None:
            decoded = decode_object(kind, manifest.value)
            ref, findings = decoded.ref, decoded.findings
            self._note_place(ref, manifest)
            self.objects.pop(ref, None)
            if decoded.object is not None:
                self.objects[ref] = decoded.object
        elif makes_pods(manifest.api_version, manifest.kind):
            ref, workload, findings = decode_workload(manifest.kind, manifest.value)
            self._note_place(ref, manifest)
            self.workloads.pop(ref, None)
            if workload is not None:
                self.workloads[ref] = workload
        else:
            self.others.append(manifest)
            return
        self.findings += (PlacedFinding(f, Written(ref, manifest, ())) for f in findings)

    def _note_place(self, ref: ObjectRef, manifest: Manifest) -> None:
        first = self.written.get(ref)
        if first is not None and ref.name != "?":
            message = f"{ref} is there twice, here and at {first.place(())}: the later one holds"
            finding = make_finding(Code.OBJECT_DUPLICATE, message, ref)
            self.findings.append(PlacedFinding(finding, Written(ref, manifest, ())))
        self.written[ref] = Written(ref, manifest, ())

    def notes(self) -> tuple[str, ...]:
        kinds = Counter(_kind(manifest) for manifest in self.others)
        if not kinds:
            return ()
        listed = ", ".join(f"{kind} ({count})" for kind, count in sorted(kinds.items()))
        return (f"no part of this, skipped: {listed}",)


def other_ref(manifest: Manifest) -> ObjectRef:
    """The name of an object that is not decoded."""
    return describe(manifest.kind, manifest.value)


def _kind(manifest: Manifest) -> str:
    group = manifest.api_version.rpartition("/")[0]
    return f"{manifest.kind}.{group}" if group else manifest.kind


def _nodes(given: Mapping[ObjectRef, KubeObject], options: ExpandOptions) -> list[Node]:
    nodes = {value.metadata.name: value for value in given.values() if isinstance(value, Node)}
    wanted = options.nodes if options.nodes is not None else (0 if nodes else NODES_DEFAULT)
    for value in given.values():
        name = value.spec.node_name if isinstance(value, Pod) and value.spec else None
        if name and name not in nodes:
            nodes[name] = _node(name)
    number = 1
    while len(nodes) < wanted:
        nodes.setdefault(f"node-{number}", _node(f"node-{number}"))
        number += 1
    if not nodes:
        raise InputError("a cluster without nodes has no place for pods: give one node or more")
    return list(nodes.values())


def _node(name: str) -> Node:
    return Node(Metadata(name=name, labels={"kubernetes.io/hostname": name}))


def _families(values: Iterable[KubeObject]) -> tuple[Version, ...]:
    return (4, 6) if 6 in written_families(values) else (4,)


def _cluster(collected: _Collected, assigned: Assigned) -> ClusterObjects:
    given = collected.objects.values()
    accounts = [value for value in given if isinstance(value, ServiceAccount)]
    slices = [value for value in given if isinstance(value, EndpointSlice)]
    written_for = {
        (object_ref(value).namespace, (value.metadata.labels or {}).get(SERVICE_NAME_LABEL))
        for value in slices
    }
    without = [s for s in assigned.services if object_ref(s)[1:] not in written_for]
    slices += made_slices(without, assigned.pods)
    policies = [value for value in given if isinstance(value, PolicyObject)]
    namespaces = {
        value.metadata.name: _named(value) for value in given if isinstance(value, Namespace)
    }
    used: list[KubeObject] = [*accounts, *slices, *assigned.services, *assigned.pods]
    broken = {ref.name for ref in collected.written if ref.kind == "Namespace"}
    for name in {object_ref(value).namespace for value in used} - broken:
        namespaces.setdefault(name, _named(Namespace(Metadata(name=name))))
    return ClusterObjects(
        nodes=assigned.nodes,
        namespaces=tuple(namespaces[name] for name in sorted(namespaces)),
        accounts=tuple(sorted(accounts, key=object_ref)),
        services=assigned.services,
        slices=tuple(sorted(slices, key=object_ref)),
        pods=assigned.pods,
        policies=tuple(sorted(policies, key=object_ref)),
        written=collected.written,
        findings=tuple(collected.findings),
        others=tuple(collected.others),
        notes=collected.notes(),
    )


def _named(namespace: Namespace) -> Namespace:
    name = namespace.metadata.name
    labels = {**(namespace.metadata.labels or {}), NAMESPACE_NAME_LABEL: name}
    metadata = msgspec.structs.replace(namespace.metadata, labels=labels)
    return msgspec.structs.replace(namespace, metadata=metadata)
