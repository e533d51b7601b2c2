"""What is written over netlink is what iptables-nft-restore writes, byte for byte in the kernel."""

import time
from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calico_k8s.errors import NetlinkError
from calico_k8s.felix.iptables.nftdirect import NftWriter, TablePlan
from calico_k8s.felix.iptables.nftrules import compile_compat
from calico_k8s.felix.iptables.plan import Plan
from calico_k8s.felix.iptables.programs import Backend, restore, save
from calico_k8s.model.addresses import Version
from calico_k8s.netlink.ipset import IpsetSocket
from calico_k8s.netlink.nftables import (
    NFTA_EXPR_DATA,
    NFTA_EXPR_NAME,
    NFTA_RULE_EXPRESSIONS,
    NftRule,
    NftSocket,
)
from calico_k8s.netlink.wire import attribute_map, attribute_text, split_attributes
from calico_k8s.render.tables import ChainName, IpsetName
from tests.felix.iptables.ways import Chains, deleting, known_plan, random_plans
from tests.namespaces import Namespace, new_namespace, run
from tests.render.kernels import ipset_text, ipsets
from tests.render.states import GOLDEN, tables

TEXTS: dict[Version, tuple[str, ...]] = {
    4: (
        "-s 10.0.0.0/8 -j cali-b",
        "! -s 10.1.2.3/32 -d 10.16.0.0/13 -p tcp -g cali-b",
        "-p tcp -m tcp --sport 1:1023 --dport 8000:9000 -j ACCEPT",
        "-p udp -m udp --sport 68 --dport 67 -j RETURN",
        "-p udp -m udp --sport 0 --dport 65535 -j RETURN",
        "-p icmp -m icmp --icmp-type 8/0 -j DROP",
        "-p icmp -m icmp ! --icmp-type 3 -j DROP",
    ),
    6: (
        "-s fd00::/61 -j cali-b",
        "! -d fd00::1/128 -p tcp -m tcp --dport 80 -j RETURN",
        "-p ipv6-icmp -m icmp6 --icmpv6-type 135 -j RETURN",
        "-p ipv6-icmp -m icmp6 ! --icmpv6-type 1/3 -j RETURN",
    ),
}
BOTH = (
    "-j DROP",
    "-j RETURN",
    "! -p udp -j RETURN",
    "-p udplite -j RETURN",
    "-p 99 -g cali-b",
    "-p sctp -m sctp --dport 80 -j RETURN",
    "-p sctp -m sctp --sport 7:9 -j RETURN",
    "-p sctp -m sctp --sport 7 --dport 80:90 -j RETURN",
    "-p tcp -m multiport --dports 1,2,3:5,7 -m multiport ! --sports 9 -j RETURN",
    f"-p sctp -m multiport --sports {','.join(map(str, range(15)))} -j DROP",
    "-m mark --mark 0x8/0x18 -g cali-b",
    "-m mark ! --mark 0x0/0xff001f7e -j RETURN",
    "-m set --match-set cali-s src -m set ! --match-set cali-p dst,dst -j RETURN",
    '-p tcp -j LOG --log-prefix "calico-packet: " --log-level 5',
    "-m limit --limit 500/sec --limit-burst 500 -j NFLOG --nflog-prefix a-b --nflog-group 7",
    '-g cali-b -m comment --comment "cali:abc_ef-h"',
    '-p tcp -m tcp --dport 443 -j DROP -m comment --comment "cali:abc_ef-h"',
)


Written = list[tuple[str, list[str]]]


def written(version: Version) -> Written:
    """The rules of the mangle table as the kernel has them, expression by expression."""
    with closing(NftSocket()) as nft:
        return [(each.chain, [*expressions(each)]) for each in nft.rules(version, "mangle")]


def expressions(rule: NftRule) -> Iterator[str]:
    """Each one's name and data."""
    for _, listed in split_attributes(attribute_map(rule.attributes)[NFTA_RULE_EXPRESSIONS]):
        parts = attribute_map(listed)
        yield f"{attribute_text(parts[NFTA_EXPR_NAME])} {bytes(parts[NFTA_EXPR_DATA]).hex()}"


def written_by(writer: NftWriter, version: Version, plan: Plan) -> bool:
    return writer.write([TablePlan(version, "mangle", plan)])


def rules_of(saved: str) -> list[str]:
    return [line for line in saved.splitlines() if line.startswith("-A")]


def plan_of(version: Version, chains: Chains) -> Plan:
    """What makes chains of those of the rules that are written over netlink."""
    return known_plan(compile_compat, version, chains)


def compare(version: Version, plan: Plan) -> None:
    """Write a plan both ways, one after the other, and delete all of it again."""
    deleted = deleting(plan)
    emptied = deleted._replace(deletes=())
    with closing(NftWriter()) as writer:
        restore(Backend.NFT, version, plan.restore_text("mangle"))
        expected, listed = written(version), rules_of(save(Backend.NFT, version))
        assert written_by(writer, version, emptied)
        assert not written(version)
        assert written_by(writer, version, plan)
        assert written(version) == expected
        assert rules_of(save(Backend.NFT, version)) == listed
        assert written_by(writer, version, deleted)
        assert ":cali" not in save(Backend.NFT, version)


@pytest.mark.kernel
def test_each_rule_is_the_same_either_way(namespace: Namespace, version: Version) -> None:
    family = "inet" if version == 4 else "inet6"
    for name, kind in (("other", "hash:ip"), ("s", "hash:ip"), ("p", "hash:ip,port")):
        run("ipset", "create", f"cali-{name}", kind, "family", family)
    texts = (*BOTH, *TEXTS[version])
    plan = plan_of(version, {ChainName("cali-a"): texts, ChainName("cali-b"): ()})
    assert len(plan.lines) == len(texts) + 2, "each is known"
    compare(version, plan)


@pytest.mark.kernel
@pytest.mark.parametrize("name", GOLDEN)
def test_what_is_known_of_each_table_is_the_same_either_way(
    namespace: Namespace, version: Version, name: str
) -> None:
    run("ipset", "restore", stdin=ipset_text(ipsets(GOLDEN[name]), version))
    for table in tables(GOLDEN[name], version):
        compare(version, plan_of(version, table.chains))


@pytest.mark.kernel
@settings(max_examples=12)
@given(st.data())
def test_groups_are_the_same_either_way(data: st.DataObject) -> None:
    with new_namespace() as node, node:
        for version, plan in random_plans(compile_compat, data):
            compare(version, plan)


@pytest.mark.kernel
def test_what_is_refused_leaves_everything_as_it_was(
    namespace: Namespace, version: Version
) -> None:
    run("ipset", "create", "cali-s", "hash:ip", "family", "inet" if version == 4 else "inet6")
    plan = plan_of(
        version, {ChainName("cali-a"): ("-m set --match-set cali-s src -j RETURN", "-j DROP")}
    )
    restore(Backend.NFT, version, plan.restore_text("mangle"))
    before = written(version)
    with closing(NftWriter()) as writer:
        for lines in (
            (":cali-a - [0:0]", "-A cali-a -j RETURN", "-A cali-a -g cali-absent"),
            (":cali-a - [0:0]", "-A cali-a -m set --match-set cali-absent src -j RETURN"),
        ):
            with pytest.raises(NetlinkError):
                written_by(writer, version, Plan(lines, ()))
            assert written(version) == before


@pytest.mark.kernel
def test_a_set_that_is_made_anew_is_asked_by_its_new_number(namespace: Namespace) -> None:
    plan = plan_of(4, {ChainName("cali-a"): ("-m set --match-set cali-s src -j RETURN",)})
    found: list[Written] = []
    with closing(NftWriter()) as writer, closing(IpsetSocket()) as sets:
        restore(Backend.NFT, 4, "*mangle\n:cali-a - [0:0]\nCOMMIT\n")
        for names in (("cali-s",), ("cali-first", "cali-s")):
            for name in names:
                run("ipset", "create", name, "hash:ip")
            assert written_by(writer, 4, plan)
            found.append(written(4))
            assert rules_of(save(Backend.NFT, 4, "mangle")) == [plan.lines[-1]]
            assert written_by(writer, 4, Plan((":cali-a - [0:0]",), ()))
            end_s = time.monotonic() + 30
            while sets.destroy([IpsetName("cali-s")]):  # the kernel lets go of it a little later
                assert time.monotonic() < end_s
    assert found[0] != found[1]


@pytest.mark.parametrize(
    "line",
    [
        "-A FORWARD -j cali-a",
        "-I FORWARD 1 -j cali-a",
        "-D FORWARD -j cali-a",
        ":FORWARD ACCEPT [0:0]",
        "-R cali-a 1 -j DROP",
        "-A OTHERS -j DROP",
    ],
)
def test_what_is_not_about_chains_of_ours_is_left_to_the_program(line: str) -> None:
    with closing(NftWriter()) as writer:
        assert not written_by(writer, 4, Plan((line,), ()))
