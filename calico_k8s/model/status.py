"""What each node tells of itself and of its endpoints, as it is stored, and where.

===================================================  ============================
path below ``/calico``                               value
===================================================  ============================
``/felix/v2/host/NODE/status``                       :class:`StoredStatus`
``/felix/v2/host/NODE/endpoint/NS.POD``              :class:`EndpointStatus`
===================================================  ============================

Felix writes them under a lease: those of a node whose agent is gone go with it, and nothing is
known of it then.  A newer version's states are text like any other.
"""

from typing import Literal, TypeVar, get_args

import msgspec

from calico_k8s.model.keys import STATUS
from calico_k8s.model.names import EndpointId, NamespaceName, NodeName

NodeState = Literal["waiting", "in-sync", "failing", "store-away"]
NODE_STATES: tuple[NodeState, ...] = get_args(NodeState)
EndpointState = Literal["enforced", "no-port", "no-interface", "no-address"]
"""``no-port``: on a bridge, and not yet seen behind a port of it, so it sends nothing."""
ENDPOINT_STATES: tuple[EndpointState, ...] = get_args(EndpointState)
ENFORCED: EndpointState = "enforced"

HOSTS = f"{STATUS}host/"

_T = TypeVar("_T")


class EndpointStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """How one endpoint is, and why it is not better."""

    state: str
    """One of :data:`ENDPOINT_STATES`."""
    reason: str = ""
    """Also of one that is enforced, without some of its profiles."""


class StoredStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a node is."""

    node: str
    pid: int
    started: float
    """Seconds since the epoch."""
    state: str
    """One of :data:`NODE_STATES`."""
    revision: int
    """Of the datastore, that the kernel has reached."""
    backend: str
    endpoints: int
    enforced: int
    groups: int
    applied: float
    """When the kernel was last brought to what is desired; seconds since the epoch."""
    drift_repaired: int = 0
    errors: tuple[str, ...] = ()


def status_path(node: NodeName) -> str:
    """Where a node's status is."""
    return f"{HOSTS}{node}/status"


def endpoint_status_path(endpoint: EndpointId) -> str:
    """Where an endpoint's state is."""
    return f"{HOSTS}{endpoint.node}/endpoint/{endpoint.namespace}.{endpoint.name}"


def parse_status_path(path: str) -> NodeName | EndpointId | None:
    """Whose status is there; None for a path that is neither's."""
    match path.removeprefix(HOSTS).split("/"):
        case [node, "status"]:
            return NodeName(node)
        case [node, "endpoint", pod]:
            namespace, _, name = pod.partition(".")
            return EndpointId(NodeName(node), NamespaceName(namespace), name)
        case _:
            return None


def decode_status(raw: bytes, kind: type[_T]) -> _T | None:
    """The status; None where it cannot be read."""
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.DecodeError:
        return None
