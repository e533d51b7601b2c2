"""The ports that no policy closes: how they are written, and who gets through."""

import pytest

from calico_k8s.errors import InputError
from calico_k8s.model.addresses import Address, Net
from calico_k8s.model.failsafes import (
    DEFAULT_INBOUND,
    DEFAULT_OUTBOUND,
    Failsafe,
    parse_failsafes,
)

TCP, UDP = 6, 17


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        ("tcp:22", [Failsafe(TCP, 22)]),
        ("22", [Failsafe(TCP, 22)]),
        ("UDP:68, tcp:22,tcp:22", [Failsafe(TCP, 22), Failsafe(UDP, 68)]),
        ("tcp:10.1.2.3/8:6443", [Failsafe(TCP, 6443, Net("10.0.0.0/8"))]),
        ("tcp:[fd00::1/64]:6443", [Failsafe(TCP, 6443, Net("fd00::/64"))]),
        ("tcp:fd00::/64:6443", [Failsafe(TCP, 6443, Net("fd00::/64"))]),
        ("none", []),
    ],
)
def test_ports_are_read(text: str, ports: list[Failsafe]) -> None:
    assert set(parse_failsafes(text)) == set(ports)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no port is named: give ports, as in tcp:22, or 'none'"),
        ("icmp:8", "'icmp:8': 'icmp' is neither tcp, udp nor sctp, as in tcp:22"),
        ("tcp:0", "'tcp:0' ends in no port from 1 to 65535, as in tcp:22"),
        ("tcp:ssh", "'tcp:ssh' ends in no port from 1 to 65535, as in tcp:22"),
        ("tcp:22,none", "'none' ends in no port"),
        ("tcp:10.0.0.0/99:22", "'10.0.0.0/99' is not a CIDR"),
    ],
)
def test_what_is_no_list_of_ports_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(InputError) as raised:
        parse_failsafes(text)
    assert complaint in str(raised.value)


def test_an_operator_gets_in_and_a_node_finds_its_datastore_by_default() -> None:
    peer = Address("192.0.2.1")
    assert any(port.opens(TCP, peer, 22) for port in parse_failsafes(DEFAULT_INBOUND))
    for needed in (2379, 6443):
        assert any(port.opens(TCP, peer, needed) for port in parse_failsafes(DEFAULT_OUTBOUND))


def test_a_port_with_a_net_is_open_for_its_peers_alone() -> None:
    (port,) = parse_failsafes("tcp:10.0.0.0/8:22")
    assert port.opens(TCP, Address("10.9.9.9"), 22)
    assert not port.opens(TCP, Address("11.9.9.9"), 22)
    assert not port.opens(TCP, Address("fd00::1"), 22)
    assert not port.opens(UDP, Address("10.9.9.9"), 22)
