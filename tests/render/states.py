"""Small states of a node for the tests of rendering: groups as calc makes them, and endpoints.

The states with a golden file are in :data:`GOLDEN`; its key is the file's name, its ``says`` what
the file's header promises.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from calico_k8s.calc.deltas import (
    Deltas,
    Group,
    GroupId,
    HostGroup,
    Ipset,
    IpsetId,
    IpsetKind,
    LocalEndpoint,
    LocalHostEndpoint,
    Member,
    Polarity,
    PortMember,
    Rehearsal,
    ResolvedRule,
    Stage,
)
from calico_k8s.felix.hostbook import HostBook
from calico_k8s.model.addresses import Address, Net, Version, parse_net
from calico_k8s.model.names import EndpointId, NamespaceName, NodeName, TierName
from calico_k8s.model.resources import (
    Action,
    Direction,
    HostEndpoint,
    HostHook,
    IcmpMatch,
    Origin,
    PortRange,
)
from calico_k8s.render.assembly import Leaves, render_tables
from calico_k8s.render.endpoints import Attachment
from calico_k8s.render.groups import RenderedGroup, render_group
from calico_k8s.render.hosts import HostTables
from calico_k8s.render.marks import FIRST_GROUP, Number
from calico_k8s.render.settings import RenderConfig
from calico_k8s.render.tables import ChainName, Table

ORIGIN = Origin(kind="Pod", namespace="shop")
TCP, UDP, SCTP, ICMP, ICMPV6 = 6, 17, 132, 1, 58
INGRESS, EGRESS = Direction.INGRESS, Direction.EGRESS

BACKEND = Ipset(IpsetId("backend"), IpsetKind.NET, Polarity.OPENS, INGRESS)
BANNED = Ipset(IpsetId("banned"), IpsetKind.NET, Polarity.CLOSES, INGRESS)
SERVERS = Ipset(IpsetId("servers"), IpsetKind.NET, Polarity.OPENS, INGRESS)
WEB_PORTS = Ipset(IpsetId("web-ports"), IpsetKind.ADDRESS_PORT, Polarity.OPENS, EGRESS)


class State(NamedTuple):
    """A node: its groups, its endpoints with their interfaces, and the members of its ipsets."""

    says: str
    groups: tuple[Group, ...]
    endpoints: Mapping[LocalEndpoint, Attachment | None]
    members: Mapping[Ipset, tuple[Member, ...]]
    config: RenderConfig = RenderConfig()
    hosts: tuple[LocalHostEndpoint, ...] = ()
    own: Mapping[Address, str] = {}
    """The interface of each of the node's addresses."""


def allow(**criteria: object) -> ResolvedRule:
    """An allow rule."""
    return _rule(Action.ALLOW, criteria)


def deny(**criteria: object) -> ResolvedRule:
    """A deny rule."""
    return _rule(Action.DENY, criteria)


def go_on(**criteria: object) -> ResolvedRule:
    """A pass rule."""
    return _rule(Action.PASS, criteria)


def log(**criteria: object) -> ResolvedRule:
    """A log rule."""
    return _rule(Action.LOG, criteria)


def _rule(action: Action, criteria: Mapping[str, object]) -> ResolvedRule:
    return ResolvedRule(action, ORIGIN, **criteria)  # type: ignore[arg-type]  # named by the caller


def ports(*numbers: int | tuple[int, int]) -> tuple[PortRange, ...]:
    """Ports and ranges of ports."""
    return tuple(PortRange(n, n) if isinstance(n, int) else PortRange(*n) for n in numbers)


def nets(*texts: str) -> tuple[Net, ...]:
    """Nets from text."""
    return tuple(parse_net(text) for text in texts)


def profiles(*rules: ResolvedRule) -> Stage:
    """The last stage: it ends with deny."""
    return Stage(None, rules, Action.DENY, ORIGIN)


def tier(name: str, *rules: ResolvedRule, end: Action = Action.DENY) -> Stage:
    """A stage before the last."""
    assert end in (Action.DENY, Action.PASS)
    return Stage(TierName(name), rules, end, Origin(kind="Tier", name=name))


def tier_end() -> Stage:
    """The last stage of a group that has not to decide."""
    return Stage(None, (), Action.PASS, ORIGIN)


def group(name: str, direction: Direction, *stages: Stage) -> Group:
    """A group of these stages."""
    return Group(GroupId(name), direction, stages)


def endpoint(name: str, addresses: str, ingress: str, egress: str = "open-out") -> LocalEndpoint:
    """An endpoint of this node, in two groups."""
    return LocalEndpoint(
        EndpointId(NodeName("n1"), NamespaceName("shop"), name),
        tuple(Address(address) for address in addresses.split()),
        GroupId(ingress),
        GroupId(egress),
    )


def deep(name: str, direction: Direction, count: int) -> Group:
    """A group each of whose stages has a rule, and passes what it does not allow on to the next."""
    rules = (allow(protocol=TCP, dst_ports=ports(80)),)
    middle = Stage(TierName("t"), rules, Action.PASS, Origin("Tier", name="t"))
    last = msgspec.structs.replace(middle, end=Action.DENY)
    return group(name, direction, *(middle,) * (count - 1), last)


def rehearsing(name: str, direction: Direction, count: int, rehearsed: int) -> Group:
    """A group of so many stages, at whose last begins a rehearsal of so many."""
    found = deep(name, direction, count)
    staged = Origin("StagedNetworkPolicy", namespace="shop", name="wall")
    middle = msgspec.structs.replace(found.stages[-1], end=Action.PASS)
    last = Stage(middle.tier, (), Action.DENY, staged)
    rehearsal = Rehearsal(count - 1, 0, (*(middle,) * (rehearsed - 1), last))
    return msgspec.structs.replace(found, rehearsal=rehearsal)


def rendered(state: State, version: Version) -> dict[GroupId, RenderedGroup]:
    """The state's groups in one family."""
    tells = state.config.tells
    return {made.id: render_group(made, version, tells=tells) for made in state.groups}


def numbers(state: State) -> dict[GroupId, int]:
    """Numbers as an agent that starts fresh gives them: in order, none to what allows all."""
    both = [rendered(state, 4), rendered(state, 6)]
    found: dict[GroupId, int] = {}
    free = dict.fromkeys(Direction, int(FIRST_GROUP))
    for made in _of_pods(state):
        if all(family[made.id].allows_all for family in both):
            found[made.id] = Number.ALLOW_ALL
        else:
            found[made.id] = free[made.direction]
            free[made.direction] += 1
    return found


def tables(state: State, version: Version) -> tuple[Table, ...]:
    """The state's tables in one family."""
    made, given = rendered(state, version), numbers(state)
    leaves: Leaves = {
        direction: _leaves(
            (made[g.id].entry, given[g.id]) for g in _of_pods(state) if g.direction is direction
        )
        for direction in Direction
    }
    of_pods = [made[g.id] for g in _of_pods(state)]
    return render_tables(state.config, version, of_pods, leaves, hosts_of(state)[version])


def hosts_of(state: State) -> dict[Version, HostTables]:
    """What the state's host endpoints ask, in each family."""
    return host_book(state).tables(state.config)


def host_book(state: State) -> HostBook:
    """The state's host endpoints."""
    book = HostBook((4, 6), tells=state.config.tells)
    deltas = Deltas(
        groups_updated={g.id: g for g in state.groups if g.hook is not None},
        hosts_updated={host.endpoint.id: host for host in state.hosts},
    )
    book.take(deltas, state.own)
    return book


def _of_pods(state: State) -> list[Group]:
    return [made for made in state.groups if made.hook is None]


def _leaves(pairs: Iterable[tuple[ChainName, int]]) -> dict[ChainName, int]:
    return {chain: number for chain, number in pairs if number >= FIRST_GROUP}


OPEN_OUT = group("open-out", EGRESS, profiles(allow()))
BACKEND_ONLY = group(
    "backend-only",
    INGRESS,
    profiles(allow(protocol=TCP, peer_ipset=BACKEND, dst_ports=ports(4001))),
)
TWO_PODS = {
    endpoint("backend", "10.65.0.1 fd65::1", "backend-only"): Attachment("cali0001"),
    endpoint("other", "10.65.0.2 fd65::2", "backend-only"): Attachment("cali0002"),
}
MEMBERS: dict[Ipset, tuple[Member, ...]] = {
    BACKEND: nets("10.65.0.9/32", "fd65::9/128"),
    BANNED: nets("10.65.7.0/24", "fd65:7::/64"),
    WEB_PORTS: (
        PortMember(Address("10.65.0.9"), TCP, 8080),
        PortMember(Address("fd65::9"), UDP, 53),
    ),
}

ALL_CRITERIA = group(
    "all-criteria",
    INGRESS,
    tier(
        "security",
        deny(peer_ipset=BANNED),
        go_on(protocol=UDP, dst_ports=ports(53), peer_not_ipsets=(BANNED,)),
        allow(protocol=TCP, src_nets=nets("192.0.2.0/24"), dst_ports=ports((8000, 8080))),
        allow(protocol=TCP, src_not_nets=nets("192.0.2.0/24"), src_ports=ports(179)),
        allow(protocol=SCTP, dst_ports=ports(7, (9, 11), 13), dst_not_ports=ports(10)),
        log(protocol=UDP),
        allow(ip_version=4, protocol=ICMP, icmp=IcmpMatch(8, 0)),
        allow(protocol=ICMP, not_icmp=IcmpMatch(5)),
        allow(ip_version=6, protocol=ICMPV6, icmp=IcmpMatch(128)),
        allow(protocol=ICMPV6, not_icmp=IcmpMatch(1, 4)),
        allow(protocol=136),
        end=Action.PASS,
    ),
    profiles(
        deny(
            src_nets=nets("198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32"),
            dst_not_nets=nets("10.65.0.1/32", "fd65::1/128"),
        ),
        allow(not_protocol=TCP, dst_nets=nets("10.65.0.2/32", "fd65::/64")),
    ),
)
NAMED_PORTS_OUT = group(
    "named-ports-out",
    EGRESS,
    profiles(allow(protocol=TCP, peer_ipset=WEB_PORTS), allow(protocol=UDP, peer_ipset=WEB_PORTS)),
)
MANY_GROUPS = tuple(
    group(f"many{n:02}", INGRESS, profiles(allow(protocol=TCP, dst_ports=ports(8000 + n))))
    for n in range(22)
)

HOST_RULES = (
    deny(peer_ipset=BANNED),
    allow(protocol=TCP, peer_ipset=BACKEND, dst_ports=ports(9100), own_ipset=SERVERS),
)


def host_group(hook: HostHook, direction: Direction, *stages: Stage) -> Group:
    """A group of host endpoints, named by what it is asked."""
    return Group(GroupId(f"{hook.value}-{direction.value}"), direction, stages, hook)


def host_endpoint(name: str, interface: str, *groups: Group) -> LocalHostEndpoint:
    """A host endpoint of this node that asks these groups."""
    asked = (HostGroup(g.hook, g.direction, g.id) for g in groups if g.hook is not None)
    return LocalHostEndpoint(HostEndpoint(NodeName("n1"), name, interface), tuple(asked))


HOST_GROUPS = (
    host_group(
        HostHook.LOCAL, INGRESS, tier("security", *HOST_RULES, end=Action.PASS), profiles(allow())
    ),
    host_group(HostHook.LOCAL, EGRESS, profiles()),
    host_group(
        HostHook.FORWARDED,
        INGRESS,
        tier("security", *HOST_RULES),
        tier_end(),
    ),
    host_group(
        HostHook.PRE_DNAT, INGRESS, tier("security", *HOST_RULES, end=Action.PASS), tier_end()
    ),
    host_group(
        HostHook.UNTRACKED, INGRESS, tier("security", *HOST_RULES, end=Action.PASS), tier_end()
    ),
    host_group(
        HostHook.UNTRACKED,
        EGRESS,
        tier("security", allow(protocol=UDP), end=Action.PASS),
        tier_end(),
    ),
)

GOLDEN: Mapping[str, State] = {
    "no-pods": State(
        "Nothing is known yet: what workload interfaces send or receive is dropped, the rest of"
        " the node's traffic is not touched.",
        (),
        {},
        {},
    ),
    "one-annotation": State(
        "allow tcp from label access=backend to port 4001: pods of group backend-only take TCP on"
        " port 4001 from the set cali4-s-backend and nothing else; they reach everything.",
        (OPEN_OUT, BACKEND_ONLY),
        TWO_PODS,
        MEMBERS,
    ),
    "every-criterion": State(
        "A tier that passes what it does not decide, then profiles: one rule for each criterion"
        " that a rule can have.  Egress asks named ports.",
        (ALL_CRITERIA, NAMED_PORTS_OUT),
        {
            endpoint("all", "10.65.0.1 fd65::1", "all-criteria", "named-ports-out"): Attachment(
                "cali0001"
            )
        },
        MEMBERS,
    ),
    "told": State(
        "The same, telling what is denied and logged: each cause has a prefix, and a denial a chain"
        " of that name.",
        (ALL_CRITERIA, NAMED_PORTS_OUT),
        {
            endpoint("all", "10.65.0.1 fd65::1", "all-criteria", "named-ports-out"): Attachment(
                "cali0001"
            )
        },
        MEMBERS,
        RenderConfig(tells=True),
    ),
    "many-groups": State(
        "Twenty-two groups: the ingress tree has three levels.",
        (OPEN_OUT, *MANY_GROUPS),
        {endpoint("m7", "10.65.0.1 fd65::1", "many07"): Attachment("cali0001")},
        {},
    ),
    "every-setting": State(
        "One annotation, with every setting other than its default: nothing is accepted, only"
        " denied or left to others, and told; unknown workloads pass; pods may not talk to the"
        " node.",
        (OPEN_OUT, BACKEND_ONLY),
        TWO_PODS,
        MEMBERS,
        RenderConfig(
            mark_mask=0xFFF00,
            allow_action="return",
            pod_to_host_action="drop",
            unknown_endpoint_action="allow",
            invalid_action="allow",
            workload_interfaces=("cali+", "veth+"),
            tells=True,
        ),
    ),
    "host-endpoints": State(
        "Nobody's pods; interface eth0 with policy at every hook, and every other interface with"
        " the same where connections are tracked: ports that stay open come first everywhere but in"
        " what passes through, and nothing is accepted.",
        HOST_GROUPS,
        {},
        MEMBERS | {SERVERS: nets("192.168.0.0/24", "fd00::/64")},
        hosts=(
            host_endpoint("every", "*", *HOST_GROUPS),
            host_endpoint("uplink", "eth0", *HOST_GROUPS),
        ),
    ),
    "named-interfaces": State(
        "One annotation, workload interfaces also known by name, and the node's pod nets: closed"
        " before they are found; what pods send to the node is left to the node's own rules.",
        (OPEN_OUT, BACKEND_ONLY),
        TWO_PODS,
        MEMBERS,
        RenderConfig(
            workload_interfaces=("cali+", "eni+"),
            pod_nets=nets("10.65.0.0/29", "fd65::/125"),
            pod_to_host_action="return",
        ),
    ),
}
