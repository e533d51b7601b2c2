"""Conntrack over netlink against the ``conntrack`` program and real packets."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from calico_k8s.model.addresses import Address
from calico_k8s.netlink.conntrack import (
    IPS_SEEN_REPLY,
    ConntrackSocket,
    ConntrackTuple,
    text_tuple,
)
from tests.namespaces import Namespace, ip, run
from tests.needs import require_kernel, require_program

pytestmark = pytest.mark.kernel


@pytest.fixture
def socket(namespace: Namespace) -> Iterator[ConntrackSocket]:
    require_program("conntrack", package="conntrack")
    socket = ConntrackSocket()
    yield socket
    socket.close()


def seed(src: str, dst: str, port: int, words: str = "") -> None:
    """An established TCP flow."""
    run(
        *f"conntrack -I -t 600 -u SEEN_REPLY,ASSURED -s {src} -d {dst} -p tcp --sport {port}"
        f" --dport 80 --state ESTABLISHED {words}".split()
    )


def sources(socket: ConntrackSocket, address: str) -> list[tuple[str, int]]:
    entries = socket.dump_address(Address(address))
    return sorted((entry.original.src, entry.original.sport) for entry in entries)


def test_an_entry_is_read_whole(socket: ConntrackSocket) -> None:
    seed(
        "10.0.0.1",
        "10.9.0.1",
        1000,
        "-r 10.7.0.1 -q 10.0.0.1 --reply-port-src 8080 --reply-port-dst 1000 --mark 5",
    )
    (entry,) = socket.dump(4)
    assert entry.original == ConntrackTuple(Address("10.0.0.1"), Address("10.9.0.1"), 6, 1000, 80)
    assert entry.reply == ConntrackTuple(Address("10.7.0.1"), Address("10.0.0.1"), 6, 8080, 1000)
    assert entry.mark == 5
    assert entry.status & IPS_SEEN_REPLY
    assert entry.master == b""
    assert socket.dump(6) == []


@pytest.mark.parametrize(
    ("one", "two", "three"),
    [("10.0.0.1", "10.0.0.2", "10.0.0.3"), ("fd00::1", "fd00::2", "fd00::3")],
)
def test_an_addresss_flows_are_those_it_opened_and_those_opened_to_it(
    socket: ConntrackSocket, one: str, two: str, three: str
) -> None:
    seed(one, two, 1000)
    seed(two, one, 2000)
    seed(two, three, 3000)
    assert sources(socket, one) == [(one, 1000), (two, 2000)]
    assert sources(socket, three) == [(two, 3000)]
    assert sources(socket, two) == [(one, 1000), (two, 2000), (two, 3000)]


def test_a_service_is_found_by_the_pod_behind_it(socket: ConntrackSocket) -> None:
    seed(
        "10.0.0.1",
        "10.9.0.1",
        1000,
        "-r 10.7.0.1 -q 10.0.0.1 --reply-port-src 8080 --reply-port-dst 1000",
    )
    assert sources(socket, "10.7.0.1") == [("10.0.0.1", 1000)]
    assert sources(socket, "10.9.0.1") == []


def test_a_mark_changes_only_under_its_mask(socket: ConntrackSocket) -> None:
    for port, mark in ((1000, 0xF0), (1001, 0x0F)):
        seed("10.0.0.1", "10.0.0.2", port, f"--mark {mark}")
    entries = socket.dump(4)
    assert socket.set_mark(entries, 0x100, 0x101) == 2
    assert {entry.original.sport: entry.mark for entry in socket.dump(4)} == {
        1000: 0x1F0,
        1001: 0x10E,
    }
    assert len(socket.dump_marked(4, 0x0E, 0x0F)) == 1
    assert len(socket.dump_marked(4, 0x100, 0x100)) == 2


def test_entries_that_went_meanwhile_are_not_counted(socket: ConntrackSocket) -> None:
    for port in (1000, 1001, 1002):
        seed("10.0.0.1", "10.0.0.2", port)
    entries = socket.dump(4)
    assert socket.delete(entries[:1]) == 1
    assert socket.set_mark(entries, 1, 1) == 2
    assert socket.delete(entries) == 2
    assert socket.dump(4) == []


def test_other_zones_are_left_alone(socket: ConntrackSocket) -> None:
    seed("10.0.0.1", "10.0.0.2", 1000, "--zone 7")
    assert socket.dump(4) == []


def test_many_entries_are_dumped_and_changed_in_batches(
    socket: ConntrackSocket, tmp_path_factory: pytest.TempPathFactory
) -> None:
    load = tmp_path_factory.mktemp("conntrack") / "load"
    load.write_text(
        "".join(
            f"-A -t 600 -u SEEN_REPLY -s 10.0.{n // 250}.{n % 250} -d 10.9.0.1 -p udp"
            f" --sport {n + 1} --dport 53 --reply-port-src 53 --reply-port-dst {n + 1}"
            f" -r 10.9.0.1 -q 10.0.{n // 250}.{n % 250}\n"
            for n in range(2000)
        )
    )
    run("conntrack", "--load-file", str(load))
    entries = socket.dump(4)
    assert len({entry.key for entry in entries}) == 2000
    assert socket.set_mark(entries, 2, 2) == 2000
    assert len(socket.dump_marked(4, 2, 2)) == 2000
    assert socket.delete(entries) == 2000


@pytest.mark.parametrize(("version", "loopback", "kind"), [(4, "127.0.0.1", 8), (6, "::1", 128)])
def test_icmp_has_its_type_and_code_for_a_port(
    socket: ConntrackSocket, version: int, loopback: str, kind: int
) -> None:
    tool = "iptables-nft" if version == 4 else "ip6tables-nft"
    run(tool, "-A", "INPUT", "-m", "conntrack", "--ctstate", "NEW")
    ip("link set lo up")
    require_program("ping", package="iputils-ping")
    run("ping", f"-{version}", "-c1", "-W1", loopback)
    found = [entry for entry in socket.dump(4 if version == 4 else 6) if entry.original.dport]
    assert {entry.original.dport >> 8 for entry in found} == {kind}


def test_flows_are_found_by_the_kernels_text_of_them(socket: ConntrackSocket) -> None:
    text = Path("/proc/thread-self/net/nf_conntrack")
    require_kernel("/proc/net/nf_conntrack", found=text.exists())
    seed("10.0.0.1", "10.0.0.2", 1000, "--mark 5")
    seed("fd00::1", "fd00::2", 1001)
    tuples = [text_tuple(line) for line in text.read_bytes().splitlines()]
    found = socket.find([each for each in tuples if each is not None])
    assert sorted(found) == sorted(socket.dump(4) + socket.dump(6))
    assert len(found) == 2
    for entry in found:
        socket.delete([entry])
    assert socket.find([each for each in tuples if each is not None]) == []


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"arp      2 tcp      6 431999 ESTABLISHED src=10.0.0.1 dst=10.0.0.2",
        b"ipv4     2 tcp      6 431999 ESTABLISHED",
        b"ipv4     2 tcp      six 431999 ESTABLISHED src=10.0.0.1 dst=10.0.0.2",
    ],
)
def test_a_line_that_is_not_understood_is_no_flow(line: bytes) -> None:
    assert text_tuple(line) is None
