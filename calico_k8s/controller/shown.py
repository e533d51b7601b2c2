"""Reads what the statuses of all objects of a kind say, and nothing else of them.

In: an API server and a kind.  Out: the conditions of ours, by object.  What is no condition is left
out: whoever writes wrote something else, and it is written again.
"""

import contextlib
from collections.abc import Mapping

import msgspec

from calico_k8s.controller.conditions import OURS, Condition
from calico_k8s.controller.kube import KubeApi
from calico_k8s.controller.listing import PAGE_OBJECTS
from calico_k8s.controller.wire import PATHS
from calico_k8s.errors import KubeUnavailable
from calico_k8s.translate.findings import ObjectRef


class Shown(msgspec.Struct, frozen=True):
    """What an object's status says."""

    uid: str
    conditions: tuple[Condition, ...]


class _Metadata(msgspec.Struct):
    name: str
    namespace: str = ""
    uid: str = ""


class _Object(msgspec.Struct):
    metadata: _Metadata
    status: msgspec.Raw = msgspec.Raw(b"null")


class _Status(msgspec.Struct):
    conditions: tuple[Condition, ...] = ()


class _ListMetadata(msgspec.Struct):
    continue_: str | None = msgspec.field(default=None, name="continue")


class _List(msgspec.Struct):
    metadata: _ListMetadata
    items: tuple[_Object, ...] = ()


def read_shown(api: KubeApi, kind: str) -> Mapping[ObjectRef, Shown]:
    """The conditions of ours that all objects of a kind have.

    Raises: KubeError.
    """
    found: dict[ObjectRef, Shown] = {}
    rest: str | None = ""
    while rest is not None:
        query = {"limit": PAGE_OBJECTS} | ({"continue": rest} if rest else {})
        try:
            page = msgspec.json.decode(api.get(PATHS[kind], query), type=_List)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise KubeUnavailable(f"the list of {kind} objects is not readable: {error}") from None
        for each in page.items:
            metadata = each.metadata
            ref = ObjectRef(kind, metadata.namespace, metadata.name)
            found[ref] = Shown(metadata.uid, _conditions(each.status))
        rest = page.metadata.continue_ or None
    return found


def _conditions(status: msgspec.Raw) -> tuple[Condition, ...]:
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
        shown = msgspec.json.decode(status, type=_Status).conditions
        return tuple(condition for condition in shown if condition.type in OURS)
    return ()
