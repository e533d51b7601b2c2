"""Whom policies of every kind speak of."""

import msgspec
import pytest

from calico_k8s.errors import InputError
from calico_k8s.model import keys
from calico_k8s.model.addresses import Address, Net
from calico_k8s.model.names import NetsetName, NodeName, SelectorText, TierName
from calico_k8s.model.resources import (
    PROTOCOL_NUMBERS,
    Action,
    Direction,
    EntityMatch,
    HostEndpoint,
    HostHook,
    NamedPort,
    Origin,
    Policy,
    PortRange,
    Rule,
)
from calico_k8s.policy.snapshot import Snapshot
from calico_k8s.query.affected import (
    Affected,
    Peers,
    ResolvedPort,
    affected,
    affected_lines,
    parse_object_name,
)
from calico_k8s.query.describe import describe_rule
from tests.states import both, netset, pod, policy, profile, tier

TCP = PROTOCOL_NUMBERS["tcp"]


def rule(
    src: EntityMatch | None = None, dst: EntityMatch | None = None, protocol: int | None = None
) -> Rule:
    origin = Origin("Pod", "prod", index=0)
    nobody = EntityMatch()
    return Rule(Action.ALLOW, origin, protocol=protocol, src=src or nobody, dst=dst or nobody)


def found(written: Rule, name: str = "NetworkPolicy/prod/p") -> Affected:
    """What a policy with one rule says: it selects ``a`` and ``b``, ``c`` is somebody else."""
    http = (NamedPort("http", TCP, 8080),)
    state = both(
        pod("a", "10.0.0.1", "fd00::1", labels={"app": "a", "kind": "own"}, ports=http),
        pod("b", "10.0.0.2", labels={"app": "b", "kind": "own"}),
        pod("c", "10.0.0.3", labels={"app": "c"}, ports=(NamedPort("http", TCP, 81),)),
        netset("office", "192.0.2.0/24", labels={"app": "c"}),
        tier("default"),
        policy("p", "kind == 'own'", written),
    )
    return affected(Snapshot.from_items(state), parse_object_name(name))


def test_a_rule_has_the_number_that_it_was_written_with() -> None:
    """Two peers of one rule are two rules here; one before them may be of no use."""
    second = Origin("NetworkPolicy", "prod", "p", index=1)
    written = [Rule(Action.ALLOW, second, protocol=protocol) for protocol in (TCP, None)]
    state = both(tier("default"), policy("p", "all()", *written))
    name = parse_object_name("NetworkPolicy/prod/p")
    assert [each.number for each in affected(Snapshot.from_items(state), name).rules] == [2, 2]


def peers(entity: EntityMatch) -> Peers:
    return found(rule(src=entity)).rules[0].peers


def test_a_policy_speaks_of_the_endpoints_that_it_selects() -> None:
    selected = found(rule()).endpoints
    assert [(each.pod, each.addresses) for each in selected] == [
        ("prod/a", ("10.0.0.1", "fd00::1")),
        ("prod/b", ("10.0.0.2",)),
    ]


@pytest.mark.parametrize(
    ("entity", "everyone", "pods"),
    [
        (EntityMatch(), True, ()),
        (EntityMatch(ports=(PortRange(1, 2),)), True, ()),
        (EntityMatch(selector="app == 'c'"), False, ("prod/c",)),  # type: ignore[arg-type]  # a selector's text
        (EntityMatch(not_selector="app == 'c'"), True, ("prod/a", "prod/b")),  # type: ignore[arg-type]
        (EntityMatch(nets=(Net("10.0.0.2/31"),)), False, ("prod/b", "prod/c")),
        (EntityMatch(nets=(Net("fd00::/64"),)), False, ("prod/a",)),
        (EntityMatch(selector="has(app)", nets=(Net("10.0.0.3/32"),)), False, ("prod/c",)),  # type: ignore[arg-type]
        (EntityMatch(netset=NetsetName("office")), False, ()),
    ],
    ids=str,
)
def test_a_rule_s_peers_are_whom_it_matches(
    entity: EntityMatch, everyone: bool, pods: tuple[str, ...]
) -> None:
    assert (peers(entity).everyone, peers(entity).pods) == (everyone, pods)


def test_nets_are_peers_as_a_whole_only_where_nothing_else_is_asked() -> None:
    net = Net("10.0.0.0/30")
    assert peers(EntityMatch(nets=(net,), not_nets=(Net("10.0.0.1/32"),))).except_nets
    assert peers(EntityMatch(nets=(net,))).nets == (net,)
    assert peers(EntityMatch(selector="has(app)", nets=(net,))).nets == ()  # type: ignore[arg-type]


def test_network_sets_are_peers_by_name_and_by_label() -> None:
    assert peers(EntityMatch(netset=NetsetName("office"))).netsets == ("office",)
    assert peers(EntityMatch(selector="app == 'c'")).netsets == ("office",)  # type: ignore[arg-type]
    assert peers(EntityMatch(selector="app == 'a'")).netsets == ()  # type: ignore[arg-type]


def test_a_rule_about_some_of_its_own_pods_names_them() -> None:
    own = EntityMatch(selector="app == 'a'", named_ports=("http",))  # type: ignore[arg-type]
    (only,) = found(rule(dst=own, protocol=TCP)).rules
    assert only.endpoints == ("prod/a",)
    assert only.named_ports == (ResolvedPort("http", "prod/a", 8080, "tcp"),)


def test_a_name_of_an_outbound_rule_is_its_peers() -> None:
    wanted = rule(dst=EntityMatch(selector="app == 'c'", named_ports=("http",)), protocol=TCP)  # type: ignore[arg-type]
    state = both(
        pod("a", "10.0.0.1", labels={"app": "a"}, ports=(NamedPort("http", TCP, 80),)),
        pod("c", "10.0.0.3", labels={"app": "c"}, ports=(NamedPort("http", TCP, 81),)),
    )
    ((key, value),) = policy("p", "app == 'a'").items()
    assert isinstance(value, Policy)
    outbound = Policy(
        value.id, TierName("x"), value.selector, (Direction.EGRESS,), egress=(wanted,)
    )
    snapshot = Snapshot.from_items({**state, key: outbound})
    (only,) = affected(snapshot, parse_object_name("networkpolicy/prod/p")).rules
    assert (only.direction, only.peers.pods) == (Direction.EGRESS, ("prod/c",))
    assert only.named_ports == (ResolvedPort("http", "prod/c", 81, "tcp"),)
    assert list(affected_lines(affected(snapshot, parse_object_name("NetworkPolicy/prod/p")))) == [
        "NetworkPolicy/prod/p selects 1 endpoint",
        "  prod/a on n1, 10.0.0.1",
        "egress rule 1: allow tcp to selector (app == 'c') port http",
        "  to prod/c",
        "  port http of prod/c is 81/tcp",
    ]


def test_an_address_that_a_newer_pod_owns_is_no_longer_the_older_one_s() -> None:
    state = both(
        pod("a", "10.0.0.1"),
        pod("b", "10.0.0.1", created=2.0),
        policy("p", "all()", rule(src=EntityMatch(nets=(Net("10.0.0.1/32"),)))),
    )
    (only,) = affected(Snapshot.from_items(state), parse_object_name("NetworkPolicy/prod/p")).rules
    assert only.peers.pods == ("prod/b",)
    assert only.endpoints == ("prod/b",)


def test_an_annotation_is_its_pod_s_alone_though_pods_share_the_profile() -> None:
    shared = profile("annotation.prod.x", origin=Origin("Pod", "prod"))
    state = both(
        shared,
        pod("a", "10.0.0.1", profiles=("annotation.prod.x",)),
        pod("b", "10.0.0.2", profiles=("annotation.prod.x",)),
    )
    selected = affected(Snapshot.from_items(state), parse_object_name("Pod/prod/a"))
    assert [each.pod for each in selected.endpoints] == ["prod/a"]
    assert selected.rules == ()
    assert list(affected_lines(selected))[-1] == "no rule"


def test_many_peers_are_counted_in_text_and_all_named_in_values() -> None:
    pods = both(*(pod(f"p{number}", f"10.0.0.{number}") for number in range(1, 10)))
    state = both(pods, policy("p", "all()", rule(src=EntityMatch(nets=(Net("10.0.0.0/8"),)))))
    selected = affected(Snapshot.from_items(state), parse_object_name("NetworkPolicy/prod/p"))
    assert len(selected.rules[0].peers.pods) == 9
    assert "and 3 more" in list(affected_lines(selected))[-1]


@pytest.mark.parametrize("text", ["", "Pod", "Pod/", "Pod/a", "Namespace/a/b", "/a/b", "a/b/c/d"])
def test_what_is_no_object_s_name_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="give "):
        parse_object_name(text)


def test_an_unknown_policy_is_told_with_the_nearest_name() -> None:
    with pytest.raises(InputError, match="did you mean 'NetworkPolicy/prod/p'"):
        found(rule(), "NetworkPolicy/prod/q")


@pytest.mark.parametrize(
    ("hook", "selected", "words"),
    [
        (HostHook.LOCAL, ["HostEndpoint/uplink", "prod/a"], None),
        (HostHook.FORWARDED, ["HostEndpoint/uplink", "prod/a"], "(applyOnForward)"),
        (HostHook.PRE_DNAT, ["HostEndpoint/uplink"], "before DNAT (preDNAT)"),
        (HostHook.UNTRACKED, ["HostEndpoint/uplink"], "before any connection (doNotTrack)"),
    ],
)
def test_host_endpoints_are_selected_and_are_peers_and_the_hook_is_told(
    hook: HostHook, selected: list[str], words: str | None
) -> None:
    node, address = NodeName("n1"), Address("192.168.0.1")
    host = HostEndpoint(node, "uplink", "eth0", (address,), {"role": "node"})
    wanted = rule(src=EntityMatch(selector=SelectorText("role == 'node'")))
    ((key, value),) = policy("p", "all()", wanted).items()
    assert isinstance(value, Policy)
    state = both(
        pod("a", "10.0.0.1"),
        {keys.HostEndpointKey(node, "uplink"): host},
        {key: msgspec.structs.replace(value, host_hook=hook)},
    )
    told = affected(Snapshot.from_items(state), parse_object_name("NetworkPolicy/prod/p"))
    assert [endpoint.pod for endpoint in told.endpoints] == selected
    assert told.rules[0].peers.pods == ("HostEndpoint/uplink",)
    assert told.rules[0].endpoints == tuple(selected)
    lines = [line for line in affected_lines(told) if line.startswith("it is asked")]
    assert [line.endswith(words or "") for line in lines] == ([True] if words else [])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("service/shop/db", "allow to service shop/db"),
        ("service/shop/db/6:5432", "allow to service shop/db"),
        ("nodes/role == 'worker'", "allow to nodes (role == 'worker')"),
        ("shop/office", "allow to netset shop/office"),
    ],
)
def test_a_set_that_follows_from_an_object_is_called_by_that(name: str, words: str) -> None:
    assert describe_rule(rule(dst=EntityMatch(netset=NetsetName(name)))) == words
