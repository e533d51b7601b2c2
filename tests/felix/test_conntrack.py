"""Cutting flows: real connections end where denied, live on where allowed, and come back."""

import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from calico_k8s.felix import conntrack
from calico_k8s.felix.conntrack import FlowCutter, choose, judged_flow
from calico_k8s.model.addresses import Address
from calico_k8s.model.resources import IcmpMatch
from calico_k8s.netlink.conntrack import IPS_DYING, ConntrackEntry, ConntrackTuple
from calico_k8s.policy.match import Flow
from tests.namespaces import Namespace, ip, new_namespace, run
from tests.needs import require_kernel

BIT = 0x40000

TRACKING = ("-A", "OUTPUT", "-m", "conntrack", "--ctstate", "INVALID", "-j", "ACCEPT")
"""A rule by which the kernel tracks flows of the namespace."""

CLIENT, SERVER = Address("10.0.0.1"), Address("10.0.0.2")


class Router:
    """A client and a server namespace with the test's own between them."""

    def __init__(self, client: Namespace, server: Namespace, ends: contextlib.ExitStack) -> None:
        self.client, self.server, self.ends = client, server, ends


@pytest.fixture
def router(namespace: Namespace) -> Iterator[Router]:
    with new_namespace() as client, new_namespace() as server:
        for name, peer, address in (("v0", client, CLIENT), ("v1", server, SERVER)):
            ip(f"link add {name} type veth peer name eth0 netns {peer.path}")
            ip(f"addr add 169.254.1.1/32 dev {name}")
            ip(f"link set {name} up")
            ip(f"route add {address}/32 dev {name}")
            with peer:
                ip("link set eth0 up")
                ip(f"addr add {address}/32 dev eth0")
                ip("route add 169.254.1.1 dev eth0")
                ip("route add default via 169.254.1.1")
        run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        drop = f"-A FORWARD -m connmark --mark {BIT:#x}/{BIT:#x} -j DROP"
        run("iptables-nft", *drop.split())
        with contextlib.ExitStack() as ends:
            yield Router(client, server, ends)


def connect(router: Router, port: int) -> tuple[socket.socket, socket.socket]:
    """A live TCP connection: the client's end and the server's."""
    with router.server:
        listener = socket.create_server((SERVER, port))
    with router.client:
        client = socket.create_connection((SERVER, port), timeout=2)
    server, _ = listener.accept()
    listener.close()
    for end in (client, server):
        router.ends.enter_context(end)
        end.settimeout(0.3)
    return client, server


def deny_all(_flow: Flow) -> bool:
    return True


def deny_none(_flow: Flow) -> bool:
    return False


def passes(source: socket.socket, target: socket.socket) -> bool:
    """Whether a byte sent arrives within 0.3 s."""
    source.send(b"x")
    with contextlib.suppress(TimeoutError):
        return target.recv(1) == b"x"
    return False


@pytest.mark.kernel
def test_a_denied_connection_ends_both_ways_and_another_lives_on(router: Router) -> None:
    cutter = FlowCutter(BIT)
    denied, allowed = connect(router, 80), connect(router, 81)
    flows = cutter.flows_of([SERVER])
    result = cutter.judge(flows, lambda flow: flow.dst_port == 80)
    assert (result.judged, result.cut, result.restored) == (2, 1, 0)
    assert not passes(*reversed(denied)), "the server talks first"
    assert not passes(*denied)
    assert passes(*allowed)
    assert passes(*reversed(allowed))
    cutter.close()


@pytest.mark.kernel
def test_a_cut_connection_lives_again_when_it_is_allowed(router: Router) -> None:
    cutter = FlowCutter(BIT)
    client, server = connect(router, 80)
    assert cutter.judge(cutter.all_flows(), deny_all).cut == 1
    assert not passes(client, server)
    again = cutter.judge(cutter.flows_of([CLIENT]), deny_none)
    assert (again.cut, again.restored) == (0, 1)
    server.settimeout(5)  # the client's retransmission comes in its own time
    assert server.recv(1) == b"x"
    assert cutter.restore_all() == 0
    cutter.close()


@pytest.mark.kernel
def test_judging_again_changes_nothing_and_restore_all_clears_what_is_left(router: Router) -> None:
    cutter = FlowCutter(BIT)
    ends = [connect(router, 80), connect(router, 81)]
    for expected in (2, 0):
        assert cutter.judge(cutter.all_flows(), deny_all).cut == expected
    assert cutter.restore_all() == 2
    assert all(passes(*pair) for pair in ends)
    cutter.close()


@pytest.mark.kernel
def test_many_addresses_are_found_by_one_dump_as_few_are_by_filters(router: Router) -> None:
    cutter = FlowCutter(BIT)
    ends = connect(router, 80)
    others = [Address(f"10.1.0.{number}") for number in range(20)]
    few, many = cutter.flows_of([SERVER]), cutter.flows_of([SERVER, *others])
    assert [entry.key for entry in few] == [entry.key for entry in many]
    assert cutter.flows_of(others) == []
    assert cutter.flows_of([CLIENT, SERVER]) == few
    assert passes(*ends)
    cutter.close()


@pytest.mark.kernel
def test_few_flows_are_found_at_once_as_by_a_dump(namespace: Namespace) -> None:
    ip("link set lo up")
    ip("addr add fd00::12:1 dev lo nodad")
    run("iptables-nft", *TRACKING)
    run("ip6tables-nft", *TRACKING)
    require_kernel("/proc/net/nf_conntrack", found=conntrack.FLOW_TEXT.exists())
    with contextlib.closing(FlowCutter(BIT)) as cutter:
        assert cutter.few_flows_of([Address("127.0.0.1")]) == []
        for target in ("127.0.0.2", "fd00::12:1"):
            family = socket.AF_INET6 if ":" in target else socket.AF_INET
            with socket.socket(family, socket.SOCK_DGRAM) as sender:
                sender.sendto(b"x", (target, 9))
            run("ping", "-qc1", target)
            with socket.socket(family, socket.SOCK_RAW, 253) as sender:
                sender.sendto(b"x", (target, 0))
        for address in map(Address, ("127.0.0.1", "127.0.0.2", "fd00::12:1")):
            few = cutter.few_flows_of([address])
            assert few is not None
            assert sorted(few) == sorted(cutter.flows_of([address]))
            assert len(few) == 3
        others = [Address("127.0.0.3"), Address("27.0.0.1"), Address("fd00::12:2")]
        assert cutter.few_flows_of(others) == []


@pytest.mark.kernel
@pytest.mark.parametrize(
    "limits", [("FLOW_TEXT", Path("/absent")), ("GLANCE_FLOWS_MAX", 0), ("FEW_FLOWS", 1)]
)
def test_where_flows_are_not_told_at_once_they_are_read_beside_the_loop(
    namespace: Namespace, monkeypatch: pytest.MonkeyPatch, limits: tuple[str, object]
) -> None:
    monkeypatch.setattr(conntrack, *limits)
    ip("link set lo up")
    run("iptables-nft", *TRACKING)
    with contextlib.closing(FlowCutter(BIT)) as cutter:
        assert cutter.few_flows_of([Address("127.0.0.1")]) == []
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for target in ("127.0.0.2", "127.0.0.3"):
                sender.sendto(b"x", (target, 9))
        assert cutter.few_flows_of([Address("127.0.0.1")]) is None


def entry(original: ConntrackTuple, reply: ConntrackTuple) -> ConntrackEntry:
    return ConntrackEntry(4, original, reply, 0, 0, b"k", b"i", b"")


@pytest.mark.parametrize(
    ("original", "reply", "expected"),
    [
        pytest.param(
            ConntrackTuple(CLIENT, SERVER, 6, 1000, 80),
            ConntrackTuple(SERVER, CLIENT, 6, 80, 1000),
            Flow(CLIENT, SERVER, 6, 1000, 80),
            id="plain",
        ),
        pytest.param(
            ConntrackTuple(CLIENT, Address("10.96.0.1"), 6, 1000, 443),
            ConntrackTuple(SERVER, CLIENT, 6, 6443, 1000),
            Flow(CLIENT, SERVER, 6, 1000, 6443),
            id="after DNAT",
        ),
        pytest.param(
            ConntrackTuple(CLIENT, Address("192.0.2.1"), 17, 1000, 53),
            ConntrackTuple(Address("192.0.2.1"), Address("10.0.0.254"), 17, 53, 40000),
            Flow(CLIENT, Address("192.0.2.1"), 17, 1000, 53),
            id="before SNAT",
        ),
        pytest.param(
            ConntrackTuple(CLIENT, SERVER, 1, 0, 8 << 8),
            ConntrackTuple(SERVER, CLIENT, 1, 0, 0),
            Flow(CLIENT, SERVER, 1, icmp=IcmpMatch(8, 0)),
            id="icmp",
        ),
    ],
)
def test_a_flow_is_judged_as_its_first_packet_met_the_rules(
    original: ConntrackTuple, reply: ConntrackTuple, expected: Flow
) -> None:
    assert judged_flow(entry(original, reply)) == expected


def test_a_flow_that_another_announced_shares_its_fate() -> None:
    tuples = (
        ConntrackTuple(CLIENT, SERVER, 6, 1000, 21),
        ConntrackTuple(SERVER, CLIENT, 6, 21, 1000),
    )
    control = entry(*tuples)._replace(key=b"control")
    data = entry(*tuples)._replace(key=b"data", master=b"control")
    choice = choose([data, control], deny_all, BIT)
    assert choice.cut == [data, control]
    assert choice.restored == []
    marked = [one._replace(mark=BIT | 1) for one in (control, data)]
    assert choose(marked, deny_none, BIT).restored == marked


@pytest.mark.parametrize("mark", [0, BIT])
@pytest.mark.parametrize("judgement", [deny_all, deny_none])
def test_a_flow_whose_announcer_is_not_judged_beside_it_stays_as_it_is(
    mark: int, judgement: Callable[[Flow], bool]
) -> None:
    tuples = (
        ConntrackTuple(CLIENT, SERVER, 6, 1000, 21),
        ConntrackTuple(SERVER, CLIENT, 6, 21, 1000),
    )
    data = entry(*tuples)._replace(key=b"data", master=b"elsewhere", mark=mark)
    assert choose([data], judgement, BIT) == (1, [], [])


def test_a_dying_entry_is_nobodys_to_judge() -> None:
    tuples = (
        ConntrackTuple(CLIENT, SERVER, 6, 1000, 21),
        ConntrackTuple(SERVER, CLIENT, 6, 21, 1000),
    )
    dying = entry(*tuples)._replace(status=IPS_DYING)
    assert choose([dying], deny_all, BIT) == (0, [], [])
