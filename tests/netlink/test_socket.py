"""The netlink socket against the kernel: answers in order, errors by request, nothing blocking."""

import errno
import struct

import pytest

from calico_k8s.errors import NetlinkError
from calico_k8s.netlink.socket import (
    BATCH_MESSAGES,
    NETLINK_NETFILTER,
    NETLINK_ROUTE,
    NetlinkSocket,
)
from calico_k8s.netlink.wire import Request
from tests.namespaces import Namespace, ip

pytestmark = pytest.mark.kernel

RTM_GETLINK, RTM_SETLINK = 18, 19
IFF_UP = 1


def set_link(index: int) -> Request:
    """Put the interface up."""
    return Request(RTM_SETLINK, 0, struct.pack("=BxHiII", 0, 0, index, IFF_UP, IFF_UP))


def test_each_request_of_a_batch_has_its_own_answer(namespace: Namespace) -> None:
    with NetlinkSocket(NETLINK_ROUTE) as socket:
        requests = [set_link(1 if n % 3 else 9999) for n in range(3 * BATCH_MESSAGES + 1)]
        codes = socket.batch(requests)
        assert codes == [0 if n % 3 else errno.ENODEV for n in range(len(requests))]
        assert socket.batch([]) == []


def test_a_refused_request_says_what_was_refused(namespace: Namespace) -> None:
    with NetlinkSocket(NETLINK_ROUTE) as socket:
        with pytest.raises(NetlinkError, match="put 9999 up: No such device") as refusal:
            socket.request(set_link(9999), "put 9999 up")
        assert refusal.value.errno == errno.ENODEV
        assert socket.request(set_link(1), "put lo up") == []


def test_a_dump_has_everything_and_may_be_refused(namespace: Namespace) -> None:
    for number in range(3):
        ip(f"link add br{number} type bridge")
    with NetlinkSocket(NETLINK_ROUTE) as socket:
        assert len(socket.dump(Request(RTM_GETLINK, 0, bytes(16)), "links")) == 4
    with NetlinkSocket(NETLINK_NETFILTER) as socket, pytest.raises(NetlinkError, match="nothing"):
        socket.dump(Request(0xFF << 8, 0, bytes(4)), "nothing")


def test_events_come_to_a_socket_of_their_group_and_do_not_block(namespace: Namespace) -> None:
    with NetlinkSocket(NETLINK_ROUTE, groups=(1,)) as socket:
        list(socket.events())
        assert list(socket.events()) == []
        ip("link add br0 type bridge")
        assert {message.type for message in socket.events()} == {16}


def test_a_socket_stays_in_the_namespace_it_was_opened_in(namespace: Namespace) -> None:
    with NetlinkSocket(NETLINK_ROUTE) as socket:
        with Namespace() as other:
            ip("link add br0 type bridge")
            inside = len(socket.dump(Request(RTM_GETLINK, 0, bytes(16)), "links"))
        other.close()
        assert inside == 1


def test_a_protocol_the_kernel_lacks_is_an_error() -> None:
    with pytest.raises(NetlinkError, match="netlink socket"):
        NetlinkSocket(31)
