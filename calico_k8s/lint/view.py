"""A cluster as the rules of lint look at it, and findings without their places.

In: a cluster and the controller's settings.  Out: what it translates to, indexed; and one way to
turn a finding about an object into a problem with a place.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import grammar
from calico_k8s.lint.problems import CODES, LintCode, Problem
from calico_k8s.model.resources import WorkloadEndpoint
from calico_k8s.policy.snapshot import Snapshot
from calico_k8s.sources.expand import ClusterObjects, Written
from calico_k8s.translate.annotations import AnnotationText, find_annotation
from calico_k8s.translate.cluster import Translation, translate_all
from calico_k8s.translate.findings import FieldPath, Finding, ObjectRef
from calico_k8s.translate.namespaces import TranslateSettings
from calico_k8s.translate.objects import Pod, object_ref


@dataclass(frozen=True)
class View:
    """A cluster, what it becomes, and who is who in it."""

    cluster: ClusterObjects
    settings: TranslateSettings

    @cached_property
    def translation(self) -> Translation:
        """Everything the objects become."""
        return translate_all(self.cluster.objects(), self.settings)

    @cached_property
    def snapshot(self) -> Snapshot:
        """The same, to be asked by the definition."""
        return Snapshot.from_items(self.translation.items)

    @cached_property
    def endpoints(self) -> Mapping[ObjectRef, WorkloadEndpoint]:
        """The pods that are endpoints."""
        return {
            ObjectRef("Pod", endpoint.id.namespace, endpoint.id.name): endpoint
            for endpoint in self.snapshot.endpoints.values()
        }

    @cached_property
    def namespaces(self) -> frozenset[str]:
        """Every namespace there is."""
        return frozenset(namespace.metadata.name for namespace in self.cluster.namespaces)

    @cached_property
    def labels(self) -> Mapping[ObjectRef, Mapping[str, str]]:
        """The labels of every endpoint, inherited ones too."""
        return {ref: self.snapshot.labels_of(value) for ref, value in self.endpoints.items()}

    def annotation(self, pod: Pod) -> AnnotationText | None:
        """The pod's policy text."""
        return find_annotation(pod.metadata.annotations or {}, self.settings.annotation_keys)

    def statements(self, pod: Pod) -> tuple[grammar.Statement, ...]:
        """The statements of a pod's policy; none where it has none, or cannot be read."""
        annotation = self.annotation(pod)
        if annotation is None:
            return ()
        try:
            return grammar.parse_policy(annotation.text).statements
        except grammar.PolicyErrors:
            return ()

    def endpoints_of(self, pods: Iterable[Pod]) -> tuple[WorkloadEndpoint, ...]:
        """The endpoints among the pods."""
        return tuple(
            self.endpoints[ref] for pod in pods if (ref := object_ref(pod)) in self.endpoints
        )


def lint_finding(
    code: LintCode,
    message: str,
    ref: ObjectRef,
    path: FieldPath = (),
    span: tuple[int, int] | None = None,
) -> Finding:
    """A finding of a rule of lint."""
    return Finding(code, CODES[code].severity, message, ref, path, span)


def place_finding(finding: Finding, written: Written | None) -> Problem:
    """The finding with the place where its object was written."""
    if written is None:
        return _problem(finding, "", 0, 0, finding.object)
    place = written.place(finding.path)
    if finding.span is not None:
        place = written.text_place(finding.path, finding.span[0])
    return _problem(finding, place.file, place.line, place.column, written.ref)


def _problem(finding: Finding, file: str, line: int, column: int, ref: ObjectRef) -> Problem:
    return Problem(
        severity=finding.severity,
        code=str(finding.code),
        message=finding.message,
        file=file,
        line=line,
        column=column,
        object=str(ref),
        excerpt=finding.excerpt,
    )
