"""Endpoints and peers as the kernel's sets hold them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico_k8s.calc.deltas import Ipset, Member, PortMember
from calico_k8s.model.addresses import Address, parse_net
from calico_k8s.model.resources import Direction
from calico_k8s.netlink.members import pack_member, unpack_member
from calico_k8s.render.endpoints import (
    Attachment,
    Numbers,
    endpoint_ipsets,
    render_endpoint,
    render_ipset,
    render_member,
)
from calico_k8s.render.marks import mark_layout
from calico_k8s.render.settings import DEFAULT_MARK_MASK
from calico_k8s.render.tables import KernelMember
from tests.render.states import SCTP, TCP, UDP, endpoint
from tests.render.strategies import ipsets, members

LAYOUT = mark_layout(DEFAULT_MARK_MASK)
POD = endpoint("pod", "10.0.0.1 fd00::1", "in", "out")
NUMBERS = Numbers(egress=4, ingress=5)


def entries(attachment: Attachment | None, addresses: str = "10.0.0.1 fd00::1") -> set[str]:
    pod = endpoint("pod", addresses, "in", "out")
    made = render_endpoint(pod, attachment, NUMBERS, LAYOUT)
    return {f"{entry.ipset} {entry.member.text}" for entry in made}


def test_a_pod_is_an_entry_by_address_and_one_by_address_and_interface() -> None:
    assert entries(Attachment("cali1")) == {
        "cali4-src 10.0.0.1,cali1",
        "cali4-dst 10.0.0.1",
        "cali6-src fd00::1,cali1",
        "cali6-dst fd00::1",
    }


def test_without_an_interface_it_has_only_addresses() -> None:
    assert entries(None) == {"cali4-dst 10.0.0.1", "cali6-dst fd00::1"}


def test_several_addresses_of_a_family_are_ones_own_on_ones_own_interface() -> None:
    two = "10.0.0.1 10.0.0.2 fd00::1"
    own = {"cali4-self 10.0.0.1,cali1", "cali4-self 10.0.0.2,cali1"}
    assert entries(Attachment("cali1"), two) >= own
    assert not entries(Attachment("cni0", is_shared=True), two) & {
        text.replace("cali1", "cni0") for text in own
    }


def test_each_entry_carries_its_groups_mark_and_only_the_field() -> None:
    made = render_endpoint(POD, Attachment("cali1"), NUMBERS, LAYOUT)
    marks = {entry.ipset.rpartition("-")[2]: entry.member for entry in made}
    assert LAYOUT.number(marks["src"].mark) == NUMBERS.egress
    assert LAYOUT.number(marks["dst"].mark) == NUMBERS.ingress
    assert {member.mark_mask for member in marks.values()} == {LAYOUT.field}


def test_every_entrys_set_is_one_that_every_node_has() -> None:
    made = render_endpoint(
        endpoint("pod", "10.0.0.1 10.0.0.2 fd00::1 fd00::2", "in", "out"),
        Attachment("cali1"),
        NUMBERS,
        LAYOUT,
    )
    names = {ipset.name for version in (4, 6) for ipset in endpoint_ipsets(version)}
    assert {entry.ipset for entry in made} == names


@pytest.mark.parametrize(
    ("member", "version", "text"),
    [
        (parse_net("10.0.0.1"), 4, "10.0.0.1"),
        (parse_net("10.0.0.0/8"), 4, "10.0.0.0/8"),
        (parse_net("fd00::1/128"), 6, "fd00::1"),
        (parse_net("::/0"), 6, "::/0"),
        (PortMember(Address("10.0.0.1"), TCP, 80), 4, "10.0.0.1,tcp:80"),
        (PortMember(Address("fd00::1"), UDP, 53), 6, "fd00::1,udp:53"),
        (PortMember(Address("10.0.0.1"), SCTP, 7), 4, "10.0.0.1,sctp:7"),
    ],
)
def test_a_peer_is_written_as_ipset_prints_it(member: Member, version: int, text: str) -> None:
    assert render_member(member) == (version, KernelMember(text))


@given(st.sampled_from(ipsets(Direction.EGRESS)), st.data())
def test_every_peer_is_a_member_that_the_kernel_takes_and_gives_back(
    asked: Ipset, data: st.DataObject
) -> None:
    for member in data.draw(members(asked)):
        version, made = render_member(member)
        kind = render_ipset(asked, version).type
        packed = memoryview(pack_member(made, kind, version))
        assert unpack_member(packed, kind, version) == made
