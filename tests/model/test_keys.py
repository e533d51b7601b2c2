"""Keys and their paths: one path for each key, one key for each path."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico_k8s.model import keys
from calico_k8s.model.keys import Key, key_path, parse_path
from calico_k8s.model.names import (
    EndpointId,
    NamespaceName,
    NetsetName,
    NodeName,
    PolicyId,
    ProfileId,
    TierName,
)

# What Kubernetes allows in names, and what a hand-made path may hold: slashes, blanks, percent.
names = st.text(alphabet="ab.-_/ %~é", min_size=1, max_size=6)
labels = st.text(alphabet="ab-", min_size=1, max_size=4)
"""Kubernetes names without a dot: namespaces and kinds."""

all_keys: st.SearchStrategy[Key] = st.one_of(
    st.builds(keys.ReadyKey),
    st.builds(keys.SettingKey, st.none() | names.map(NodeName), names),
    st.builds(keys.NodeKey, names.map(NodeName)),
    st.builds(
        keys.EndpointKey,
        st.builds(EndpointId, names.map(NodeName), labels.map(NamespaceName), names),
    ),
    st.builds(keys.ProfileRulesKey, names.map(ProfileId)),
    st.builds(keys.ProfileTagsKey, names.map(ProfileId)),
    st.builds(keys.ProfileLabelsKey, names.map(ProfileId)),
    st.builds(keys.TierKey, names.map(TierName)),
    st.builds(
        keys.PolicyKey,
        names.map(TierName),
        st.builds(PolicyId, labels, st.just("") | labels, names),
    ),
    st.builds(keys.NetsetKey, names.map(NetsetName)),
)

PATHS: list[tuple[str, Key | None]] = [
    ("/v1/Ready", keys.ReadyKey()),
    ("/v1/config/log-level", keys.SettingKey(None, "log-level")),
    ("/v1/host/n1/config/log-level", keys.SettingKey(NodeName("n1"), "log-level")),
    ("/v1/host/n1/metadata", keys.NodeKey(NodeName("n1"))),
    (
        "/v1/host/n1/workload/k8s/prod.db-0/endpoint/eth0",
        keys.EndpointKey(EndpointId(NodeName("n1"), NamespaceName("prod"), "db-0")),
    ),
    (
        "/v1/host/n1/workload/k8s/prod.a.b/endpoint/eth0",
        keys.EndpointKey(EndpointId(NodeName("n1"), NamespaceName("prod"), "a.b")),
    ),
    ("/v1/policy/profile/namespace.prod/rules", keys.ProfileRulesKey(ProfileId("namespace.prod"))),
    ("/v1/policy/profile/namespace.prod/tags", keys.ProfileTagsKey(ProfileId("namespace.prod"))),
    ("/v1/policy/profile/a%2Fb/labels", keys.ProfileLabelsKey(ProfileId("a/b"))),
    ("/v1/policy/tier/default/metadata", keys.TierKey(TierName("default"))),
    (
        "/v1/policy/tier/default/policy/NetworkPolicy.prod.web.front",
        keys.PolicyKey(TierName("default"), PolicyId("NetworkPolicy", "prod", "web.front")),
    ),
    (
        "/v1/policy/tier/default/policy/GlobalNetworkPolicy..web",
        keys.PolicyKey(TierName("default"), PolicyId("GlobalNetworkPolicy", "", "web")),
    ),
    ("/v1/host/n1/endpoint/uplink", keys.HostEndpointKey(NodeName("n1"), "uplink")),
    ("/v1/netset/office", keys.NetsetKey(NetsetName("office"))),
    # Not ours to read: left alone.
    ("/v1/leader", None),
    ("/v1/host/n1/endpoint", None),
    ("/v1/host/n1/workload/k8s/prod/endpoint/eth0", None),
    ("/v1/host/n1/workload/k8s/.db/endpoint/eth0", None),
    ("/v1/host/n1/workload/k8s/prod./endpoint/eth0", None),
    ("/v1/host/n1/workload/k8s/prod.db/endpoint/eth1", None),
    ("/v1/policy/tier/default/policy/NetworkPolicy.prod", None),
    ("/v1/policy/tier/default/policy/.prod.web", None),
    ("/v2/Ready", None),
    ("v1/Ready", None),
    ("/v1/Ready/", None),
    ("", None),
]


@pytest.mark.parametrize(("path", "key"), PATHS)
def test_each_path_is_one_key_or_none(path: str, key: Key | None) -> None:
    assert parse_path(path) == key
    if key is not None:
        assert key_path(key) == path


@given(all_keys)
def test_every_key_comes_back_from_its_path(key: Key) -> None:
    assert parse_path(key_path(key)) == key


@given(all_keys, all_keys)
def test_two_keys_have_one_path_only_if_they_are_one_key(one: Key, other: Key) -> None:
    assert (key_path(one) == key_path(other)) == (one == other)
    assert len({one: 1, other: 2}) == len({key_path(one), key_path(other)})


def test_the_three_parts_of_a_profile_are_three_keys_of_a_mapping() -> None:
    profile = ProfileId("namespace.prod")
    parts: list[Key] = [
        keys.ProfileRulesKey(profile),
        keys.ProfileTagsKey(profile),
        keys.ProfileLabelsKey(profile),
    ]
    assert len(dict.fromkeys(parts)) == 3


@given(st.text(alphabet="v1/hostpolicyprofiletierk8s.%2F", max_size=40))
def test_any_path_parses_to_none_or_to_a_key(path: str) -> None:
    key = parse_path(path)
    assert key is None or parse_path(key_path(key)) == key
