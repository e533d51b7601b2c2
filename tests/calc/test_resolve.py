"""Rules of the model to rules of a group: each line is a rule's peer and what asks for it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico_k8s.calc.deltas import IpsetKind, Polarity, ResolvedRule
from calico_k8s.calc.expressions import (
    Term,
    port_criterion,
    selector_criterion,
    tag_criterion,
)
from calico_k8s.calc.local import EVERYWHERE, LocalMatch
from calico_k8s.calc.resolve import Resolved, make_sheet, resolve_sheet
from calico_k8s.model.addresses import Net
from calico_k8s.model.names import NetsetName, SelectorText, TagName
from calico_k8s.model.resources import Action, Direction, EntityMatch, Origin, PortRange, Rule
from tests.model_strategies import rule_tuples

TCP = 6
ALLOW, DENY, PASS, LOG = Action.ALLOW, Action.DENY, Action.PASS, Action.LOG
INGRESS, EGRESS = Direction.INGRESS, Direction.EGRESS
PORT = (PortRange(80, 80),)
TEN = (Net("10.0.0.0/8"),)
TAG, SELECTOR, NETSET = TagName("ta"), SelectorText("has(a)"), NetsetName("sa")
TAG_TERM, SELECTOR_TERM = tag_criterion(TAG), selector_criterion(SELECTOR)
HTTP = (port_criterion("http"),)


def resolve(
    *rules: Rule, direction: Direction = INGRESS, answer: LocalMatch = EVERYWHERE
) -> Resolved:
    sheet = make_sheet(rules, direction)
    return resolve_sheet(sheet, [answer] * len(sheet.asking), pass_as=Action.PASS)


def peer(action: Action = ALLOW, **criteria: object) -> Rule:
    return Rule(action, Origin("Pod"), protocol=TCP, src=EntityMatch(**criteria))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rule", "positive", "negated"),
    [
        (peer(), None, []),
        (peer(nets=TEN, ports=PORT), None, []),
        (peer(tag=TAG), (Term(tag=TAG_TERM),), []),
        (peer(selector=SELECTOR), (Term(selector=SELECTOR_TERM),), []),
        (peer(netset=NETSET), (Term(netset=NETSET),), []),
        (
            peer(tag=TAG, selector=SELECTOR, netset=NETSET),
            (Term(tag=TAG_TERM, selector=SELECTOR_TERM, netset=NETSET),),
            [],
        ),
        (peer(named_ports=("http",)), (Term(ports=HTTP, protocol=TCP),), []),
        (
            peer(named_ports=("http",), tag=TAG),
            (Term(tag=TAG_TERM, ports=HTTP, protocol=TCP),),
            [],
        ),
        (peer(not_tag=TAG), None, [(Term(tag=TAG_TERM),)]),
        (
            peer(not_tag=TAG, not_selector=SELECTOR, not_netset=NETSET),
            None,
            [(Term(tag=TAG_TERM), Term(selector=SELECTOR_TERM), Term(netset=NETSET))],
        ),
        (
            peer(tag=TAG, not_netset=NETSET, not_named_ports=("http",)),
            (Term(tag=TAG_TERM),),
            [(Term(netset=NETSET),), (Term(ports=HTTP, protocol=TCP),)],
        ),
    ],
)
def test_a_rule_asks_one_set_positively_and_its_negations_together(
    rule: Rule, positive: object, negated: list[object]
) -> None:
    resolved = resolve(rule)
    (one,) = resolved.rules
    expressions = resolved.expressions
    assert (expressions[one.peer_ipset] if one.peer_ipset else None) == positive
    assert [expressions[ipset] for ipset in one.peer_not_ipsets] == negated


@pytest.mark.parametrize(
    ("action", "positive", "negated"),
    [
        (ALLOW, Polarity.OPENS, Polarity.CLOSES),
        (DENY, Polarity.CLOSES, Polarity.OPENS),
        (PASS, Polarity.MOVES, Polarity.MOVES),
        (LOG, Polarity.COUNTS, Polarity.COUNTS),
    ],
)
def test_a_set_serves_one_action_in_one_direction(
    action: Action, positive: Polarity, negated: Polarity
) -> None:
    rule = peer(action, tag=TAG, not_tag=TAG)
    (one,) = resolve(rule).rules
    assert one.peer_ipset is not None
    assert one.peer_ipset.polarity is positive
    assert [ipset.polarity for ipset in one.peer_not_ipsets] == [negated]
    (away,) = resolve(Rule(action, Origin("Pod"), dst=rule.src), direction=EGRESS).rules
    assert away.peer_ipset is not None
    assert away.peer_ipset.id != one.peer_ipset.id
    assert away.peer_ipset.direction is EGRESS


def asked(rule: ResolvedRule) -> tuple[IpsetKind | None, tuple[PortRange, ...], object]:
    kind = None if rule.peer_ipset is None else rule.peer_ipset.kind
    return kind, rule.src_ports, rule.src_not_ports


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (
            peer(ports=PORT, named_ports=("http",)),
            [(None, PORT, ()), (IpsetKind.ADDRESS_PORT, (), ())],
        ),
        (
            peer(ports=PORT, named_ports=("http",), tag=TAG),
            [(IpsetKind.NET, PORT, ()), (IpsetKind.ADDRESS_PORT, (), ())],
        ),
        # A packet to a port that has both its number and its name asked is logged once.
        (
            peer(LOG, ports=PORT, named_ports=("http",)),
            [(None, PORT, ()), (IpsetKind.ADDRESS_PORT, (), PORT)],
        ),
    ],
)
def test_ports_by_number_and_by_name_are_two_rules(rule: Rule, expected: list[object]) -> None:
    assert [asked(one) for one in resolve(rule).rules] == expected


def test_the_answer_of_the_local_end_narrows_the_rule() -> None:
    own = EntityMatch(named_ports=("http",), ports=PORT, not_named_ports=("dns",), nets=TEN)
    rule = Rule(ALLOW, Origin("Pod"), protocol=TCP, dst=own)
    one_address = (Net("10.0.0.1/32"),)
    answer = LocalMatch(nets=one_address, ports=(8080,), not_ports=(53,))
    (one,) = resolve(rule, answer=answer).rules
    assert one.dst_nets == one_address
    assert one.dst_ports == (PortRange(80, 80), PortRange(8080, 8080))
    assert one.dst_not_ports == (PortRange(53, 53),)
    assert one.peer_ipset is None


def test_a_rule_of_one_family_that_holds_in_the_other_is_gone() -> None:
    rule = Rule(ALLOW, Origin("Pod"), ip_version=4, dst=EntityMatch(netset=NETSET))
    assert resolve(rule, answer=LocalMatch(ip_version=6)).rules == ()
    assert len(resolve(rule, answer=LocalMatch(ip_version=4)).rules) == 1


def test_a_rule_that_speaks_for_others_is_gone() -> None:
    rule = Rule(ALLOW, Origin("Pod"), dst=EntityMatch(tag=TAG))
    assert resolve_sheet(make_sheet((rule,), INGRESS), [None], pass_as=Action.PASS).rules == ()


def test_among_profiles_a_pass_denies_and_its_set_closes() -> None:
    sheet = make_sheet((peer(PASS, tag=TAG),), INGRESS)
    (one,) = resolve_sheet(sheet, [], pass_as=Action.DENY).rules
    assert one.action is DENY
    assert one.peer_ipset is not None
    assert one.peer_ipset.polarity is Polarity.CLOSES


def test_names_of_one_port_in_any_order_are_one_set() -> None:
    one, other = peer(named_ports=("a", "b")), peer(named_ports=("b", "a", "a"))
    assert resolve(one).expressions.keys() == resolve(other).expressions.keys()


@given(rule_tuples, st.sampled_from(Direction))
def test_every_set_that_is_asked_is_explained(
    rules: tuple[Rule, ...], direction: Direction
) -> None:
    resolved = resolve(*rules, direction=direction)
    asked_sets = {
        ipset
        for rule in resolved.rules
        for ipset in (rule.peer_ipset, *rule.peer_not_ipsets)
        if ipset is not None
    }
    assert asked_sets == resolved.expressions.keys()
    for ipset in asked_sets:
        has_ports = any(term.ports for term in resolved.expressions[ipset])
        assert (ipset.kind is IpsetKind.ADDRESS_PORT) == has_ports
