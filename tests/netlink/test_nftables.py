"""Reading nftables: generations grow by one a transaction, rules come in order."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from calico_k8s.netlink import nftexpr as nft
from calico_k8s.netlink.nftables import (
    NftEvents,
    NftRule,
    NftSocket,
    counted_packets,
    rule_identity,
)
from calico_k8s.netlink.nftwrite import TableMessages
from calico_k8s.netlink.wire import BE64, attribute, nested, text_attribute
from tests.namespaces import Namespace, run

pytestmark = pytest.mark.kernel


@pytest.fixture
def socket(namespace: Namespace) -> Iterator[NftSocket]:
    socket = NftSocket()
    yield socket
    socket.close()


def test_a_generation_is_one_transaction_of_any_program(socket: NftSocket) -> None:
    before = socket.generation()
    assert socket.generation() == before
    run("nft", "add table inet other; add chain inet other a; add chain inet other b")
    assert socket.generation() == before + 1
    run("iptables-nft-restore", "--noflush", stdin="*filter\n:x - [0:0]\n-A x -j DROP\nCOMMIT\n")
    assert socket.generation() == before + 2


def test_each_transaction_is_one_event_whatever_it_changed(namespace: Namespace) -> None:
    events = NftEvents()
    assert not events.has_news()
    elements = ", ".join(str(number) for number in range(1, 3000))
    text = f"table inet other {{ set s {{ type inet_service; elements = {{ {elements} }}; }}; }}"
    run("nft", "-f", "-", stdin=text)
    assert len(list(events._socket.events())) == 1
    run("iptables-nft", "-N", "x")
    assert events.has_news()
    assert not events.has_news()
    run("iptables-legacy", "-N", "x")
    run("nft", "list", "ruleset")
    assert not events.has_news()
    run("nft", "flush", "ruleset")
    assert events.has_news()
    events.close()


def test_what_is_written_over_an_ignored_socket_is_no_event(socket: NftSocket) -> None:
    made = TableMessages(4, "raw")
    with closing(NftSocket()) as other, closing(NftEvents()) as events:
        for writers in ((), (socket,), (other, socket), (other,)):
            events.ignore(writers)
            for writer in (socket, other):
                writer.commit((made.make_table(), made.delete_table()))
                assert events.has_news() == (writer not in writers)
        run("nft", "add table ip other")
        assert events.has_news(), "it is another program's"


def test_rules_of_one_table_come_in_order_without_its_namesakes(socket: NftSocket) -> None:
    for tool, table in (
        ("iptables-nft", "filter"),
        ("iptables-nft", "mangle"),
        ("ip6tables-nft", "filter"),
    ):
        for name in ("one", "two"):
            text = ("-m", "comment", "--comment", f"{tool} {table} {name}")
            run(tool, "-t", table, "-A", "FORWARD", *text)
    run("iptables-nft", "-N", "empty")
    found = [(rule.chain, bytes(rule.attributes)) for rule in socket.rules(4, "filter")]
    assert [chain for chain, _ in found] == ["FORWARD", "FORWARD"]
    assert b"iptables-nft filter one\0" in found[0][1]
    assert b"iptables-nft filter two\0" in found[1][1]
    assert sorted(socket.chains(4, "filter")) == ["FORWARD", "empty"]
    assert socket.chains(4, "nat") == []
    assert socket.rules(6, "nat") == []


def test_what_a_rule_has_counted_is_read_and_is_nothing_that_it_does() -> None:
    def rule(packets: int, *, counts: bool = True) -> NftRule:
        counted = (attribute(1, BE64.pack(60 * packets)), attribute(2, BE64.pack(packets)))
        named = (text_attribute(1, "counter"), nested(2, *counted))
        counter = nested(nft.NFTA_LIST_ELEM, *named) if counts else b""
        body = nested(4, counter + nft.verdict(nft.NF_DROP))
        return NftRule("c", memoryview(body))

    assert [counted_packets(rule(n)) for n in (0, 7)] == [0, 7]
    assert counted_packets(rule(7, counts=False)) == 0
    assert rule_identity(rule(7)) == rule_identity(rule(8))
    assert rule_identity(rule(7)) != rule_identity(rule(7, counts=False))
