"""The ipset protocol against the kernel and the ``ipset`` program, for each type and family."""

from collections.abc import Iterator

import pytest

from calico_k8s.errors import InputError, NetlinkError
from calico_k8s.model.addresses import Version
from calico_k8s.netlink.ipset import (
    IPSET_ERR_HASH_FULL,
    IPSET_TYPES,
    Edit,
    IpsetSocket,
    MemberCommand,
)
from calico_k8s.render.tables import IpsetName, IpsetType, KernelIpset, KernelMember
from tests.namespaces import Namespace, run

pytestmark = pytest.mark.kernel

MEMBERS: dict[IpsetType, dict[Version, list[str]]] = {
    "hash:ip": {4: ["10.0.0.1", "255.255.255.255"], 6: ["::1", "fd00::a:1"]},
    "hash:net": {4: ["10.0.0.1", "10.0.0.0/8", "128.0.0.0/1"], 6: ["fd00::1", "8000::/1"]},
    "hash:ip,port": {
        4: ["10.0.0.1,tcp:80", "10.0.0.1,udp:65535", "10.0.0.1,sctp:1"],
        6: ["fd00::1,tcp:80", "fd00::1,udplite:7"],
    },
    "hash:net,iface": {
        4: ["10.0.0.1,eth0", "10.0.0.0/8,a123456789abcde", "0.0.0.0/0,v0"],
        6: ["fd00::1,eth0", "::/0,v0"],
    },
    "hash:net,net": {4: ["10.0.0.1,10.0.0.1", "10.0.0.0/8,0.0.0.0/0"], 6: ["fd00::1,fd00::/8"]},
}


@pytest.fixture
def socket(namespace: Namespace) -> Iterator[IpsetSocket]:
    socket = IpsetSocket()
    yield socket
    socket.close()


@pytest.mark.parametrize("has_marks", [False, True])
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("kind", IPSET_TYPES)
def test_members_read_back_are_those_written_and_those_ipset_prints(
    socket: IpsetSocket, kind: IpsetType, version: Version, has_marks: bool
) -> None:
    if not socket.has_type(kind, version):
        pytest.skip(f"this kernel is built without {kind}")
    ipset = KernelIpset(IpsetName("cali-x"), kind, version, has_marks)
    mark, mask = (0x1200, 0xFF00) if has_marks else (0, 0)
    wanted = [KernelMember(text, mark, mask) for text in MEMBERS[kind][version]]
    socket.create(ipset)
    assert socket.edit([Edit(ipset, MemberCommand.ADD, wanted)]) == []
    assert set(socket.members(ipset)) == set(wanted)
    printed = run("ipset", "list", "cali-x").split("Members:\n")[1].splitlines()
    suffix = " skbmark 0x1200/0xff00" if has_marks else ""
    assert sorted(printed) == sorted(member.text + suffix for member in wanted)
    assert socket.headers()[ipset.name].holds(ipset)
    assert socket.test(ipset, wanted[0])
    assert socket.edit([Edit(ipset, MemberCommand.DELETE, wanted)]) == []
    assert socket.members(ipset) == []
    assert not socket.test(ipset, wanted[0])


def test_a_member_added_again_takes_the_new_mark_and_exception(socket: IpsetSocket) -> None:
    ipset = KernelIpset(IpsetName("cali-x"), "hash:net", 4, has_marks=True)
    socket.create(ipset)
    for member in (
        KernelMember("10.0.0.0/8", 1, 0xFF),
        KernelMember("10.0.0.0/8", 2, 0xFF),
        KernelMember("10.0.0.0/8", 2, 0xFF, nomatch=True),
        KernelMember("10.0.0.0/8", 2, 0xFF),
    ):
        assert socket.edit([Edit(ipset, MemberCommand.ADD, [member])]) == []
        assert socket.members(ipset) == [member]


def test_ten_thousand_members_go_and_come_in_many_messages(socket: IpsetSocket) -> None:
    ipset = KernelIpset(IpsetName("cali-x"), "hash:ip", 6)
    socket.create(ipset)
    wanted = [KernelMember(f"fd00::{number:x}") for number in range(1, 10_001)]
    assert socket.edit([Edit(ipset, MemberCommand.ADD, wanted)]) == []
    assert set(socket.members(ipset)) == set(wanted)


def test_only_the_members_the_kernel_refused_are_named(socket: IpsetSocket) -> None:
    ipset = KernelIpset(IpsetName("cali-x"), "hash:ip", 4)
    socket.create(ipset, maxelem=3)
    wanted = [KernelMember(f"10.0.0.{number}") for number in range(1, 6)]
    failures = socket.edit([Edit(ipset, MemberCommand.ADD, wanted)])
    assert [failure.member for failure in failures] == wanted[3:]
    assert {failure.errno for failure in failures} == {IPSET_ERR_HASH_FULL}
    assert set(socket.members(ipset)) == set(wanted[:3])


def test_adding_what_is_there_and_deleting_what_is_not_are_no_failures(
    socket: IpsetSocket,
) -> None:
    ipset = KernelIpset(IpsetName("cali-x"), "hash:ip", 4)
    socket.create(ipset)
    member = KernelMember("10.0.0.1")
    for command in (MemberCommand.ADD, MemberCommand.ADD, MemberCommand.DELETE) * 2:
        assert socket.edit([Edit(ipset, command, [member])]) == []


@pytest.mark.parametrize(
    ("kind", "version", "text"),
    [
        ("hash:ip", 4, "fd00::1"),
        ("hash:ip", 6, "10.0.0.1"),
        ("hash:ip", 4, ""),
        ("hash:net", 4, "10.0.0.0/33"),
        ("hash:net", 4, "10.0.0.0/-1"),
        ("hash:net", 4, "10.0.0.0/x"),
        ("hash:ip,port", 4, "10.0.0.1"),
        ("hash:ip,port", 4, "10.0.0.1,tcp:70000"),
        ("hash:ip,port", 4, "10.0.0.1,icmp:8"),
        ("hash:net,iface", 4, "10.0.0.1"),
    ],
)
def test_text_that_is_no_member_is_refused_before_anything_is_sent(
    socket: IpsetSocket, kind: IpsetType, version: Version, text: str
) -> None:
    ipset = KernelIpset(IpsetName("cali-x"), kind, version)
    with pytest.raises(InputError, match=f"'{text}' is not a member of an IPv{version} {kind} set"):
        socket.edit([Edit(ipset, MemberCommand.ADD, [KernelMember(text)])])


def test_swap_exchanges_members_and_a_missing_set_is_named(socket: IpsetSocket) -> None:
    sets = [KernelIpset(IpsetName(name), "hash:ip", 4) for name in ("cali-x", "cali-y")]
    for ipset in sets:
        socket.create(ipset)
    member = KernelMember("10.0.0.1")
    socket.edit([Edit(sets[0], MemberCommand.ADD, [member])])
    socket.swap(sets[0].name, sets[1].name)
    assert socket.members(sets[0]) == []
    assert socket.members(sets[1]) == [member]
    with pytest.raises(NetlinkError, match="ipset swap cali-x cali-z"):
        socket.swap(sets[0].name, IpsetName("cali-z"))


def test_create_refuses_a_name_that_is_taken(socket: IpsetSocket) -> None:
    ipset = KernelIpset(IpsetName("cali-x"), "hash:ip", 4)
    socket.create(ipset)
    with pytest.raises(NetlinkError, match="ipset create cali-x hash:ip"):
        socket.create(ipset)


def test_sets_of_other_types_are_listed_by_header(socket: IpsetSocket) -> None:
    run("ipset", "create", "ports", "bitmap:port", "range", "0-100")
    run("ipset", "create", "lists", "list:set")
    run("ipset", "add", "lists", "ports")
    headers = socket.headers()
    assert headers[IpsetName("ports")].type == "bitmap:port"
    assert headers[IpsetName("ports")].version is None
    assert headers[IpsetName("ports")].references == 1
    assert socket.destroy([IpsetName("ports"), IpsetName("absent")]).keys() == {"ports"}
