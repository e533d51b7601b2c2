"""What a node tells of packets that were denied or logged, and where it is stored.

===========================================  ==========================================
path below ``/calico``                       value
===========================================  ==========================================
``/felix/v2/host/NODE/denials``              a list of :class:`Denial`, the newest last
===========================================  ==========================================

Felix writes it beside its status (:mod:`.status`), under the same lease.  Packets that have both
ends, the port and the deciding rule in common are one record.
"""

import msgspec

from calico_k8s.model.addresses import Address
from calico_k8s.model.names import NodeName
from calico_k8s.model.status import HOSTS


class Deciding(msgspec.Struct, frozen=True):
    """The object and rule that decided; ``rule`` counts from 1, None is the end of its list."""

    kind: str
    namespace: str
    name: str
    rule: int | None


class Denial(msgspec.Struct, frozen=True, omit_defaults=True):
    """Packets of one kind; texts that a newer version writes are texts like any other."""

    action: str
    """``deny``, or ``log`` where a rule with that action was met; ``would-deny`` and
    ``would-allow`` of what a staged policy would do."""
    direction: str
    """``ingress`` or ``egress``: whose policy it was, the receiver's or the sender's."""
    src: Address
    dst: Address
    protocol: str
    """Its name, or its number."""
    first: float
    """When the first of them was seen; seconds since the epoch."""
    last: float
    why: str
    """What decided, in the words of ``explain``."""
    src_pod: str = ""
    """``namespace/name``; empty where the address is no pod's."""
    dst_pod: str = ""
    dst_name: str = ""
    """What the destination is called, where the node has learnt that from DNS answers."""
    port: int = 0
    """The destination's; 0 where the protocol has none."""
    icmp_type: int | None = None
    icmp_code: int | None = None
    deciding: Deciding | None = None
    """None where no policy was asked."""
    packets: int = 0
    sampled: bool = False
    """Whether there were more than were looked at: then the number is the kernel's count, shared
    out by what was seen."""


class StagedCount(msgspec.Struct, frozen=True):
    """Packets that asked for a connection, which a staged policy would have decided on."""

    policy: str
    """``Kind/namespace/name``."""
    would_allow: int
    would_deny: int
    since: float
    """When the first of them was seen; seconds since the epoch."""


class Denials(msgspec.Struct, frozen=True):
    """What one node tells."""

    node: NodeName
    denials: tuple[Denial, ...] = ()
    is_told: bool = True
    """Whether the setting ``denials`` is on there."""
    rehearsed: tuple[Denial, ...] = ()
    """What staged policies would do, the newest last."""
    staged: tuple[StagedCount, ...] = ()
    """How often each staged policy would have done something, by its name."""


def denials_path(node: NodeName) -> str:
    """Where it is stored."""
    return f"{HOSTS}{node}/denials"


def parse_denials_path(path: str) -> NodeName | None:
    """Whose denials are there; None for another path."""
    match path.removeprefix(HOSTS).split("/"):
        case [node, "denials"]:
            return NodeName(node)
        case _:
            return None
