"""Random groups, ipsets and packets, from pools so small that they meet.

Rules keep what the codec and calc promise: ports only with a protocol that has them, ICMP types
only with ICMP, one positive set a rule, and a last stage that never passes.
"""

from hypothesis import strategies as st

from calico_k8s.calc.deltas import (
    Group,
    GroupId,
    Ipset,
    IpsetId,
    IpsetKind,
    Member,
    Polarity,
    PortMember,
    ResolvedRule,
    Stage,
)
from calico_k8s.model.addresses import Address, Net, address_version
from calico_k8s.model.names import TierName
from calico_k8s.model.resources import (
    PROTOCOLS_WITH_PORTS,
    Action,
    Direction,
    IcmpMatch,
    PortRange,
)
from calico_k8s.policy.match import Flow
from tests.render.states import ICMP, ICMPV6, ORIGIN, SCTP, TCP, UDP

ADDRESSES = tuple(
    map(Address, ("10.0.0.1", "10.0.0.2", "10.0.0.9", "192.0.2.7", "fd00::1", "fd00::2", "fd00::9"))
)
NETS = tuple(
    map(
        Net,
        (
            "10.0.0.0/8",
            "10.0.0.0/31",
            "10.0.0.9/32",
            "0.0.0.0/0",
            "192.0.2.0/24",
            "fd00::/64",
            "fd00::2/128",
            "::/0",
        ),
    )
)
PORTS = (0, 7, 53, 80, 65535)

net_lists = st.lists(st.sampled_from(NETS), max_size=3).map(tuple)
port_lists = st.lists(
    st.one_of(
        st.sampled_from([PortRange(port, port) for port in PORTS]),
        st.sampled_from([PortRange(50, 90), PortRange(0, 10), PortRange(0, 65535)]),
    ),
    max_size=18,
).map(tuple)
icmp_matches = st.builds(
    IcmpMatch, st.sampled_from((0, 8, 128, 255)), st.sampled_from((None, 0, 3))
)


def ipsets(direction: Direction) -> tuple[Ipset, ...]:
    """The sets that rules of a direction ask."""
    return tuple(
        Ipset(IpsetId(f"{direction}-{kind}-{n}"), kind, Polarity.OPENS, direction)
        for kind in IpsetKind
        for n in range(2)
    )


@st.composite
def rules(draw: st.DrawFn, direction: Direction) -> ResolvedRule:
    """A rule of a group of this direction."""
    protocol = draw(st.sampled_from((None, TCP, UDP, SCTP, ICMP, ICMPV6, 47)))
    has_ports = protocol in PROTOCOLS_WITH_PORTS
    is_icmp = protocol in (ICMP, ICMPV6)
    asked = st.sampled_from(ipsets(direction))
    ends = {
        f"{end}_{what}": draw(st.one_of(st.just(()), net_lists))
        for end in ("src", "dst")
        for what in ("nets", "not_nets")
    }
    ports = {
        f"{end}_{what}": draw(st.one_of(st.just(()), port_lists)) if has_ports else ()
        for end in ("src", "dst")
        for what in ("ports", "not_ports")
    }
    return ResolvedRule(
        action=draw(st.sampled_from(Action)),
        origin=ORIGIN,
        ip_version=draw(st.sampled_from((None, None, 4, 6))),
        protocol=protocol,
        not_protocol=draw(st.sampled_from((None, None, TCP, UDP))),
        icmp=draw(st.one_of(st.none(), icmp_matches)) if is_icmp else None,
        not_icmp=draw(st.one_of(st.none(), icmp_matches)) if is_icmp else None,
        peer_ipset=draw(st.one_of(st.none(), asked)),
        peer_not_ipsets=tuple(draw(st.lists(asked, max_size=2))),
        **ends,  # type: ignore[arg-type]  # the fields of nets
        **ports,  # type: ignore[arg-type]  # the fields of ports
    )


@st.composite
def groups(draw: st.DrawFn, name: str, direction: Direction) -> Group:
    """A group of one to three stages."""
    stage_rules = st.lists(rules(direction), max_size=4).map(tuple)
    stages = [
        Stage(
            TierName(f"t{n}"),
            draw(stage_rules),
            draw(st.sampled_from((Action.DENY, Action.PASS))),
            ORIGIN,
        )
        for n in range(draw(st.integers(0, 2)))
    ]
    last = tuple(r for r in draw(stage_rules) if r.action is not Action.PASS)
    return Group(GroupId(name), direction, (*stages, Stage(None, last, Action.DENY, ORIGIN)))


def members(ipset: Ipset) -> st.SearchStrategy[tuple[Member, ...]]:
    """What a set holds."""
    member: st.SearchStrategy[Member] = st.sampled_from(NETS)
    if ipset.kind is IpsetKind.ADDRESS_PORT:
        member = st.builds(
            PortMember,
            st.sampled_from(ADDRESSES),
            st.sampled_from((TCP, UDP)),
            st.sampled_from(PORTS),
        )
    return st.lists(member, max_size=3, unique=True).map(tuple)


@st.composite
def flows(draw: st.DrawFn) -> Flow:
    """A flow between two addresses of one family, with what its protocol carries."""
    src = draw(st.sampled_from(ADDRESSES))
    version = address_version(src)
    dst = draw(st.sampled_from([a for a in ADDRESSES if address_version(a) == version]))
    own_icmp = ICMP if version == 4 else ICMPV6
    protocol = draw(st.sampled_from((TCP, UDP, SCTP, own_icmp, 47)))
    if protocol in PROTOCOLS_WITH_PORTS:
        port = st.sampled_from(PORTS)
        return Flow(src, dst, protocol, draw(port), draw(port))
    if protocol == own_icmp:
        # No ICMP message has type 255; to iptables it is any type.
        icmp = IcmpMatch(draw(st.sampled_from((0, 8, 128))), draw(st.sampled_from((0, 3))))
        return Flow(src, dst, protocol, icmp=icmp)
    return Flow(src, dst, protocol)
