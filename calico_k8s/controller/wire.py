"""Lists and watches of the Kubernetes API, decoded: only the fields that translate uses.

In come bytes, out go objects, or findings about one that cannot be used, and where the list or
watch stands.  Nothing is asked here.

An object costs 20 to 30 us and 2 kB, a tenth of what the ``kubernetes`` package's models take.
"""

from collections.abc import Mapping
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from calico_k8s.controller.kube import Status, status_error
from calico_k8s.errors import KubeError, KubeUnavailable
from calico_k8s.translate.findings import ObjectRef
from calico_k8s.translate.objects import (
    KINDS,
    Decoded,
    KubeObject,
    decode_object,
    object_ref,
)

PATHS: Mapping[str, str] = {
    "Node": "/api/v1/nodes",
    "Namespace": "/api/v1/namespaces",
    "ServiceAccount": "/api/v1/serviceaccounts",
    "Service": "/api/v1/services",
    "EndpointSlice": "/apis/discovery.k8s.io/v1/endpointslices",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/networkpolicies",
    "ClusterNetworkPolicy": "/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies",
    "Tier": "/apis/projectcalico.org/v3/tiers",
    "GlobalNetworkPolicy": "/apis/projectcalico.org/v3/globalnetworkpolicies",
    "CalicoNetworkPolicy": "/apis/projectcalico.org/v3/networkpolicies",
    "GlobalNetworkSet": "/apis/projectcalico.org/v3/globalnetworksets",
    "NetworkSet": "/apis/projectcalico.org/v3/networksets",
    "Profile": "/apis/projectcalico.org/v3/profiles",
    "HostEndpoint": "/apis/projectcalico.org/v3/hostendpoints",
    "StagedGlobalNetworkPolicy": "/apis/projectcalico.org/v3/stagedglobalnetworkpolicies",
    "StagedNetworkPolicy": "/apis/projectcalico.org/v3/stagednetworkpolicies",
    "StagedKubernetesNetworkPolicy": "/apis/projectcalico.org/v3/stagedkubernetesnetworkpolicies",
    "Pod": "/api/v1/pods",
}
"""Where all objects of each kind are listed and watched."""

DEFINED = frozenset(
    kind
    for kind, info in KINDS.items()
    if info.group in ("projectcalico.org", "policy.networking.k8s.io")
)
"""The kinds that a cluster has only where somebody has installed their definitions."""

Change = Decoded | ObjectRef
"""An object as it is now, or the name of one that is gone."""

_T = TypeVar("_T")


class Page(NamedTuple):
    """Some objects of a list; ``rest`` is the token that gives the next, empty at the end."""

    objects: tuple[Decoded, ...]
    revision: str
    """Of the whole list: a watch goes on from here."""
    rest: str


class _ListMetadata(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    continue_: str | None = msgspec.field(default=None, name="continue")


class _List(msgspec.Struct, Generic[_T]):
    metadata: _ListMetadata
    items: tuple[_T, ...] | None = None


class _Line(msgspec.Struct, Generic[_T]):
    type: str
    object: _T


class _Metadata(msgspec.Struct, rename="camel"):
    resource_version: str = ""


class _Head(msgspec.Struct):
    metadata: _Metadata | None = None


class KindDecoder:
    """Decodes lists and watches of one kind of :data:`PATHS`."""

    def __init__(self, kind: str) -> None:
        type_ = KINDS[kind].type
        self.kind = kind
        # Any: one of the types of KubeObject, chosen by the kind
        self._list: msgspec.json.Decoder[_List[Any]] = msgspec.json.Decoder(
            _List[type_]  # type: ignore[valid-type]  # known when it runs
        )
        self._head = msgspec.json.Decoder(_Line[_Head])
        # Not by way of the object's own bytes: what is skipped, managed fields above all, is most of it.
        self._line: msgspec.json.Decoder[_Line[Any]] = msgspec.json.Decoder(
            _Line[type_]  # type: ignore[valid-type]  # known when it runs
        )
        self._object: msgspec.json.Decoder[Any] = msgspec.json.Decoder(type_)

    def page(self, body: bytes) -> Page:
        """A page of a list.

        Raises: KubeUnavailable for what is no list: a proxy's answer, or half of one.
        """
        try:
            listed = self._list.decode(body)
            found = tuple(map(_found, listed.items or ()))
        except msgspec.ValidationError:
            raw_list = _decoded(body, _List[msgspec.Raw], self.kind)
            return _page(raw_list, tuple(map(self._decode, raw_list.items or ())))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _unreadable(self.kind, error) from None
        return _page(listed, found)

    def event(self, line: bytes) -> Change | None:
        """What a line of a watch says; None for a bookmark, of which only :meth:`revision` is new.

        Raises: KubeExpired and the like for what the server says in it, KubeUnavailable for what
        is no event.
        """
        try:
            said = self._line.decode(line)
        except msgspec.ValidationError:  # no object of the kind, or not one that can be used
            return self._unusual(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _unreadable(self.kind, error) from None
        match said.type:
            case "ADDED" | "MODIFIED":
                return _found(said.object)
            case "DELETED":
                return object_ref(said.object)
            case _:
                return self._unusual(line)

    def revision(self, line: bytes) -> str:
        """How far a line of a watch reaches; empty where it does not say.

        Only the last line's is ever needed, and to look for it in each would cost as much again.
        """
        try:
            metadata = self._head.decode(line).object.metadata
        except (msgspec.DecodeError, UnicodeDecodeError):
            return ""
        return metadata.resource_version if metadata is not None else ""

    def _unusual(self, line: bytes) -> Change | None:
        try:
            said = self._head.decode(line)
            if said.type == "ERROR":
                raise self._said_error(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _unreadable(self.kind, error) from None
        if said.object.metadata is None:
            raise KubeUnavailable(f"the watch of {self.kind} says something of no object")
        if said.type == "BOOKMARK":
            return None
        # By way of the object's own bytes, so that the message names the field within it.
        found = self._decode(msgspec.json.decode(line, type=_Line[msgspec.Raw]).object)
        return found.ref if said.type == "DELETED" else found

    def _said_error(self, line: bytes) -> KubeError:
        raw = msgspec.json.decode(line, type=_Line[msgspec.Raw]).object
        status = msgspec.json.decode(raw, type=Status)
        return status_error(status.code, bytes(raw), f"watch of {self.kind}")

    def _decode(self, raw: msgspec.Raw) -> Decoded:
        try:
            return _found(self._object.decode(raw))
        except msgspec.ValidationError:
            return decode_object(self.kind, msgspec.json.decode(raw))


def collection_path(kind: str, namespace: str) -> str:
    """Where the objects of a kind are made; of all namespaces, or none, without one."""
    version, _, plural = PATHS[kind].rpartition("/")
    return f"{version}/namespaces/{namespace}/{plural}" if namespace else PATHS[kind]


def object_path(ref: ObjectRef) -> str:
    """Where an object is."""
    return f"{collection_path(ref.kind, ref.namespace)}/{ref.name}"


def uid_of(change: Change) -> str:
    """The UID of an object; empty where it is gone or cannot be used."""
    value = change.object if isinstance(change, Decoded) else None
    return (value.metadata.uid if value is not None else None) or ""


def ref_of(change: Change) -> ObjectRef:
    """The name of an object that is there or gone."""
    return change.ref if isinstance(change, Decoded) else change


def _found(value: KubeObject) -> Decoded:
    return Decoded(object_ref(value), value)


def _page(listed: _List[Any], found: tuple[Decoded, ...]) -> Page:  # Any: as KindDecoder's
    return Page(found, listed.metadata.resource_version, listed.metadata.continue_ or "")


def _decoded(body: bytes, type_: type[_T], kind: str) -> _T:
    try:
        return msgspec.json.decode(body, type=type_)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _unreadable(kind, error) from None


def _unreadable(kind: str, error: Exception) -> KubeUnavailable:
    return KubeUnavailable(f"the API server's answer about {kind} objects is not readable: {error}")
