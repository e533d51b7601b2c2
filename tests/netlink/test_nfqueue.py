"""NFQUEUE on a real kernel: a packet waits until it is released, and nothing waits for nobody."""

import contextlib
import select
import socket
from collections.abc import Iterator

import pytest

from calico_k8s.errors import NetlinkError
from calico_k8s.netlink.nfqueue import HELD_MAX, HeldPacket, NfqueueSocket
from tests.namespaces import Namespace, namespace, run

__all__ = ["namespace"]

pytestmark = pytest.mark.kernel

QUEUE, PORT = 77, 5300
WAIT_S = 10.0
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33


@pytest.fixture
def ends(namespace: Namespace) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A sender and a receiver, with a rule between them."""
    rule = f"-p udp --dport {PORT} -j NFQUEUE --queue-num {QUEUE} --queue-bypass"
    run("iptables-nft", "-A", "OUTPUT", *rule.split())
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
    ):
        for end, option in ((sender, SO_SNDBUFFORCE), (receiver, SO_RCVBUFFORCE)):
            end.setsockopt(socket.SOL_SOCKET, option, 8 << 20)  # what waits counts as sent
        receiver.bind(("127.0.0.1", PORT))
        receiver.settimeout(WAIT_S)
        sender.connect(("127.0.0.1", PORT))
        yield sender, receiver


def read(queue: NfqueueSocket, count: int) -> list[HeldPacket]:
    packets: list[HeldPacket] = []
    while len(packets) < count:
        assert select.select([queue], [], [], WAIT_S)[0]
        packets += queue.read(count)
    return packets


def test_a_packet_waits_until_it_is_released(ends: tuple[socket.socket, socket.socket]) -> None:
    sender, receiver = ends
    with contextlib.closing(NfqueueSocket(QUEUE)) as queue:
        for word in (b"one", b"two", b"three"):
            sender.send(word)
        packets = read(queue, 3)
        assert [packet.data[28:] for packet in packets] == [b"one", b"two", b"three"]
        assert not select.select([receiver], [], [], 0)[0]
        queue.release([packets[1].id])
        assert receiver.recv(99) == b"two"
        queue.release([packets[1].id, packets[0].id, packets[2].id])  # one has gone: no error
        assert {receiver.recv(99), receiver.recv(99)} == {b"one", b"three"}
        assert queue.read(9) == []


def test_where_nobody_reads_packets_go_on(ends: tuple[socket.socket, socket.socket]) -> None:
    sender, receiver = ends
    sender.send(b"alone")
    assert receiver.recv(99) == b"alone"


def test_what_finds_the_queue_full_goes_on(ends: tuple[socket.socket, socket.socket]) -> None:
    sender, receiver = ends
    with contextlib.closing(NfqueueSocket(QUEUE)) as queue:
        for _ in range(HELD_MAX):
            sender.send(b"held")
        sender.send(b"more")
        assert receiver.recv(99) == b"more"
        queue.release(packet.id for packet in read(queue, HELD_MAX))
        assert all(receiver.recv(99) == b"held" for _ in range(HELD_MAX))


def test_a_queue_has_one_reader(ends: tuple[socket.socket, socket.socket]) -> None:
    with contextlib.closing(NfqueueSocket(QUEUE)), pytest.raises(NetlinkError, match="NFQUEUE 77"):
        NfqueueSocket(QUEUE)
