"""What policy changes in a cluster that had none: who is no longer reached by everybody, and why.

In: a view of a cluster.  Out: a note for each pod, namespace and service that changes something.
Pods that no note or error speaks of are reached by everybody, as they were.
"""

from collections import Counter
from collections.abc import Iterator
from collections.abc import Set as AbstractSet

import grammar
from calico_k8s.lint.problems import LintCode
from calico_k8s.lint.view import View, lint_finding
from calico_k8s.model.keys import ProfileRulesKey
from calico_k8s.model.resources import ANYTHING, Action, Rules, WorkloadEndpoint
from calico_k8s.translate.annotations import AnnotationText
from calico_k8s.translate.findings import Finding, ObjectRef
from calico_k8s.translate.namespaces import FLAG, read_namespace
from calico_k8s.translate.objects import Namespace, object_ref
from calico_k8s.translate.services import service_profile


def changed_pods(view: View) -> frozenset[ObjectRef]:
    """The pods that not everybody reaches."""
    return frozenset(ref for ref, found in view.endpoints.items() if not _is_open(view, found))


def effect_findings(view: View) -> Iterator[Finding]:
    """A note for each object that changes who reaches a pod."""
    changed = changed_pods(view)
    annotated: set[ObjectRef] = set()
    for pod in view.cluster.pods:
        annotation, ref = view.annotation(pod), object_ref(pod)
        if annotation is None or ref not in changed:
            continue
        annotated.add(ref)
        if message := _annotation_message(annotation):
            path = ("metadata", "annotations", annotation.key)
            yield lint_finding(LintCode.ANNOTATION_GOVERNS, message, ref, path)
    flagged = Counter(ref.namespace for ref in changed - annotated)
    for namespace in view.cluster.namespaces:
        if read_namespace(namespace, view.settings).flag == "closed":
            yield _closed(namespace, flagged[namespace.metadata.name])
    yield from _opened(view, changed)


def _is_open(view: View, endpoint: WorkloadEndpoint) -> bool:
    """Whether the first of its profiles, its annotation's or its namespace's, lets everybody in."""
    rules = view.translation.items.get(ProfileRulesKey(endpoint.profiles[0]))
    if not (isinstance(rules, Rules) and rules.ingress):
        return False
    first = rules.ingress[0]
    matches_all = first.protocol is None and first.src == ANYTHING == first.dst
    return first.action is Action.ALLOW and matches_all


def _annotation_message(annotation: AnnotationText) -> str:
    """Empty for a text that does not parse: its error says what becomes of the pod."""
    try:
        statements = grammar.parse_policy(annotation.text).statements
    except grammar.PolicyErrors:
        return ""
    if not statements:
        return f"only open services reach the pod: its annotation {annotation.key} is empty"
    what = "statement" if len(statements) == 1 else f"{len(statements)} statements"
    return (
        f"what reaches the pod is what the {what} of its annotation {annotation.key} and open"
        " services allow"
    )


def _closed(namespace: Namespace, pods: int) -> Finding:
    metadata = namespace.metadata
    field = "annotations" if FLAG in (metadata.annotations or {}) else "labels"
    is_flagged = FLAG in (getattr(metadata, field) or {})
    why = "the namespace is closed" if is_flagged else "namespaces without a flag are closed"
    message = (
        f"{why}: only pods of it, and open services, reach its {_pods(pods)} without an annotation"
    )
    path = ("metadata", field, FLAG) if is_flagged else ("metadata", "name")
    return lint_finding(LintCode.NAMESPACE_CLOSED, message, object_ref(namespace), path)


def _opened(view: View, changed: AbstractSet[ObjectRef]) -> Iterator[Finding]:
    pods_by_profile = Counter(
        profile for ref in changed for profile in view.endpoints[ref].profiles
    )
    for service in view.cluster.services:
        ref = object_ref(service)
        count = pods_by_profile[service_profile(ref.namespace, ref.name)]
        if count:
            message = f"the service is open: its ports on {_pods(count)} are for every source"
            path = ("metadata", "labels", FLAG)
            yield lint_finding(LintCode.SERVICE_OPENS, message, ref, path)


def _pods(count: int) -> str:
    return "1 pod" if count == 1 else f"{count} pods"
