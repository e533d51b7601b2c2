"""Packets through a node's chains: who passes, who does not, and whose marks remain.

The node is :data:`~tests.render.states.GOLDEN`'s ``one-annotation``: two pods that take TCP on port
4001 from 10.65.0.9 (and fd65::9), and may send anything anywhere.
"""

from dataclasses import replace
from typing import Literal

import msgspec
import pytest

from calico_k8s.model.addresses import Address, Net
from calico_k8s.model.resources import IcmpMatch
from calico_k8s.render.endpoints import Attachment
from calico_k8s.render.marks import Number, mark_layout
from calico_k8s.render.settings import RenderConfig
from calico_k8s.render.tables import KernelMember
from tests.render.kernels import UPLINK, simulated
from tests.render.states import (
    BACKEND_ONLY,
    EGRESS,
    GOLDEN,
    ICMPV6,
    MEMBERS,
    OPEN_OUT,
    TCP,
    TWO_PODS,
    UDP,
    State,
    endpoint,
    group,
    profiles,
)
from tests.simulate import Kernel, Outcome, Verdict
from tests.simulated_rules import Packet

CLIENT, POD, OTHER, OUTSIDE = map(Address, ("10.65.0.9", "10.65.0.1", "10.65.0.2", "198.51.100.7"))
CLIENT6, POD6, OUTSIDE6, UNSPECIFIED6 = map(Address, ("fd65::9", "fd65::1", "2001:db8::7", "::"))
NODE = Address("192.168.0.1")
NODE6 = Address("fd00::1")
POD_LINK, OTHER_LINK, NEW_LINK = "cali0001", "cali0002", "cali0003"
CUT = mark_layout(RenderConfig().mark_mask).cut
STALE = mark_layout(RenderConfig().mark_mask).mark(Number.ALLOW_ALL)
"""A mark of ours on a packet that has not met a set of ours: somebody restored it."""

Hook = Literal["forward", "to_host", "from_host"]
ALLOWED, LEFT, DENIED = "allowed", "left", "denied"
"""Accepted by a rule of ours; left to other programs' rules; dropped by a rule of ours."""


def kernel(config: RenderConfig | None = None, policy: Verdict = Verdict.ACCEPT) -> Kernel:
    state = GOLDEN["one-annotation"]
    held = simulated(state._replace(config=config) if config else state, policy)
    groups = {**held.link_groups, NEW_LINK: held.link_groups[POD_LINK]}
    return replace(held, link_groups=groups, own_addresses=frozenset((NODE, NODE6)))


def sent(held: Kernel, hook: Hook, packet: Packet) -> Outcome:
    return {"forward": held.forward, "to_host": held.to_host, "from_host": held.from_host}[hook](
        packet
    )


def fate(held: Kernel, hook: Hook, packet: Packet) -> str:
    outcome = sent(held, hook, packet)
    if not outcome.is_ours:
        return LEFT
    return ALLOWED if outcome.is_accepted else DENIED


def into(dst: Address = POD, dport: int = 4001, **fields: object) -> Packet:
    """From the client, by the uplink, to a pod."""
    given = {"src": CLIENT, "in_interface": UPLINK, "out_interface": POD_LINK, **fields}
    return Packet(dst=dst, dport=dport, **given)  # type: ignore[arg-type]  # named by the caller


def out(dst: Address = OUTSIDE, **fields: object) -> Packet:
    """From a pod, to somewhere by the uplink."""
    given = {"src": POD, "in_interface": POD_LINK, "out_interface": UPLINK, "dport": 80, **fields}
    return Packet(dst=dst, **given)  # type: ignore[arg-type]  # named by the caller


def nd(kind: int, **fields: object) -> Packet:
    """ICMPv6 of a type, from a pod."""
    given = {
        "src": POD6,
        "dst": OUTSIDE6,
        "in_interface": POD_LINK,
        "out_interface": UPLINK,
        "protocol": ICMPV6,
        "icmp": IcmpMatch(kind),
        "state": "UNTRACKED",
        **fields,
    }
    return Packet(**given)  # type: ignore[arg-type]  # named by the caller


FORWARDED: tuple[tuple[str, Packet, str], ...] = (
    ("what the annotation allows", into(), ALLOWED),
    ("another port", into(dport=4002), DENIED),
    ("another protocol", into(protocol=UDP), DENIED),
    ("another source", into(src=OUTSIDE), DENIED),
    ("the other family", into(src=CLIENT6, dst=POD6), ALLOWED),
    ("the other family, another port", into(src=CLIENT6, dst=POD6, dport=1), DENIED),
    ("a pod to the world", out(), ALLOWED),
    ("a pod to another pod of the node", out(OTHER, out_interface=OTHER_LINK), DENIED),
    ("a pod to itself", out(POD, out_interface=POD_LINK), ALLOWED),
    ("a reply to a pod", into(src=OUTSIDE, state="ESTABLISHED", is_reply=True), ALLOWED),
    ("a reply of a pod", out(state="ESTABLISHED", is_reply=True), ALLOWED),
    ("an error about a pod's flow", into(src=OUTSIDE, state="RELATED"), ALLOWED),
    ("a cut flow, from the pod", out(state="ESTABLISHED", connmark=CUT), DENIED),
    ("a cut flow, to the pod", into(state="ESTABLISHED", connmark=CUT), DENIED),
    ("another program's connection mark", out(state="ESTABLISHED", connmark=0x4000), ALLOWED),
    ("an invalid packet from a pod", out(state="INVALID"), DENIED),
    ("an invalid packet to a pod", into(state="INVALID"), DENIED),
    ("an untracked packet is judged as new", into(state="UNTRACKED"), ALLOWED),
    ("an untracked packet nobody allows", into(state="UNTRACKED", dport=1), DENIED),
    # Anti-spoof: by address and interface, before established flows are let through.
    ("a pod as another pod of the node", out(src=OTHER), DENIED),
    ("a pod as a remote pod", out(src=CLIENT), DENIED),
    ("a pod as the world, in a live flow", out(src=OUTSIDE, state="ESTABLISHED"), DENIED),
    ("a pod as another pod, in a live flow", out(src=OTHER, state="ESTABLISHED"), DENIED),
    ("a pod's address from the uplink", into(OTHER, src=POD, out_interface=OTHER_LINK), DENIED),
    ("the same in a live flow", into(OTHER, src=POD, state="ESTABLISHED"), DENIED),
    # Workload interfaces whose endpoint is not known.
    ("a new pod to the world", out(src=Address("10.65.0.3"), in_interface=NEW_LINK), DENIED),
    ("the world to a new pod", into(Address("10.65.0.3"), out_interface=NEW_LINK), DENIED),
    (
        "a pod to a new pod",
        out(Address("10.65.0.3"), out_interface=NEW_LINK),
        DENIED,
    ),
    # Not ours.
    ("the world to the world", into(OUTSIDE, out_interface="docker0"), LEFT),
    ("a live flow of others", into(OUTSIDE, out_interface="docker0", state="ESTABLISHED"), LEFT),
    ("an invalid packet of others", into(OUTSIDE, out_interface="docker0", state="INVALID"), LEFT),
    # A mark that somebody restored gives nobody a group.
    ("a stale mark, the world to a pod", into(src=OUTSIDE, mark=STALE), DENIED),
    (
        "a stale mark, the world to the world",
        into(OUTSIDE, out_interface="docker0", mark=STALE),
        LEFT,
    ),
    ("a stale mark, a pod as the world", out(src=OUTSIDE, mark=STALE), DENIED),
    ("the same in a live flow", out(src=OUTSIDE, mark=STALE, state="ESTABLISHED"), DENIED),
    # Neighbour discovery passes bridges, whoever sends it.
    ("neighbour solicitation of a pod", nd(135), ALLOWED),
    ("duplicate address detection", nd(135, src=UNSPECIFIED6), ALLOWED),
    ("neighbour advertisement from link-local", nd(136, src=Address("fe80::1")), ALLOWED),
    ("a multicast report", nd(143, src=UNSPECIFIED6), ALLOWED),
    (
        "neighbour advertisement to a pod",
        nd(136, src=OUTSIDE6, dst=POD6, in_interface=UPLINK),
        ALLOWED,
    ),
    ("a router advertisement from a pod", nd(134), DENIED),
    ("a redirect from a pod", nd(137), DENIED),
    ("a router advertisement from link-local", nd(134, src=Address("fe80::1")), DENIED),
    ("an echo request from link-local", nd(128, src=Address("fe80::1")), DENIED),
)


@pytest.mark.parametrize(
    ("packet", "expected"), [case[1:] for case in FORWARDED], ids=[case[0] for case in FORWARDED]
)
def test_a_packet_that_passes_through(packet: Packet, expected: str) -> None:
    assert fate(kernel(), "forward", packet) == expected


TO_HOST: tuple[tuple[str, Packet, str, str, str], ...] = (
    # what, packet; with accept, return, drop
    ("a pod to its node", out(NODE), ALLOWED, LEFT, DENIED),
    ("a pod's reply to its node", out(NODE, state="ESTABLISHED"), ALLOWED, LEFT, LEFT),
    ("a pod as another", out(NODE, src=OTHER), DENIED, DENIED, DENIED),
    ("a pod as the world", out(NODE, src=OUTSIDE), DENIED, DENIED, DENIED),
    (
        "a pod as another, in a live flow",
        out(NODE, src=OTHER, state="ESTABLISHED", is_reply=True),
        DENIED,
        DENIED,
        DENIED,
    ),
    (
        "a pod as the world, in a flow of the world's",
        out(NODE, src=OUTSIDE, state="ESTABLISHED"),
        DENIED,
        DENIED,
        DENIED,
    ),
    (
        "a new pod to its node",
        out(NODE, src=Address("10.65.0.3"), in_interface=NEW_LINK),
        DENIED,
        DENIED,
        DENIED,
    ),
    (
        "a new pod's answer to its node's probe",
        out(
            NODE,
            src=Address("10.65.0.3"),
            in_interface=NEW_LINK,
            state="ESTABLISHED",
            is_reply=True,
        ),
        ALLOWED,
        LEFT,
        LEFT,
    ),
    (
        "DHCP",
        out(
            Address("255.255.255.255"),
            src=Address("0.0.0.0"),
            protocol=UDP,
            sport=68,
            dport=67,
            in_interface=NEW_LINK,
        ),
        ALLOWED,
        LEFT,
        LEFT,
    ),
    (
        "DHCPv6",
        out(
            Address("ff02::1:2"),
            src=Address("fe80::3"),
            protocol=UDP,
            sport=546,
            dport=547,
            in_interface=NEW_LINK,
        ),
        ALLOWED,
        LEFT,
        LEFT,
    ),
    ("neighbour solicitation", nd(135, src=Address("fe80::3")), ALLOWED, LEFT, LEFT),
    ("neighbour solicitation of a known pod", nd(135), ALLOWED, LEFT, LEFT),
    ("a router advertisement", nd(134), DENIED, DENIED, DENIED),
    ("an invalid packet", out(NODE, state="INVALID"), DENIED, DENIED, DENIED),
    (
        "a stale mark, a pod as the world",
        out(NODE, src=OUTSIDE, mark=STALE),
        DENIED,
        DENIED,
        DENIED,
    ),
    ("the world to the node", into(NODE, src=OUTSIDE), LEFT, LEFT, LEFT),
    ("the world as a pod, to the node", into(NODE, src=POD), DENIED, DENIED, DENIED),
)


@pytest.mark.parametrize("action", ["accept", "return", "drop"])
@pytest.mark.parametrize(
    ("packet", "accept", "return_", "drop"),
    [case[1:] for case in TO_HOST],
    ids=[case[0] for case in TO_HOST],
)
def test_a_packet_to_the_node(
    packet: Packet,
    accept: str,
    return_: str,
    drop: str,
    action: Literal["accept", "return", "drop"],
) -> None:
    held = kernel(RenderConfig(pod_to_host_action=action))
    expected = {"accept": accept, "return": return_, "drop": drop}[action]
    assert fate(held, "to_host", packet) == expected


FROM_HOST: tuple[tuple[str, Packet, str], ...] = (
    ("the node to its pod", into(src=NODE, in_interface=""), LEFT),
    ("the node to a new pod", into(src=NODE, in_interface="", out_interface=NEW_LINK), LEFT),
    ("a forwarded service, allowed", into(in_interface=""), LEFT),
    ("a forwarded service, denied", into(in_interface="", dport=1), DENIED),
    (
        "a stale mark to a new pod",
        into(OUTSIDE, in_interface="", out_interface=NEW_LINK, mark=STALE),
        DENIED,
    ),
    ("a forwarded service's live flow", into(in_interface="", dport=1, state="ESTABLISHED"), LEFT),
    ("the same, cut", into(in_interface="", state="ESTABLISHED", connmark=CUT), DENIED),
    (
        "a forwarded service to a new pod",
        into(OUTSIDE, in_interface="", out_interface=NEW_LINK),
        DENIED,
    ),
    (
        "duplicate address detection of the node",
        nd(135, src=UNSPECIFIED6, dst=Address("ff02::1"), in_interface="", out_interface=POD_LINK),
        LEFT,
    ),
    ("the node to the world", out(src=NODE, in_interface=""), LEFT),
)


@pytest.mark.parametrize(
    ("packet", "expected"), [case[1:] for case in FROM_HOST], ids=[case[0] for case in FROM_HOST]
)
def test_a_packet_from_the_node(packet: Packet, expected: str) -> None:
    outcome = sent(kernel(), "from_host", packet)
    if outcome.is_accepted:
        assert outcome.mark == packet.mark, "another mark would have the kernel route it again"
    assert fate(kernel(), "from_host", packet) == expected


ALL_PACKETS: list[tuple[Hook, Packet]] = [
    *(("forward", case[1]) for case in FORWARDED),
    *(("to_host", case[1]) for case in TO_HOST),
    *(("from_host", case[1]) for case in FROM_HOST),
]


@pytest.mark.parametrize(
    "config",
    [
        RenderConfig(),
        RenderConfig(allow_action="return", pod_to_host_action="return"),
        RenderConfig(unknown_endpoint_action="allow", invalid_action="allow"),
        RenderConfig(mark_mask=0x7F00_0100, pod_to_host_action="drop"),
    ],
)
def test_no_packet_leaves_our_last_chain_with_a_mark_of_ours(config: RenderConfig) -> None:
    held, field = kernel(config), mark_layout(config.mark_mask).field
    others = 0xFFFFFFFF & ~config.mark_mask
    for hook, packet in ALL_PACKETS:
        if packet.connmark != CUT:
            outcome = sent(held, hook, replace(packet, mark=others))
            assert not outcome.is_accepted or outcome.mark == others, (hook, packet, field)


def test_what_policy_allows_is_accepted_against_other_programs_end() -> None:
    held = kernel(policy=Verdict.DROP)
    for name, packet, expected in FORWARDED:
        assert held.forward(packet).is_accepted is (expected == ALLOWED), name


def test_with_allow_action_return_nothing_is_accepted_and_the_same_is_denied() -> None:
    held = kernel(RenderConfig(allow_action="return"))
    for name, packet, expected in FORWARDED:
        assert fate(held, "forward", packet) == (DENIED if expected == DENIED else LEFT), name


def test_unknown_workloads_pass_where_they_are_let() -> None:
    held = kernel(RenderConfig(unknown_endpoint_action="allow"))
    new = Address("10.65.0.3")
    assert fate(held, "forward", out(src=new, in_interface=NEW_LINK)) == LEFT
    assert fate(held, "forward", into(new, out_interface=NEW_LINK)) == LEFT
    assert fate(held, "forward", out(new, out_interface=NEW_LINK)) == ALLOWED
    assert fate(held, "forward", into(dport=1)) == DENIED
    assert fate(held, "forward", out(src=OTHER)) == DENIED
    assert fate(held, "to_host", out(NODE, src=new, in_interface=NEW_LINK)) == LEFT
    assert fate(held, "to_host", out(NODE, src=OTHER)) == DENIED


def test_invalid_packets_are_judged_where_they_are_let() -> None:
    held = kernel(RenderConfig(invalid_action="allow"))
    assert fate(held, "forward", into(state="INVALID")) == ALLOWED
    assert fate(held, "forward", into(state="INVALID", dport=1)) == DENIED
    assert fate(held, "forward", out(state="ESTABLISHED", connmark=CUT)) == DENIED


def test_interfaces_known_by_name_are_closed_before_they_are_found() -> None:
    held = kernel(RenderConfig(workload_interfaces=("cali+", "eni7")))
    new = Address("10.65.0.3")
    for link in ("cali9999", "eni7"):
        assert fate(held, "forward", out(src=new, in_interface=link)) == DENIED
        assert fate(held, "forward", into(new, out_interface=link)) == DENIED
        assert fate(held, "to_host", out(NODE, src=new, in_interface=link)) == DENIED
    assert fate(held, "forward", into(new, out_interface="eni77")) == LEFT


def test_addresses_of_the_nodes_pod_nets_are_closed_before_their_interfaces_are_found() -> None:
    held = kernel(RenderConfig(pod_nets=(Net("10.65.0.0/29"), Net("fd65::/125"))))
    beside = Address("10.65.1.3")
    for new in (Address("10.65.0.3"), Address("fd65::3")):
        away = OUTSIDE6 if ":" in new else OUTSIDE
        known = POD6 if ":" in new else POD
        for dst in (away, known):
            assert fate(held, "forward", out(dst, src=new, in_interface="veth9")) == DENIED
        for src in (away, known):
            link = POD_LINK if src == known else UPLINK
            packet = into(new, src=src, in_interface=link, out_interface="veth9")
            assert fate(held, "forward", packet) == DENIED
        own = into(new, src=NODE, in_interface="", out_interface="veth9")
        assert fate(held, "from_host", own) == LEFT, "the node's own probes"
    assert fate(held, "forward", out(src=beside, in_interface="veth9")) == LEFT
    assert fate(held, "forward", into(beside, out_interface="veth9")) == LEFT
    assert [fate(held, "forward", case[1]) for case in FORWARDED] == [c[2] for c in FORWARDED]
    lets = RenderConfig(pod_nets=(Net("10.65.0.0/29"),), unknown_endpoint_action="allow")
    new_out = out(src=Address("10.65.0.3"), in_interface="veth9")
    assert fate(kernel(lets), "forward", new_out) == LEFT


def test_a_held_endpoint_keeps_its_live_flows_and_opens_and_takes_no_others() -> None:
    held = kernel()
    mark = mark_layout(RenderConfig().mark_mask).mark(Number.HELD)
    for ipset in held.ipsets.values():
        for text, member in ipset.members.items():
            if member.mark_mask:
                ipset.members[text] = msgspec.structs.replace(member, mark=mark)
    assert fate(held, "forward", out()) == DENIED
    assert fate(held, "forward", into()) == DENIED
    assert fate(held, "to_host", out(NODE)) == DENIED
    assert fate(held, "forward", out(state="ESTABLISHED")) == ALLOWED
    assert fate(held, "forward", into(state="ESTABLISHED")) == ALLOWED


def test_an_entry_whose_number_has_no_group_is_closed() -> None:
    held = kernel()
    layout = mark_layout(RenderConfig().mark_mask)
    stray = KernelMember("10.65.0.1", layout.mark(77), layout.field)
    next(s for name, s in held.ipsets.items() if name == "cali4-dst").members["10.65.0.1"] = stray
    assert fate(held, "forward", into()) == DENIED


CLOSED_OUT = group("closed-out", EGRESS, profiles())


def closed_pod(attachment: Attachment, addresses: str = "10.65.0.1 10.65.0.5") -> Kernel:
    """A pod that may neither send nor take anything, and a neighbour."""
    state = State(
        "",
        (OPEN_OUT, CLOSED_OUT, BACKEND_ONLY),
        {
            endpoint("pod", addresses, "backend-only", "closed-out"): attachment,
            endpoint("other", "10.65.0.2", "backend-only"): Attachment(
                OTHER_LINK if not attachment.is_shared else attachment.interface,
                attachment.is_shared,
            ),
        },
        MEMBERS,
    )
    return simulated(state)


def test_a_pod_reaches_all_its_own_addresses_whatever_policy_says() -> None:
    held = closed_pod(Attachment(POD_LINK))
    for dst in (POD, Address("10.65.0.5")):
        assert fate(held, "forward", out(dst, out_interface=POD_LINK)) == ALLOWED
    assert fate(held, "forward", out(OTHER, out_interface=OTHER_LINK)) == DENIED


def test_neighbours_on_a_bridge_are_not_taken_for_oneself() -> None:
    held = closed_pod(Attachment("cni0", is_shared=True))
    bridged = {"in_interface": "cni0", "out_interface": "cni0"}
    assert fate(held, "forward", out(POD, **bridged)) == ALLOWED
    assert fate(held, "forward", out(OTHER, **bridged)) == DENIED
    assert fate(held, "forward", out(POD, src=OTHER, dport=1, **bridged)) == DENIED


def test_an_endpoint_without_an_interface_is_closed_but_for_what_comes_in() -> None:
    state = GOLDEN["one-annotation"]
    unattached = dict.fromkeys(TWO_PODS)
    held = simulated(state._replace(endpoints=unattached))
    assert fate(held, "forward", out(in_interface="eth9")) == DENIED
    assert fate(held, "forward", into(protocol=TCP, out_interface="eth9")) == ALLOWED
