"""A domain as a party: what rules say of its name, whatever its addresses are."""

import pytest

from calico_k8s.errors import InputError
from calico_k8s.model.resources import PROTOCOL_NUMBERS
from calico_k8s.query.affected import affected, affected_lines, parse_object_name
from calico_k8s.query.domains import find_domain, is_domain
from calico_k8s.query.explain import explain_lines
from calico_k8s.query.reach import Answer, Service, ask, find_party
from tests.nine_pods import World
from tests.translate.test_calico_policies import everywhere

SET = """
apiVersion: projectcalico.org/v3
kind: GlobalNetworkSet
metadata: {name: partners, labels: {role: partner}}
spec: {allowedEgressDomains: [api.partner.test], nets: [192.0.2.1]}
---"""
LIMITED = everywhere(
    "selector: pod == 'a', egress: ["
    "{action: Deny, destination: {nets: [192.0.2.2]}},"
    "{action: Allow, destination: {domains: ['*.example.com']}},"
    "{action: Allow, destination: {selector: role == 'partner'}}]"
)
HTTP = Service(PROTOCOL_NUMBERS["tcp"], 80)


def asked(name: str, src: str = "x/a") -> Answer:
    snapshot, party = find_domain(World(SET, LIMITED).snapshot, name)
    return ask(snapshot, find_party(snapshot, src), party, HTTP)


@pytest.mark.parametrize(
    ("name", "is_allowed"),
    [
        ("x.example.com", True),
        ("X.Y.Example.com.", True),
        ("example.com", False),
        ("api.partner.test", True),
        ("partner.test", False),
    ],
)
def test_a_name_is_allowed_by_what_means_it(name: str, is_allowed: bool) -> None:
    assert asked(name).allowed is is_allowed
    assert asked(name, "x/b").allowed


def test_a_name_stands_for_both_families() -> None:
    assert len(asked("x.example.com").flows) == 2


def test_what_is_asked_for_is_one_name() -> None:
    with pytest.raises(InputError, match="stands for many names"):
        asked("*.example.com")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.io", True),
        ("3scale.net", True),
        ("10.0.0.1", False),
        ("fd00::1", False),
        ("ns/a.b", False),
    ],
)
def test_a_domain_is_told_from_other_parties(text: str, expected: bool) -> None:
    assert is_domain(text) is expected


def test_of_an_address_it_is_said_that_its_names_are_not_known() -> None:
    snapshot = World(SET, LIMITED).snapshot
    answer = ask(snapshot, find_party(snapshot, "x/a"), find_party(snapshot, "192.0.2.9"), HTTP)
    said = "\n".join(explain_lines(answer, "x/a", "192.0.2.9"))
    assert "which addresses *.example.com has is not known here" in said
    assert "not known here" not in "\n".join(explain_lines(asked("a.test"), "x/a", "a.test"))


def test_what_a_rule_for_names_resolves_to_is_its_domains() -> None:
    found = affected(World(SET, LIMITED).snapshot, parse_object_name("GlobalNetworkPolicy/p"))
    said = "\n".join(affected_lines(found))
    assert "to domains *.example.com" in said
    assert [rule.peers.domains for rule in found.rules] == [(), ("*.example.com",), ()]
