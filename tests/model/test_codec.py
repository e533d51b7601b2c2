"""Stored values: what is not understood must not open anything, and must be reported."""

import json

import pytest

from calico_k8s.model import codec, keys
from calico_k8s.model.names import (
    EndpointId,
    NamespaceName,
    NetsetName,
    NodeName,
    PolicyId,
    ProfileId,
    TierName,
)
from calico_k8s.model.resources import Action, Direction, Policy, Rules, Tier, WorkloadEndpoint

RULES = keys.ProfileRulesKey(ProfileId("p"))
POLICY = keys.PolicyKey(TierName("t"), PolicyId("NetworkPolicy", "prod", "p"))
GLOBAL = keys.PolicyKey(TierName("t"), PolicyId("GlobalNetworkPolicy", "", "p"))
ENDPOINT = keys.EndpointKey(EndpointId(NodeName("n"), NamespaceName("prod"), "a"))


def decode_rule(**fields: object) -> tuple[tuple[Action, ...], tuple[str, ...]]:
    raw = json.dumps({"inbound_rules": [fields]}).encode()
    value, problems = codec.decode(RULES, raw)
    assert isinstance(value, Rules)
    return tuple(rule.action for rule in value.ingress), problems


@pytest.mark.parametrize(
    ("fields", "actions"),
    [
        ({"action": "allow", "http_method": "GET"}, ()),
        ({"action": "deny", "http_method": "GET"}, (Action.DENY,)),
        ({"action": "next-tier", "http_method": "GET"}, (Action.DENY,)),
        ({"action": "log", "http_method": "GET"}, ()),
        ({"action": "reject"}, (Action.DENY,)),
        ({}, (Action.DENY,)),
        ({"action": "allow", "protocol": "tcp", "dst_ports": [70000]}, ()),
        ({"action": "allow", "protocol": "tcp", "dst_ports": ["9:8"]}, ()),
        ({"action": "allow", "dst_ports": [80]}, ()),
        ({"action": "allow", "protocol": "quic"}, ()),
        ({"action": "allow", "protocol": 256}, ()),
        ({"action": "allow", "src_nets": ["10.0.0.0/33"]}, ()),
        ({"action": "allow", "src_selector": "a =="}, ()),
        ({"action": "allow", "protocol": "tcp", "icmp_type": 8}, ()),
        ({"action": "allow", "protocol": "icmp", "icmp_code": 8}, ()),
        ({"action": "deny", "src_nets": ["10.0.0.0/33"]}, (Action.DENY,)),
    ],
)
def test_a_rule_that_is_not_understood_fails_closed(
    fields: dict[str, object], actions: tuple[Action, ...]
) -> None:
    found, problems = decode_rule(**fields)
    assert found == actions
    assert len(problems) == 1
    assert keys.key_path(RULES) in problems[0]


def test_a_rule_beside_one_that_is_not_understood_stands() -> None:
    raw = json.dumps({"inbound_rules": [{"action": "allow", "new": 1}, {"action": "allow"}]})
    value, problems = codec.decode(RULES, raw.encode())
    assert isinstance(value, Rules)
    assert [rule.action for rule in value.ingress] == [Action.ALLOW]
    assert len(problems) == 1


def test_unknown_metadata_is_ignored_in_an_endpoint() -> None:
    raw = b'{"addresses": ["10.0.0.1"], "colour": "red", "profile_ids": ["p"]}'
    value, problems = codec.decode(ENDPOINT, raw)
    assert isinstance(value, WorkloadEndpoint)
    assert value.addresses == ("10.0.0.1",)
    assert problems == ()


def test_a_bad_address_is_left_out_and_told() -> None:
    value, problems = codec.decode(ENDPOINT, b'{"addresses": ["10.0.0.1", "10.0.0.300"]}')
    assert isinstance(value, WorkloadEndpoint)
    assert value.addresses == ("10.0.0.1",)
    assert "10.0.0.300" in problems[0]


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"selector": "a =="}'])
def test_a_policy_that_cannot_be_read_denies_its_namespace(raw: bytes) -> None:
    value, problems = codec.decode(POLICY, raw)
    assert isinstance(value, Policy)
    assert value.selector == 'projectcalico.org/namespace == "prod"'
    assert value.types == (Direction.INGRESS, Direction.EGRESS)
    assert (value.ingress, value.egress) == ((), ())
    assert problems


def test_a_cluster_wide_policy_that_cannot_be_read_denies_all() -> None:
    value, _ = codec.decode(GLOBAL, b"not json")
    assert isinstance(value, Policy)
    assert value.selector == "all()"


def test_a_tier_that_cannot_be_read_comes_first_and_denies() -> None:
    value, problems = codec.decode(keys.TierKey(TierName("t")), b'{"default_action": "shrug"}')
    assert isinstance(value, Tier)
    assert value.order == float("-inf")
    assert value.default_action is Action.DENY
    assert "shrug" in problems[0]


@pytest.mark.parametrize(
    "key",
    [
        RULES,
        ENDPOINT,
        keys.ProfileTagsKey(ProfileId("p")),
        keys.ProfileLabelsKey(ProfileId("p")),
        keys.NodeKey(NodeName("n")),
        keys.NetsetKey(NetsetName("s")),
        keys.SettingKey(None, "x"),
        keys.ReadyKey(),
    ],
)
@pytest.mark.parametrize("raw", [b"", b"{", b"7", b"[[[[", b"\x00", b'"' + b"x" * 100])
def test_any_other_value_that_cannot_be_read_counts_as_absent(key: keys.Key, raw: bytes) -> None:
    value, problems = codec.decode(key, raw)
    if value is not None:
        assert isinstance(key, keys.SettingKey)
        return
    assert len(problems) == 1
    assert problems[0].startswith(keys.key_path(key))


def test_pass_and_directions_are_stored_in_the_words_of_version_1() -> None:
    raw = b'{"outbound_rules": [{"action": "next-tier", "!src_nets": ["10.0.0.7/8"]}]}'
    value, problems = codec.decode(RULES, raw)
    assert problems == ()
    assert isinstance(value, Rules)
    (rule,) = value.egress
    assert rule.action is Action.PASS
    assert rule.src.not_nets == ("10.0.0.0/8",)
    assert b'"next-tier"' in codec.encode(value)
    assert b'"!src_nets"' in codec.encode(value)
