"""The cluster of the tables of policy, and packets in it as words.

It is always the same: ``db`` and ``web`` on node n1, ``far`` on n2, all with IPv4, web with IPv6
too.  Which profiles db has, each table says.
"""

from typing import Literal

from calico_k8s.model import keys
from calico_k8s.model.addresses import Address
from calico_k8s.model.names import NodeName
from calico_k8s.model.resources import (
    PROTOCOL_NUMBERS,
    Action,
    Direction,
    EntityMatch,
    IcmpMatch,
    NamedPort,
    Node,
    Origin,
    PortRange,
    Rule,
)
from calico_k8s.policy.match import Flow
from calico_k8s.policy.snapshot import Snapshot
from tests.states import State, both, pod, profile

TCP, UDP = PROTOCOL_NUMBERS["tcp"], PROTOCOL_NUMBERS["udp"]
ALLOW, DENY, LOG = Action.ALLOW, Action.DENY, Action.LOG
PASS: Literal[Action.PASS] = Action.PASS
INGRESS, EGRESS = Direction.INGRESS, Direction.EGRESS

ADDRESSES = {
    "db": "10.0.0.1",
    "web": "10.0.0.2",
    "web6": "fd00::2",
    "far": "10.0.1.1",
    "n1": "192.168.0.1",
    "n2": "192.168.0.2",
    "outside": "198.51.100.7",
    "outside6": "2001:db8::7",
}
NODES: State = {
    keys.NodeKey(NodeName(name)): Node(NodeName(name), (Address(ADDRESSES[name]),))
    for name in ("n1", "n2")
}
OPEN_EGRESS = profile("egress", origin=Origin("Namespace", name="prod"))


def packet(text: str) -> Flow:
    """``web > db tcp 80`` as a flow; ``icmp 8`` gives a type."""
    src, _, dst, protocol, *number = text.split()
    value = int(number[0]) if number else 0
    ends = Address(ADDRESSES[src]), Address(ADDRESSES[dst])
    if protocol in ("icmp", "icmpv6"):
        return Flow(*ends, PROTOCOL_NUMBERS[protocol], icmp=IcmpMatch(value, 0))
    return Flow(*ends, PROTOCOL_NUMBERS[protocol], 40000, value)


def cluster(*, db: tuple[str, ...] = ("egress",), more: State | None = None) -> Snapshot:
    """The cluster, with these profiles on db; every other pod is open."""
    http = (NamedPort("http", TCP, 8080),)
    open_to_all = profile("open", rule(ALLOW, "open"), origin=Origin("Namespace", name="prod"))
    items = both(
        NODES,
        OPEN_EGRESS,
        open_to_all,
        profile("web-tags", tags=["app_web"]),
        profile("prod", labels={"pcns.name": "prod"}),
        pod("db", ADDRESSES["db"], labels={"app": "db"}, profiles=db),
        pod(
            "web",
            *(ADDRESSES["web"], ADDRESSES["web6"]),
            labels={"app": "web"},
            profiles=["open", "web-tags", "prod"],
            ports=http,
        ),
        pod("far", ADDRESSES["far"], node="n2", labels={"app": "far"}, profiles=["open"]),
        more or {},
    )
    return Snapshot.from_items(items)


def rule(action: Action, name: str = "", *, src: EntityMatch | None = None, port: int = 0) -> Rule:
    """A rule of an object of this name, for TCP where a port is given."""
    return Rule(
        action,
        Origin("Rule", name=name),
        protocol=TCP if port else None,
        src=src or EntityMatch(),
        dst=EntityMatch(ports=(PortRange(port, port),) if port else ()),
    )
