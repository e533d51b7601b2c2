"""The local end of a rule, decided for one endpoint: each line is a criterion and its answer.

The endpoint has labels ``a=x``, tag ``ta``, ports http/tcp 80 and 8080 and http/udp 53, and the
addresses 10.0.0.1, 10.0.0.2 and fd00::1.
"""

import pytest

from calico_k8s.calc.local import EVERYWHERE, LocalEnd, LocalMatch, is_question
from calico_k8s.calc.netsets import Netsets
from calico_k8s.model.addresses import Address, Net, Version
from calico_k8s.model.names import NetsetName, SelectorText, TagName
from calico_k8s.model.resources import (
    Action,
    EntityMatch,
    NamedPort,
    NetworkSet,
    Origin,
    PortRange,
    Rule,
)

TCP, UDP = 6, 17
NAMED = (NamedPort("http", TCP, 8080), NamedPort("http", TCP, 80), NamedPort("http", UDP, 53))
BOTH_FAMILIES = (Address("10.0.0.1"), Address("10.0.0.2"), Address("fd00::1"))

SETS = {
    "one": ("10.0.0.1/32",),
    "v4": ("10.0.0.0/24",),
    "v6": ("fd00::/64",),
    "all": ("10.0.0.0/8", "fd00::/8"),
    "other": ("192.168.0.0/16",),
}


def end(*, addresses: tuple[Address, ...] = BOTH_FAMILIES) -> LocalEnd:
    netsets = Netsets()
    for name, nets in SETS.items():
        value = NetworkSet(NetsetName(name), {"set": name}, tuple(map(Net, nets)))
        netsets.update(NetsetName(name), value)
    return LocalEnd({"a": "x"}, {TagName("ta")}, NAMED, addresses, netsets)


def decide(
    entity: EntityMatch, *, protocol: int = TCP, ip_version: Version | None = None
) -> LocalMatch | None:
    rule = Rule(Action.ALLOW, Origin("Pod"), ip_version=ip_version, protocol=protocol, dst=entity)
    return end().decide(rule, entity)


def ask(**criteria: object) -> EntityMatch:
    return EntityMatch(**criteria)  # type: ignore[arg-type]  # a table's cells


@pytest.mark.parametrize(
    ("entity", "expected"),
    [
        (ask(tag=TagName("ta")), EVERYWHERE),
        (ask(tag=TagName("tb")), None),
        (ask(not_tag=TagName("ta")), None),
        (ask(not_tag=TagName("tb")), EVERYWHERE),
        (ask(selector=SelectorText('a == "x"')), EVERYWHERE),
        (ask(selector=SelectorText('a == "y"')), None),
        (ask(not_selector=SelectorText('a == "x"')), None),
        (ask(not_selector=SelectorText('a == "y"')), EVERYWHERE),
        # A selector that is true only of a network set, for the addresses that the set holds.
        (ask(selector=SelectorText('set == "all"')), EVERYWHERE),
        (ask(selector=SelectorText('set == "v4"')), LocalMatch(ip_version=4)),
        (ask(selector=SelectorText('set == "one"')), LocalMatch(nets=(Net("10.0.0.1/32"),))),
        (ask(not_selector=SelectorText('set == "v4"')), LocalMatch(ip_version=6)),
        (ask(netset=NetsetName("all")), EVERYWHERE),
        (ask(netset=NetsetName("other")), None),
        (ask(netset=NetsetName("nowhere")), None),
        (ask(netset=NetsetName("v4")), LocalMatch(ip_version=4)),
        (ask(netset=NetsetName("v6")), LocalMatch(ip_version=6)),
        (ask(netset=NetsetName("one")), LocalMatch(nets=(Net("10.0.0.1/32"),))),
        (ask(not_netset=NetsetName("v6")), LocalMatch(ip_version=4)),
        (
            ask(not_netset=NetsetName("one")),
            LocalMatch(nets=(Net("10.0.0.2/32"), Net("fd00::1/128"))),
        ),
        (
            ask(not_netset=NetsetName("one"), nets=(Net("10.0.0.0/24"),)),
            LocalMatch(nets=(Net("10.0.0.2/32"),)),
        ),
        (ask(not_netset=NetsetName("one"), nets=(Net("10.0.0.1/32"),)), None),
        (ask(named_ports=("http",)), LocalMatch(ports=(80, 8080))),
        (ask(named_ports=("dns",)), None),
        (ask(named_ports=("dns",), ports=(PortRange(1, 2),)), EVERYWHERE),
        (ask(not_named_ports=("http",)), LocalMatch(not_ports=(80, 8080))),
        (ask(not_named_ports=("dns",)), EVERYWHERE),
        (ask(tag=TagName("ta"), netset=NetsetName("v6")), LocalMatch(ip_version=6)),
        (ask(tag=TagName("tb"), netset=NetsetName("v6")), None),
    ],
)
def test_each_criterion_has_its_answer(entity: EntityMatch, expected: LocalMatch | None) -> None:
    assert is_question(entity)
    assert decide(entity) == expected


def test_a_named_port_counts_for_its_own_protocol() -> None:
    assert decide(ask(named_ports=("http",)), protocol=UDP) == LocalMatch(ports=(53,))


def test_an_answer_holds_no_more_than_the_rules_family_needs() -> None:
    assert decide(ask(netset=NetsetName("v4")), ip_version=4) == EVERYWHERE
    assert decide(ask(netset=NetsetName("v4")), ip_version=6) is None


@pytest.mark.parametrize(
    "entity", [ask(), ask(nets=(Net("10.0.0.0/8"),)), ask(ports=(PortRange(1, 2),))]
)
def test_nets_and_numbers_are_left_to_the_kernel(entity: EntityMatch) -> None:
    assert not is_question(entity)


@pytest.mark.parametrize(
    ("entity", "depends"),
    [
        (ask(tag=TagName("ta")), False),
        (ask(named_ports=("http",)), False),
        (ask(selector=SelectorText('a == "x"')), False),
        (ask(selector=SelectorText('a == "y"')), True),  # a network set may carry a=y
        (ask(tag=TagName("tb"), netset=NetsetName("v4")), False),
        (ask(netset=NetsetName("v4")), True),
    ],
)
def test_only_what_network_sets_can_change_depends_on_them(
    entity: EntityMatch, *, depends: bool
) -> None:
    one = end()
    one.decide(Rule(Action.ALLOW, Origin("Pod"), dst=entity), entity)
    assert one.depends_on_nets is depends


def test_an_endpoint_without_address_is_in_no_network_set() -> None:
    one = end(addresses=())
    for entity, expected in (
        (ask(netset=NetsetName("all")), None),
        (ask(not_netset=NetsetName("all")), EVERYWHERE),
    ):
        assert one.decide(Rule(Action.ALLOW, Origin("Pod"), dst=entity), entity) == expected
