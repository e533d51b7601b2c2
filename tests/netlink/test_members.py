"""Members of ipsets, text to bytes and back, without a kernel."""

import ipaddress
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico_k8s.model.addresses import Version, parse_net
from calico_k8s.netlink.members import (
    canonical_member,
    pack_member,
    split_zero_net,
    unpack_member,
)
from calico_k8s.render.tables import IpsetType, KernelMember

IPSET_TYPES: tuple[IpsetType, ...] = get_args(IpsetType)
VERSIONS: tuple[Version, ...] = (4, 6)


@st.composite
def members(draw: st.DrawFn) -> tuple[KernelMember, IpsetType, Version]:
    """A member with its set's type and family."""
    kind, version = draw(st.sampled_from(IPSET_TYPES)), draw(st.sampled_from(VERSIONS))
    address = st.ip_addresses(v=version).map(str)
    length = st.integers(0, 32 if version == 4 else 128)
    net = st.builds(lambda a, n: parse_net(f"{a}/{n}"), address, length)
    text = {
        "hash:ip": address,
        "hash:net": net,
        "hash:net,net": st.builds("{},{}".format, net, net),
        "hash:net,iface": st.builds(
            "{},{}".format, net, st.from_regex("[a-z]{1,15}", fullmatch=True)
        ),
        "hash:ip,port": st.builds(
            "{},{}:{}".format,
            address,
            st.sampled_from(["tcp", "udp", "sctp"]),
            st.integers(0, 65535),
        ),
    }[kind]
    mask = draw(st.integers(0, 2**32 - 1))
    mark = draw(st.integers(0, 2**32 - 1)) if mask else 0
    canonical = canonical_member(draw(text), kind, version)
    return KernelMember(canonical, mark, mask, draw(st.booleans())), kind, version


@given(members())
def test_a_member_is_read_as_it_was_packed(
    case: tuple[KernelMember, IpsetType, Version],
) -> None:
    member, kind, version = case
    assert unpack_member(memoryview(pack_member(member, kind, version)), kind, version) == member


@pytest.mark.parametrize(
    ("text", "kind", "version", "expected"),
    [
        ("10.0.0.1/32", "hash:net", 4, "10.0.0.1"),
        ("fd00::1/128", "hash:net", 6, "fd00::1"),
        ("fd00::/32", "hash:net", 6, "fd00::/32"),
        ("10.0.0.1/32,eth0", "hash:net,iface", 4, "10.0.0.1,eth0"),
        ("10.0.0.1/32,10.0.0.0/8", "hash:net,net", 4, "10.0.0.1,10.0.0.0/8"),
        ("10.0.0.1", "hash:ip", 4, "10.0.0.1"),
    ],
)
def test_a_whole_length_net_is_its_address(
    text: str, kind: IpsetType, version: Version, expected: str
) -> None:
    assert canonical_member(text, kind, version) == expected


@pytest.mark.parametrize("whole", ["0.0.0.0/0", "::/0"])
def test_the_halves_of_everything_are_everything(whole: str) -> None:
    halves = [ipaddress.ip_network(half) for half in split_zero_net(whole)]
    assert sum(half.num_addresses for half in halves) == ipaddress.ip_network(whole).num_addresses
    assert not halves[0].overlaps(halves[1])
    assert split_zero_net("10.0.0.0/8") == ("10.0.0.0/8",)
