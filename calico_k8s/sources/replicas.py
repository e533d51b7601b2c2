"""Deployments, StatefulSets, DaemonSets, Jobs and their like to the pods they make.

In: workload objects, the nodes, and the names that are taken.  Out: pods with stable names,
without node or address (a DaemonSet's have their node).

=======================================  ==================================================
kind                                     pods
=======================================  ==================================================
Deployment, ReplicaSet,                  ``NAME-0`` … ``NAME-<replicas - 1>``; Kubernetes
ReplicationController                    puts random letters where we count
StatefulSet                              the same, from ``spec.ordinals.start``, as Kubernetes
DaemonSet                                ``NAME-0`` … in the order of the nodes, one on each
Job                                      as many as run at once; none when done or suspended
CronJob                                  those of one run, as if its time were now
=======================================  ==================================================

Names that are taken already, by a pod or by a workload of a kind further up, are passed over by
putting the kind in: ``NAME-deployment-0``.  Node selectors, taints and affinity are not looked at.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, NamedTuple

import msgspec

from calico_k8s.translate.findings import Finding, ObjectRef
from calico_k8s.translate.objects import (
    Metadata,
    OwnerReference,
    Pod,
    PodSpec,
    api_group,
    decode_as,
)

Path = tuple[str | int, ...]
COUNT_MAX = 150_000
"""Pods of a workload: as many as a cluster may have.  Source: Kubernetes, considerations for large
clusters.  A number that is mistyped is to cost no memory."""
Count = Annotated[int, msgspec.Meta(ge=0, le=COUNT_MAX)]


class TemplateMetadata(msgspec.Struct, frozen=True):
    """What the pods of a template carry."""

    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class Template(msgspec.Struct, frozen=True):
    """What the pods of a workload are like."""

    metadata: TemplateMetadata | None = None
    spec: PodSpec | None = None


class Ordinals(msgspec.Struct, frozen=True):
    """How the pods of a StatefulSet are counted."""

    start: Annotated[int, msgspec.Meta(ge=0)] | None = None


class WorkloadSpec(msgspec.Struct, frozen=True, rename="camel"):
    """What a workload is to be; the fields of all kinds together."""

    template: Template | None = None
    replicas: Count | None = None
    ordinals: Ordinals | None = None
    parallelism: Count | None = None
    completions: Count | None = None
    suspend: bool | None = None
    job_template: "JobTemplate | None" = None
    """A CronJob's: what one run of it is."""


class JobTemplate(msgspec.Struct, frozen=True):
    """What the Jobs of a CronJob are like."""

    spec: WorkloadSpec | None = None


class Condition(msgspec.Struct, frozen=True):
    """Something that is true of an object now, or not."""

    type: str = ""
    status: str = ""


class WorkloadStatus(msgspec.Struct, frozen=True):
    """What has become of a workload."""

    conditions: tuple[Condition, ...] | None = None


class Workload(msgspec.Struct, frozen=True):
    """An object that makes pods."""

    metadata: Metadata
    spec: WorkloadSpec | None = None
    status: WorkloadStatus | None = None


class MadePod(NamedTuple):
    """A pod, and where in its maker's fields its metadata and spec are written."""

    pod: Pod
    prefix: Path


GROUPS: Mapping[str, frozenset[str]] = {
    "StatefulSet": frozenset({"apps"}),
    "Deployment": frozenset({"apps", "extensions"}),
    "ReplicaSet": frozenset({"apps", "extensions"}),
    "ReplicationController": frozenset({""}),
    "DaemonSet": frozenset({"apps", "extensions"}),
    "Job": frozenset({"batch"}),
    "CronJob": frozenset({"batch"}),
}
"""The kinds that make pods, in the order in which they take names, and their API groups."""

_RANK = {kind: rank for rank, kind in enumerate(GROUPS)}
_DONE = frozenset({"Complete", "Failed"})


def makes_pods(api_version: str, kind: str) -> bool:
    """Whether objects of this kind are workloads."""
    return kind in GROUPS and api_group(api_version) in GROUPS[kind]


def template_path(kind: str) -> Path:
    """What leads to the template of the pods in a workload of this kind."""
    if kind == "CronJob":
        return ("spec", "jobTemplate", "spec", "template")
    return ("spec", "template")


def decode_workload(
    kind: str, document: object
) -> tuple[ObjectRef, Workload | None, tuple[Finding, ...]]:
    """The workload a document stands for."""
    return decode_as(Workload, kind, document, is_namespaced=True)


def make_pods(
    workloads: Mapping[ObjectRef, Workload],
    given: Mapping[ObjectRef, Pod],
    nodes: tuple[str, ...],
    *,
    idle: bool,
) -> Iterator[tuple[ObjectRef, MadePod]]:
    """The pods of all workloads, each with its maker.

    A workload whose pods, or whose own workloads, are given themselves makes none.  With ``idle``
    one that has no pod now makes one all the same.
    """
    owners = _owners(workloads, given)
    taken = set(given)
    for ref in sorted(workloads, key=lambda ref: (_RANK[ref.kind], ref)):
        if ref in owners:
            continue
        workload = workloads[ref]
        names = _names(ref, workload, nodes, idle=idle)
        if any(ObjectRef("Pod", ref.namespace, name) in taken for name in names):
            names = [_with_kind(name, ref) for name in names]
        for index, name in enumerate(names):
            taken.add(ObjectRef("Pod", ref.namespace, name))
            yield ref, _make(ref, workload, name, nodes[index] if ref.kind == "DaemonSet" else None)


def _owners(
    workloads: Mapping[ObjectRef, Workload], given: Mapping[ObjectRef, Pod]
) -> set[ObjectRef]:
    owners: set[ObjectRef] = set()
    metadata = {ref: workload.metadata for ref, workload in workloads.items()}
    metadata |= {ref: pod.metadata for ref, pod in given.items()}
    for ref, data in metadata.items():
        for owner in data.owner_references or ():
            owners.add(ObjectRef(owner.kind, ref.namespace, owner.name))
    return owners


def _names(ref: ObjectRef, workload: Workload, nodes: tuple[str, ...], *, idle: bool) -> list[str]:
    first = 0
    count = _count(ref.kind, workload, len(nodes))
    if ref.kind == "StatefulSet" and workload.spec and workload.spec.ordinals:
        first = workload.spec.ordinals.start or 0
    count = max(count, 1) if idle else count
    return [f"{ref.name}-{index}" for index in range(first, first + count)]


def _with_kind(name: str, ref: ObjectRef) -> str:
    return f"{ref.name}-{ref.kind.lower()}{name.removeprefix(ref.name)}"


def _count(kind: str, workload: Workload, nodes: int) -> int:
    spec = workload.spec or WorkloadSpec()
    match kind:
        case "DaemonSet":
            return nodes
        case "Job":
            return 0 if _is_done(workload) else _at_once(spec)
        case "CronJob":
            run = (spec.job_template.spec if spec.job_template else None) or WorkloadSpec()
            return 0 if spec.suspend else _at_once(run)
        case _:
            return 1 if spec.replicas is None else spec.replicas


def _at_once(run: WorkloadSpec) -> int:
    """How many pods of a Job run at one time."""
    if run.suspend:
        return 0
    parallelism = 1 if run.parallelism is None else run.parallelism
    return parallelism if run.completions is None else min(parallelism, run.completions)


def _is_done(workload: Workload) -> bool:
    conditions = (workload.status.conditions if workload.status else None) or ()
    return any(entry.type in _DONE and entry.status == "True" for entry in conditions)


def _template(ref: ObjectRef, workload: Workload) -> tuple[Template, Path]:
    spec = workload.spec or WorkloadSpec()
    if ref.kind == "CronJob":
        spec = (spec.job_template.spec if spec.job_template else None) or WorkloadSpec()
    return spec.template or Template(), template_path(ref.kind)


def _make(ref: ObjectRef, workload: Workload, name: str, node: str | None) -> MadePod:
    template, prefix = _template(ref, workload)
    written = template.metadata or TemplateMetadata()
    spec = template.spec or PodSpec()
    if node is not None:
        spec = msgspec.structs.replace(spec, node_name=node)
    metadata = Metadata(
        name=name,
        namespace=ref.namespace,
        labels={**(written.labels or {}), **_added_labels(ref, name)},
        annotations=written.annotations,
        owner_references=(OwnerReference(ref.kind, ref.name),),
    )
    return MadePod(Pod(metadata, spec), prefix)


def _added_labels(ref: ObjectRef, name: str) -> dict[str, str]:
    """Labels that Kubernetes' controllers add and that people select by."""
    match ref.kind:
        case "StatefulSet":
            index = name.rpartition("-")[2]
            return {
                "apps.kubernetes.io/pod-index": index,
                "statefulset.kubernetes.io/pod-name": name,
            }
        case "Job":
            return {"batch.kubernetes.io/job-name": ref.name, "job-name": ref.name}
        case _:
            return {}
