"""A group's chains say what the group says: the law, and the shapes that matter."""

from collections.abc import Mapping

from hypothesis import given, settings
from hypothesis import strategies as st

from calico_k8s.calc.deltas import Group, Ipset, IpsetId, IpsetKind, LocalEndpoint, Member
from calico_k8s.calc.judge import judge_group
from calico_k8s.model.addresses import Address, net_contains
from calico_k8s.model.resources import Action, Direction, Protocol
from calico_k8s.policy.match import Flow
from calico_k8s.render.endpoints import Attachment
from calico_k8s.render.groups import render_group
from calico_k8s.render.names import DENY
from tests.render.kernels import UPLINK, VERSIONS, simulated
from tests.render.states import (
    EGRESS,
    INGRESS,
    TCP,
    UDP,
    State,
    allow,
    deny,
    endpoint,
    go_on,
    group,
    log,
    profiles,
    tables,
    tier,
)
from tests.render.strategies import ADDRESSES, flows, groups, ipsets, members
from tests.render.test_assembly import check_table
from tests.simulated_rules import Packet

LINKS = {address: f"cali{n}" for n, address in enumerate(ADDRESSES)}

local_addresses = st.lists(st.sampled_from(ADDRESSES), unique=True, max_size=4)


def holds_in(members_by_ipset: Mapping[Ipset, tuple[Member, ...]]) -> object:
    """Membership as :mod:`calico_k8s.calc.judge` asks it."""
    by_id = {ipset.id: (ipset, held) for ipset, held in members_by_ipset.items()}

    def holds(ipset_id: IpsetId, address: Address, protocol: Protocol, port: int) -> bool:
        ipset, held = by_id[ipset_id]
        if ipset.kind is IpsetKind.ADDRESS_PORT:
            return (address, protocol, port) in held
        return any(isinstance(m, str) and net_contains(m, address) for m in held)

    return holds


@st.composite
def states(draw: st.DrawFn) -> State:
    """A node with two groups a direction and endpoints of one address each, in any of them."""
    made = tuple(draw(groups(f"{d}-{n}", d)) for d in Direction for n in range(2))
    endpoints: dict[LocalEndpoint, Attachment | None] = {
        endpoint(
            address,
            address,
            draw(st.sampled_from(("ingress-0", "ingress-1"))),
            draw(st.sampled_from(("egress-0", "egress-1"))),
        ): Attachment(LINKS[address])
        for address in draw(local_addresses)
    }
    asked = {ipset: draw(members(ipset)) for d in Direction for ipset in ipsets(d)}
    return State("", made, endpoints, asked)


def expected(state: State, flow: Flow) -> bool:
    """Whether both ends allow the flow, by the groups' own evaluation."""
    if flow.src == flow.dst:
        return True
    found: dict[str, Group] = {made.id: made for made in state.groups}
    owners = {made.addresses[0]: made for made in state.endpoints}
    src, dst = owners.get(flow.src), owners.get(flow.dst)
    holds = holds_in(state.members)
    asked = [found[src.egress]] if src is not None else []
    asked += [found[dst.ingress]] if dst is not None else []
    return all(
        judge_group(made, flow, holds).action is Action.ALLOW  # type: ignore[arg-type]  # a function
        for made in asked
    )


def packet(state: State, flow: Flow) -> Packet:
    """The flow's first packet, by the interfaces of its ends."""
    local = {made.addresses[0] for made in state.endpoints}
    return Packet(
        flow.src,
        flow.dst,
        flow.protocol,
        flow.src_port,
        flow.dst_port,
        flow.icmp,
        in_interface=LINKS[flow.src] if flow.src in local else UPLINK,
        out_interface=LINKS[flow.dst] if flow.dst in local else UPLINK,
    )


@settings(max_examples=200)
@given(states(), st.lists(flows(), min_size=1, max_size=12))
def test_rendered_chains_say_what_the_groups_say(state: State, asked: list[Flow]) -> None:
    kernel = simulated(state)
    for flow in asked:
        outcome = kernel.forward(packet(state, flow))
        assert outcome.is_accepted is expected(state, flow), (flow, outcome.trace)


@given(states())
def test_every_rendered_table_is_sound(state: State) -> None:
    for version in VERSIONS:
        for table in tables(state, version):
            check_table(table)


def test_every_stage_goes_on_to_the_next() -> None:
    made = render_group(
        group(
            "g",
            INGRESS,
            tier("a", deny(protocol=TCP), end=Action.PASS),
            tier("b", go_on(protocol=UDP)),
            profiles(allow()),
        ),
        4,
    )
    assert made.chains == {
        "cali-i0-g": (f"-p tcp -g {DENY}", "-g cali-i1-g"),
        "cali-i1-g": ("-p udp -g cali-i2-g", f"-g {DENY}"),
        "cali-i2-g": ("-j RETURN",),
    }
    assert made.entry == "cali-i0-g"


def test_a_stage_that_nothing_goes_on_to_has_no_chain() -> None:
    made = render_group(group("g", INGRESS, tier("a", allow(protocol=TCP)), profiles(allow())), 4)
    assert made.chains == {"cali-i0-g": ("-p tcp -j RETURN", f"-g {DENY}")}


def test_nothing_follows_a_rule_that_matches_everything() -> None:
    made = render_group(group("g", EGRESS, profiles(log(), deny(), allow(protocol=TCP))), 4)
    assert made.chains[made.entry] == (
        '-j LOG --log-prefix "calico-packet: " --log-level 5',
        f"-g {DENY}",
    )


def test_a_group_that_allows_all_is_known_as_such_by_family() -> None:
    made = group("g", EGRESS, tier("a", allow(ip_version=4)), profiles())
    assert render_group(made, 4).allows_all
    assert not render_group(made, 6).allows_all


def test_a_rule_that_changes_keeps_its_chain() -> None:
    before = render_group(group("g", INGRESS, profiles(allow(protocol=TCP))), 4)
    after = render_group(group("g", INGRESS, profiles(deny())), 4)
    assert before.chains.keys() == after.chains.keys()
    assert before != after
