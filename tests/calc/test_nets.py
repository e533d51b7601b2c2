"""Tables and intersections of nets, against the standard library's arithmetic."""

import ipaddress
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico_k8s.calc.nets import NetTable, intersection
from calico_k8s.model.addresses import Address, Net, parse_net

# Few bits, so that nets nest: the lengths around a family's end, and the whole of it.
FIRST = {4: int(ipaddress.ip_address("10.0.0.0")), 6: int(ipaddress.ip_address("fd00::"))}


@st.composite
def nets(draw: st.DrawFn) -> Net:
    version = draw(st.sampled_from((4, 6)))
    bits = 32 if version == 4 else 128
    length = draw(st.sampled_from((0, bits - 4, bits - 3, bits - 2, bits - 1, bits)))
    number = FIRST[version] + draw(st.integers(0, 15))
    return parse_net(f"{ipaddress.ip_address(number)}/{length}")


tables = st.lists(nets(), max_size=6).map(NetTable)
addresses = st.builds(
    lambda version, offset: Address(str(ipaddress.ip_address(FIRST[version] + offset))),
    st.sampled_from((4, 6)),
    st.integers(0, 20),
)


def slowly_holds(table: NetTable, address: Address) -> bool:
    return any(ipaddress.ip_address(address) in ipaddress.ip_network(net) for net in table.nets)


@given(tables, addresses)
def test_a_table_holds_what_one_of_its_nets_holds(table: NetTable, address: Address) -> None:
    assert table.holds(address) == slowly_holds(table, address)


@given(tables, nets())
def test_a_table_covers_a_net_that_lies_in_one_of_its_nets(table: NetTable, net: Net) -> None:
    inner = ipaddress.ip_network(net)
    assert table.covers(net) == any(
        outer.version == inner.version and outer.supernet_of(inner)  # type: ignore[arg-type]
        for outer in map(ipaddress.ip_network, table.nets)
    )


@given(tables, tables, addresses)
def test_an_intersection_holds_what_both_hold(
    one: NetTable, other: NetTable, address: Address
) -> None:
    common = NetTable(intersection(one, other))
    assert common.holds(address) == (one.holds(address) and other.holds(address))
    assert intersection(one, other) == intersection(other, one)


@pytest.mark.parametrize(
    ("one", "other", "common"),
    [
        (["10.0.0.0/8"], ["10.1.0.0/16"], {"10.1.0.0/16"}),
        (["10.0.0.0/8"], ["10.0.0.0/8"], {"10.0.0.0/8"}),
        (["10.0.0.0/8"], ["11.0.0.0/8"], set()),
        (["0.0.0.0/0"], ["fd00::/8"], set()),
        (["10.0.0.0/8", "fd00::1/128"], ["10.0.0.1/32", "::/0"], {"10.0.0.1/32", "fd00::1/128"}),
    ],
)
def test_the_smaller_net_of_each_overlap_remains(
    one: list[str], other: list[str], common: set[str]
) -> None:
    assert intersection(NetTable(map(Net, one)), NetTable(map(Net, other))) == common


def test_an_empty_table_holds_nothing() -> None:
    for address, net in product(["10.0.0.1", "::1"], ["0.0.0.0/0", "::/0"]):
        assert not NetTable().holds(Address(address))
        assert not NetTable().covers(Net(net))
