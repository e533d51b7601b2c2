"""What is answered to the API server's question about one object that somebody writes.  Pure.

In: ``AdmissionReview`` as JSON, and the controller's settings.  Out: the answer as JSON.  What is
wrong is found as ``lint`` finds it, in the object alone: whether a namespace, a tier or a pod that
it names is there is not known here, and no reason to refuse anything.

An object is refused for what its writer does.  What was wrong before in the very same words is no
reason to refuse a change of something else; and what a controller makes of an object that was let
in (a ReplicaSet's pods) is let in too, closed as it will be.  Both are told as warnings.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from calico_k8s.lint.policies import policy_findings
from calico_k8s.lint.problems import LintCode
from calico_k8s.lint.statements import statement_findings
from calico_k8s.lint.view import View
from calico_k8s.sources.documents import read_text
from calico_k8s.sources.expand import ExpandOptions, expand
from calico_k8s.translate.findings import Code, Finding, finding_text
from calico_k8s.translate.namespaces import TranslateSettings

REFUSED: Final = frozenset(
    {
        Code.ANNOTATION_SYNTAX,
        Code.FLAG_VALUE,
        Code.POLICY_INVALID,
        Code.SERVICE_EXTERNAL_NAME,
        Code.SERVICE_FLAG_VALUE,
        Code.TIER_FIXED,
    }
)
"""What is wrong in the object itself, and closes or opens other than its writer says."""
WARNED: Final = REFUSED | {
    Code.ANNOTATION_KEYS,
    Code.FLAG_CONFLICT,
    Code.LABEL_RESERVED,
    Code.OBJECT_INVALID,
    LintCode.EGRESS_WITHOUT_DNS,
    LintCode.HOST_NETWORK,
    LintCode.NAMESPACE_SELECTOR_NEGATIVE,
    LintCode.PEERS_EITHER,
    LintCode.POLICY_DIRECTION_IGNORED,
    LintCode.PORT_NAME_UNKNOWN,
    LintCode.PORT_PROTOCOL_MISSING,
    LintCode.STATEMENT_SHADOWED,
    LintCode.TARGET_MISMATCH,
}
"""What the object alone shows to be wrong, or probably not meant."""
WARNINGS_MAX: Final = 10
WARNING_CHARACTERS_MAX: Final = 256
"""The API server cuts what is longer.  Source: k8s.io/apiserver pkg/endpoints/filters/warning.go."""
REFUSAL_CHARACTERS_MAX: Final = 8192
_UNPROCESSABLE: Final = 422
_LEFT_OUT: Final = frozenset(
    {"replicas", "parallelism", "completions", "suspend", "volumes", "volumeClaimTemplates"}
)
"""How many pods a template makes says nothing of the template, and neither do its files."""
_CONTAINERS: Final = frozenset({"containers", "initContainers"})
_OF_CONTAINERS: Final = frozenset({"name", "ports", "restartPolicy"})
_TEMPLATES: Final = frozenset({"template", "jobTemplate"})

Document = Mapping[str, Any]  # Any: what JSON can say


class Request(msgspec.Struct, frozen=True, rename="camel"):
    """What the API server asks; ``old_object`` is what an update replaces."""

    uid: str
    operation: str = ""
    object: Document | None = None
    old_object: Document | None = None


class Review(msgspec.Struct, frozen=True, rename="camel"):
    """``admission.k8s.io/v1/AdmissionReview``, as it is asked."""

    request: Request
    api_version: str = "admission.k8s.io/v1"
    kind: str = "AdmissionReview"


class Answer(msgspec.Struct, frozen=True):
    """What is decided."""

    refusal: str = ""
    """Why the object is refused; empty: it is not."""
    warnings: tuple[str, ...] = ()


def answer(request: Request, settings: TranslateSettings) -> Answer:
    """The decision on one object.  Cost: some milliseconds, by its size."""
    if request.object is None:
        return Answer()
    found = {finding_text(finding): finding for finding in findings(request.object, settings)}
    if not found:
        return Answer()
    refused = [text for text, finding in found.items() if finding.code in REFUSED]
    if _is_made(request.object):
        refused = []
    elif refused and request.old_object is not None:
        before = {finding_text(finding) for finding in findings(request.old_object, settings)}
        refused = [text for text in refused if text not in before]
    warnings = [_as_warning(text) for text in found if text not in refused]
    text = "\n".join(refused)[:REFUSAL_CHARACTERS_MAX]
    return Answer(text, tuple(warnings[:WARNINGS_MAX]))


def answer_document(request: Request, decided: Answer) -> bytes:
    """The answer as the API server reads it."""
    response: dict[str, Any] = {"uid": request.uid, "allowed": not decided.refusal}
    if decided.refusal:
        response["status"] = {"code": _UNPROCESSABLE, "message": decided.refusal}
    if decided.warnings:
        response["warnings"] = decided.warnings
    document = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}
    return msgspec.json.encode({**document, "response": response})


def findings(document: Document, settings: TranslateSettings) -> Iterator[Finding]:
    """What is wrong with one object, its template's pods each once."""
    text = msgspec.json.encode(_reduced(document)).decode()
    cluster = expand(read_text(text, "").manifests, ExpandOptions(idle=True, nodes=1))
    view = View(cluster, settings)
    for placed in cluster.findings:
        if placed.finding.code in WARNED:
            yield placed.finding
    for each in (view.translation.findings, statement_findings(view), policy_findings(view)):
        yield from (finding for finding in each if finding.code in WARNED)


def _reduced(document: Document) -> Document:
    """Without what says nothing of policy and may be long, and with one pod a template."""
    metadata = dict(_metadata(document))
    metadata.pop("managedFields", None)
    metadata.setdefault("name", "unnamed")
    reduced = {key: value for key, value in document.items() if key != "status"}
    if isinstance(document.get("spec"), dict):
        reduced["spec"] = _lean(document["spec"])
    return {**reduced, "metadata": metadata}


def _lean(spec: Document) -> Document:
    """The same of a spec, and of the templates in it."""
    lean = {key: value for key, value in spec.items() if key not in _LEFT_OUT}
    for key in _CONTAINERS & lean.keys():
        listed = lean[key] if isinstance(lean[key], list) else ()
        containers = (each for each in listed if isinstance(each, dict))
        lean[key] = [{name: c[name] for name in _OF_CONTAINERS & c.keys()} for c in containers]
    for key in _TEMPLATES & lean.keys():
        inner = lean[key]
        if isinstance(inner, dict) and isinstance(inner.get("spec"), dict):
            lean[key] = {**inner, "spec": _lean(inner["spec"])}
    return lean


def _is_made(document: Document) -> bool:
    """Whether a controller made the object of another one, at whose door it was looked at."""
    owners = _metadata(document).get("ownerReferences")
    listed = owners if isinstance(owners, list) else ()
    return any(isinstance(owner, dict) and owner.get("controller") for owner in listed)


def _metadata(document: Document) -> Document:
    """The API server sends none of another shape, but whoever reaches the port may."""
    metadata = document.get("metadata")
    return metadata if isinstance(metadata, dict) else {}


def _as_warning(text: str) -> str:
    """The sentence without the lines below it: a warning is one line."""
    line = text.partition("\n")[0]
    if len(line) > WARNING_CHARACTERS_MAX:
        line = f"{line[: WARNING_CHARACTERS_MAX - 3]}..."
    return line
