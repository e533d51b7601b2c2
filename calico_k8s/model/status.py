"""What each node tells of itself and of its endpoints, as it is stored, and where.

===================================================  ============================
path below ``/calico``                               value
===================================================  ============================
``/felix/v2/host/NODE/status``                       :class:`StoredStatus`
``/felix/v2/host/NODE/endpoint/NS.POD``              :class:`EndpointStatus`
===================================================  ============================

Felix writes them under a lease: those of a node whose agent is gone go with it, and nothing is
known of it then.  A newer version's states are text like any other.

What the controller tells, so that ``status`` can say it, is in keys that no node reads:
``/controller/v1/policies``, a :class:`PolicySummary`, and ``/controller/v1/webhook``, a
:class:`WebhookStatus`.
"""

from datetime import datetime
from typing import Literal, TypeVar, get_args

import msgspec

from calico_k8s.model.keys import STATUS, TOLD
from calico_k8s.model.names import EndpointId, NamespaceName, NodeName

NodeState = Literal["waiting", "in-sync", "failing", "store-away"]
NODE_STATES: tuple[NodeState, ...] = get_args(NodeState)
EndpointState = Literal["enforced", "no-port", "no-interface", "no-address"]
"""``no-port``: on a bridge, and not yet seen behind a port of it, so it sends nothing."""
ENDPOINT_STATES: tuple[EndpointState, ...] = get_args(EndpointState)
ENFORCED: EndpointState = "enforced"

HOSTS = f"{STATUS}host/"
POLICIES_PATH, WEBHOOK_PATH = f"{TOLD}policies", f"{TOLD}webhook"
TROUBLED_MAX = 500
"""So many objects a summary names, which is at most a third of what a value may have; of the others it
says how many there are."""

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


class TroubledPolicy(msgspec.Struct, frozen=True, omit_defaults=True):
    """A policy object that is not wholly in force, or names what is not there."""

    kind: str
    namespace: str
    name: str
    reason: str
    message: str
    is_accepted: bool = True
    """All of it is understood and in force, but for what it names and is not there."""
    is_resolved: bool = True
    """All that it names is there."""
    is_enforced: bool = True
    """Any of it is in force."""


class PolicySummary(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the controller tells of all policy objects."""

    objects: int
    troubled: tuple[TroubledPolicy, ...] = ()
    """By name; no more than :data:`TROUBLED_MAX`."""
    more: int = 0
    """How many others there are."""


class WebhookStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the controller tells of the webhook's certificate."""

    expires: float
    """Seconds since the epoch; 0 where there is none yet."""
    problem: str = ""
    """Why nobody can be served, as of the time it was told."""


def expired_sentence(expires: datetime) -> str:
    """Of a webhook whose certificate has ended."""
    return (
        f"the webhook's certificate has expired, {expires:%Y-%m-%d %H:%M} UTC: the API"
        " server asks in vain, and lets in what it would refuse"
    )


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
