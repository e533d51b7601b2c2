"""Addresses and nets: one canonical text for each, whoever wrote it and however."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico_k8s.errors import InputError
from calico_k8s.model.addresses import (
    Address,
    Net,
    NetRange,
    address_from_number,
    address_net,
    address_number,
    address_version,
    net_contains,
    net_range,
    parse_address,
    parse_net,
)

any_address = st.ip_addresses()


@st.composite
def nets(draw: st.DrawFn) -> Net:
    address = draw(any_address)
    return parse_net(f"{address}/{draw(st.integers(0, address.max_prefixlen))}")


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("10.0.0.1", "10.0.0.1"),
        (" 10.0.0.1\n", "10.0.0.1"),
        ("FD00:0:0::1", "fd00::1"),
        ("::", "::"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("::FFFF:0a00:0001", "10.0.0.1"),
    ],
)
def test_an_address_is_written_in_one_way(written: str, canonical: str) -> None:
    assert parse_address(written) == canonical


@pytest.mark.parametrize(
    "written",
    [
        "",
        "10.0.0",
        "10.0.0.256",
        "010.0.0.1",
        "10.0.0.1/32",
        "fe80::1%eth0",
        "fd00:::1",
        "pod",
        "😀",
    ],
)
def test_what_is_no_address_is_refused_with_its_text(written: str) -> None:
    with pytest.raises(InputError) as refusal:
        parse_address(written)
    assert f"'{written}'" in str(refusal.value)


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("10.1.2.3/8", "10.0.0.0/8"),
        ("10.1.2.3", "10.1.2.3/32"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("FD00::1/64", "fd00::/64"),
        ("fd00::1", "fd00::1/128"),
        ("::/0", "::/0"),
        ("::ffff:10.1.2.3", "10.1.2.3/32"),
        ("::ffff:10.1.2.3/104", "10.0.0.0/8"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("::fffe:0:0/95", "::fffe:0:0/95"),
    ],
)
def test_a_net_is_written_in_one_way_without_host_bits(written: str, canonical: str) -> None:
    assert parse_net(written) == canonical


@pytest.mark.parametrize(
    "written",
    ["", "10.0.0.0/33", "fd00::/129", "10.0.0.0/-1", "10.0.0.0/8/8", "fe80::%eth0/64", "any"],
)
def test_what_is_no_net_is_refused_with_its_text(written: str) -> None:
    with pytest.raises(InputError) as refusal:
        parse_net(written)
    assert f"'{written}'" in str(refusal.value)


@pytest.mark.parametrize(
    ("net", "bounds"),
    [
        ("10.0.0.0/31", NetRange(4, 0x0A000000, 0x0A000001)),
        ("0.0.0.0/0", NetRange(4, 0, 2**32 - 1)),
        ("fd00::/127", NetRange(6, 0xFD << 120, (0xFD << 120) + 1)),
    ],
)
def test_both_ends_of_a_range_are_inside(net: str, bounds: NetRange) -> None:
    assert net_range(Net(net)) == bounds


@pytest.mark.parametrize(
    ("net", "address", "is_inside"),
    [
        ("10.0.0.0/31", "10.0.0.0", True),
        ("10.0.0.0/31", "10.0.0.1", True),
        ("10.0.0.0/31", "10.0.0.2", False),
        ("0.0.0.0/0", "255.255.255.255", True),
        ("0.0.0.0/0", "::1", False),
        ("::/0", "10.0.0.1", False),
        ("::/0", "::1", True),
    ],
)
def test_a_net_holds_addresses_of_its_family_only(
    net: str, address: str, *, is_inside: bool
) -> None:
    assert net_contains(Net(net), Address(address)) is is_inside


@given(any_address)
def test_a_canonical_address_is_its_own_canonical_form_and_comes_back_from_its_number(
    written: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    address = parse_address(str(written))
    assert parse_address(address) == address
    assert address_from_number(address_number(address), address_version(address)) == address


@given(nets(), any_address)
def test_containment_is_what_the_standard_library_says(
    net: Net, written: ipaddress.IPv4Address | ipaddress.IPv6Address
) -> None:
    address = parse_address(str(written))
    assert parse_net(net) == net
    assert net_contains(net, address) == (
        ipaddress.ip_address(address) in ipaddress.ip_network(net)
    )


@given(any_address)
def test_the_net_of_an_address_holds_it_and_no_other(
    written: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    address = parse_address(str(written))
    net = address_net(address)
    assert parse_net(net) == net
    assert net_range(net).first == net_range(net).last == address_number(address)
