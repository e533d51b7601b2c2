"""Staged policies at an API server: what enforcing or dismissing one writes there.

In: a staged policy's name, and an API server.  Out: steps, in their order: the enforced policy of that
name is written or deleted first and the staged one deleted last, so that a failure between loses
nothing and the same call goes on.  What somebody changes meanwhile the server refuses.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import msgspec

from calico_k8s.controller.kube import KubeApi
from calico_k8s.controller.wire import collection_path, object_path
from calico_k8s.errors import InputError, KubeNotFound
from calico_k8s.model.names import PolicyId
from calico_k8s.model.resources import StagedAction
from calico_k8s.model.staging import target_of
from calico_k8s.sources.staging import enforced_form
from calico_k8s.translate.findings import ObjectRef
from calico_k8s.translate.staged_policies import FIELD

_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"

Document = Mapping[str, Any]
"""What JSON can say."""


class Step(NamedTuple):
    """One write: an object is made, replaced or deleted."""

    verb: Literal["create", "replace", "delete"]
    ref: ObjectRef
    document: Document
    """The object as it is to be; of one that goes, that it must still be the one that was read."""

    def do(self, api: KubeApi) -> None:
        """Write it.

        Raises:
            KubeConflict: somebody has changed the object, or made it, since it was read.
            KubeError: the server refused otherwise.
        """
        match self.verb:
            case "create":
                api.create(collection_path(self.ref.kind, self.ref.namespace), self.document)
            case "replace":
                api.replace(object_path(self.ref), self.document)
            case "delete":
                api.delete(object_path(self.ref), self.document)


def enforcing(api: KubeApi, ref: ObjectRef, action: StagedAction) -> list[Step]:
    """What enforcing a staged policy writes.

    Raises:
        InputError: it, or the policy that it would delete, is not there.
        KubeError: the server refused to say.
    """
    staged = _required(api, ref)
    target = ObjectRef(*target_of(PolicyId(*ref)))
    there = _read(api, target)
    if action is StagedAction.DELETE:
        if there is None:
            raise InputError(f"{target} is gone already: dismiss {ref} instead")
        return [_deletion(target, there), _deletion(ref, staged)]
    document = _enforced(ref, staged, there)
    verb: Literal["create", "replace"] = "create" if there is None else "replace"
    return [Step(verb, target, document), _deletion(ref, staged)]


def dismissing(api: KubeApi, ref: ObjectRef) -> list[Step]:
    """What dismissing a staged policy writes.

    Raises:
        InputError: it is not there.
        KubeError: the server refused to say.
    """
    return [_deletion(ref, _required(api, ref))]


def _read(api: KubeApi, ref: ObjectRef) -> Document | None:
    try:
        found: Document = msgspec.json.decode(api.get(object_path(ref)))
    except KubeNotFound:
        return None
    return found


def _required(api: KubeApi, ref: ObjectRef) -> Document:
    found = _read(api, ref)
    if found is None:
        raise InputError(f"{ref} is not there any more")
    return found


def _deletion(ref: ObjectRef, read: Document) -> Step:
    metadata = read["metadata"]
    same = {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]}
    return Step("delete", ref, {"preconditions": same})


def _enforced(ref: ObjectRef, staged: Document, there: Document | None) -> Document:
    """The policy with the staged one's spec; one that is there keeps its metadata."""
    kind, api_version = enforced_form(ref)
    spec = {field: given for field, given in (staged.get("spec") or {}).items() if field != FIELD}
    metadata = there["metadata"] if there is not None else _metadata(staged["metadata"])
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec}


def _metadata(staged: Document) -> Document:
    """What a person gave the staged policy."""
    kept = {field: staged[field] for field in ("name", "namespace", "labels") if field in staged}
    annotations = {k: v for k, v in (staged.get("annotations") or {}).items() if k != _APPLIED}
    return kept | ({"annotations": annotations} if annotations else {})
