"""What a policy means, as packets: each line is one packet and what becomes of it.

The tables restate docs/design/policy-semantics.md section 4 and Calico's order of evaluation.  The cluster is
always the same: ``db`` and ``web`` on node n1, ``far`` on n2, all with IPv4, web with IPv6 too.
"""
# long: one table, a line a packet, best read in one place

from typing import Literal

import pytest

from calico_k8s.model import keys
from calico_k8s.model.addresses import Address, Net
from calico_k8s.model.keys import Key
from calico_k8s.model.names import (
    NetsetName,
    NodeName,
    PolicyId,
    ProfileId,
    SelectorText,
    TagName,
    TierName,
)
from calico_k8s.model.resources import (
    ICMP,
    ICMPV6,
    PROTOCOL_NUMBERS,
    Action,
    Direction,
    EntityMatch,
    IcmpMatch,
    NamedPort,
    Node,
    Origin,
    Policy,
    PortRange,
    Rule,
    Rules,
    Setting,
    StagedAction,
    Value,
)
from calico_k8s.policy.match import Flow, rule_matches
from calico_k8s.policy.snapshot import Snapshot
from calico_k8s.policy.verdict import POD_TO_HOST_ACTION, Verdict, judge
from tests.states import State, both, netset, pod, profile, tier

TCP, UDP = PROTOCOL_NUMBERS["tcp"], PROTOCOL_NUMBERS["udp"]
ALLOW, DENY, LOG = Action.ALLOW, Action.DENY, Action.LOG
PASS: Literal[Action.PASS] = Action.PASS
INGRESS, EGRESS = Direction.INGRESS, Direction.EGRESS

ADDRESSES = {
    "db": "10.0.0.1",
    "web": "10.0.0.2",
    "web6": "fd00::2",
    "far": "10.0.1.1",
    "n1": "192.168.0.1",
    "n2": "192.168.0.2",
    "outside": "198.51.100.7",
    "outside6": "2001:db8::7",
}
NODES: State = {
    keys.NodeKey(NodeName(name)): Node(NodeName(name), (Address(ADDRESSES[name]),))
    for name in ("n1", "n2")
}
OPEN_EGRESS = profile("egress", origin=Origin("Namespace", name="prod"))


def packet(text: str) -> Flow:
    """``web > db tcp 80`` as a flow; ``icmp 8`` gives a type."""
    src, _, dst, protocol, *number = text.split()
    value = int(number[0]) if number else 0
    ends = Address(ADDRESSES[src]), Address(ADDRESSES[dst])
    if protocol in ("icmp", "icmpv6"):
        return Flow(*ends, PROTOCOL_NUMBERS[protocol], icmp=IcmpMatch(value, 0))
    return Flow(*ends, PROTOCOL_NUMBERS[protocol], 40000, value)


def cluster(*, db: tuple[str, ...] = ("egress",), more: State | None = None) -> Snapshot:
    """The cluster, with these profiles on db; every other pod is open."""
    http = (NamedPort("http", TCP, 8080),)
    open_to_all = profile("open", rule(ALLOW, "open"), origin=Origin("Namespace", name="prod"))
    items = both(
        NODES,
        OPEN_EGRESS,
        open_to_all,
        profile("web-tags", tags=["app_web"]),
        profile("prod", labels={"pcns.name": "prod"}),
        pod("db", ADDRESSES["db"], labels={"app": "db"}, profiles=db),
        pod(
            "web",
            *(ADDRESSES["web"], ADDRESSES["web6"]),
            labels={"app": "web"},
            profiles=["open", "web-tags", "prod"],
            ports=http,
        ),
        pod("far", ADDRESSES["far"], node="n2", labels={"app": "far"}, profiles=["open"]),
        more or {},
    )
    return Snapshot.from_items(items)


def rule(action: Action, name: str = "", *, src: EntityMatch | None = None, port: int = 0) -> Rule:
    """A rule of an object of this name, for TCP where a port is given."""
    return Rule(
        action,
        Origin("Rule", name=name),
        protocol=TCP if port else None,
        src=src or EntityMatch(),
        dst=EntityMatch(ports=(PortRange(port, port),) if port else ()),
    )


def tagged(name: str) -> EntityMatch:
    return EntityMatch(tag=TagName(name))


def said(verdict: Verdict) -> str:
    """``allow: NAME`` or ``deny: NAME`` of what decided; the reason where no policy was asked."""
    word = "allow" if verdict.allowed else "deny"
    if verdict.reason != "policy" or verdict.deciding is None:
        return f"{word}: {verdict.reason}"
    origin = verdict.deciding.deciding
    return f"{word}: {origin.name or origin.kind}"


# Who is asked at all: policy-semantics.md section 4, points 2 and 4.

SHUT = profile("shut", rule(DENY, "shut"), origin=Origin("Pod"))
NO_EGRESS: State = {
    keys.ProfileRulesKey(ProfileId("no-egress")): Rules(
        ingress=(rule(ALLOW, "in"),), egress=(rule(DENY, "out"),)
    )
}


@pytest.mark.parametrize(
    ("flow", "expected"),
    [
        ("web > db tcp 80", "deny: shut"),
        ("far > db tcp 80", "deny: shut"),
        ("outside > db tcp 80", "deny: shut"),
        ("n2 > db tcp 80", "deny: shut"),  # another node is no neighbour
        ("n1 > db tcp 80", "allow: own-node"),  # probes of the kubelet
        ("db > db tcp 80", "allow: self"),
        ("web > web tcp 80", "allow: self"),
        ("db > outside tcp 443", "allow: Pod"),  # outbound is open
        ("db > web tcp 80", "allow: open"),
        ("db > n1 tcp 10250", "allow: host-action"),
        ("db > n2 tcp 10250", "allow: Pod"),
        ("outside > n1 tcp 22", "allow: no-endpoint"),
        ("n1 > n2 tcp 22", "allow: no-endpoint"),
    ],
)
def test_a_shut_pod_still_meets_itself_and_its_node_and_may_go_out(
    flow: str, expected: str
) -> None:
    assert said(judge(cluster(db=("shut",), more=SHUT), packet(flow))) == expected


@pytest.mark.parametrize(
    ("setting", "flow", "expected"),
    [
        ("accept", "web > n1 tcp 22", "allow: host-action"),
        ("return", "web > n1 tcp 22", "allow: host-action"),
        ("drop", "web > n1 tcp 22", "deny: host-action"),
        ("drop", "web > n2 tcp 22", "allow: prod"),
        ("drop", "far > n1 tcp 22", "allow: prod"),
        ("drop", "n1 > web tcp 22", "allow: own-node"),
        ("accept", "db > n1 tcp 22", "deny: out"),  # egress policy comes first
    ],
)
def test_a_pod_reaches_its_node_by_its_egress_policy_then_by_the_setting(
    setting: str, flow: str, expected: str
) -> None:
    more = both(NO_EGRESS, {keys.SettingKey(None, POD_TO_HOST_ACTION): Setting(setting)})
    assert said(judge(cluster(db=("no-egress",), more=more), packet(flow))) == expected


@pytest.mark.parametrize(
    ("flow", "expected"),
    [
        ("db > web tcp 80", "deny: out"),
        ("db > outside tcp 80", "deny: out"),
        ("db > db tcp 80", "allow: self"),
        ("web > db tcp 80", "allow: in"),
    ],
)
def test_both_ends_must_allow(flow: str, expected: str) -> None:
    assert said(judge(cluster(db=("no-egress",), more=NO_EGRESS), packet(flow))) == expected


# Profiles in their order: annotation or namespace first, then services, then the implied end.

ANNOTATION = profile(
    "annotation",
    rule(ALLOW, "statement", src=tagged("app_web"), port=4001),
    rule(DENY, "written-deny", port=81),
    origin=Origin("Pod", name="the-end"),
)
SERVICE = profile("service", rule(ALLOW, "service", port=80), rule(ALLOW, "service", port=81))


@pytest.mark.parametrize(
    ("profiles", "flow", "expected"),
    [
        (("annotation", "service"), "web > db tcp 4001", "allow: statement"),
        (("annotation", "service"), "far > db tcp 4001", "deny: the-end"),
        (("annotation", "service"), "outside > db tcp 4001", "deny: the-end"),
        (("annotation", "service"), "web > db udp 4001", "deny: the-end"),
        (("annotation", "service"), "outside > db tcp 80", "allow: service"),
        (("annotation", "service"), "outside > db tcp 81", "deny: written-deny"),
        (("service", "annotation"), "outside > db tcp 81", "allow: service"),
        (("annotation",), "outside > db tcp 80", "deny: the-end"),
        (("service",), "outside > db tcp 82", "deny: Profile"),  # nobody owns this end
        (("nowhere",), "outside > db tcp 80", "deny: Profile"),  # a profile not there: no rules
        ((), "outside > db tcp 80", "deny: Profile"),
        (("open", "annotation"), "outside > db tcp 81", "allow: open"),
    ],
)
def test_profiles_are_tried_in_order_and_their_end_denies(
    profiles: tuple[str, ...], flow: str, expected: str
) -> None:
    more = both(ANNOTATION, SERVICE)
    assert said(judge(cluster(db=profiles, more=more), packet(flow))) == expected


def test_a_pass_among_profiles_has_nowhere_to_go_and_denies() -> None:
    more = profile("p", rule(PASS, "pass"), rule(ALLOW, "allow"))
    assert said(judge(cluster(db=("p",), more=more), packet("web > db tcp 80"))) == "deny: pass"


def test_a_log_rule_decides_nothing() -> None:
    more = profile("p", rule(LOG, "log"), rule(ALLOW, "allow"))
    assert said(judge(cluster(db=("p",), more=more), packet("web > db tcp 80"))) == "allow: allow"


# Tiers: policy-semantics.md section 4 point 3; Calico, felix/calc/policy_sorter.go.


def policy(
    name: str,
    *rules: Rule,
    tier: str = "default",
    order: float | None = 1.0,
    types: tuple[Direction, ...] = (INGRESS,),
    selected: str = 'app == "db"',
    staged: StagedAction | None = None,
) -> State:
    """A policy whose rules are its ingress rules, and its egress rules where it has that type."""
    identity = PolicyId("NetworkPolicy", "prod", name)
    key: Key = keys.PolicyKey(TierName(tier), identity)
    value: Value = Policy(
        id=identity,
        tier=TierName(tier),
        selector=SelectorText(selected),
        types=types,
        order=order,
        ingress=rules,
        egress=rules if EGRESS in types else (),
        staged=staged,
    )
    return {key: value}


DEFAULT = tier("default", 2.0)
FIRST, FIRST_PASSES = tier("first", 1.0), tier("first", 1.0, PASS)
ALLOWS, DENIES, PASSES, LOGS = (rule(action, str(action)) for action in (ALLOW, DENY, PASS, LOG))


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        pytest.param(both(DEFAULT), "allow: profile", id="no policy: the profiles"),
        pytest.param(both(DEFAULT, policy("a", DENIES)), "deny: deny", id="a rule denies"),
        pytest.param(both(DEFAULT, policy("a", ALLOWS)), "allow: allow", id="a rule allows"),
        pytest.param(both(DEFAULT, policy("a")), "deny: default", id="selected, no rule: the end"),
        pytest.param(
            both(tier("default", 2.0, PASS), policy("a")), "allow: profile", id="the end passes"
        ),
        pytest.param(
            both(DEFAULT, policy("a", LOGS)), "deny: default", id="only logs: the end of the tier"
        ),
        pytest.param(
            both(DEFAULT, policy("a", DENIES, selected='app == "web"')),
            "allow: profile",
            id="a policy for others skips the tier whole",
        ),
        pytest.param(
            both(DEFAULT, policy("a", DENIES, types=(EGRESS,))),
            "allow: profile",
            id="a policy for the other direction skips the tier",
        ),
        pytest.param(
            both(policy("a", DENIES)), "allow: profile", id="no tier object: not enforced"
        ),
        pytest.param(
            both(DEFAULT, policy("a", DENIES, staged=StagedAction.SET)),
            "allow: profile",
            id="staged: no verdict",
        ),
        pytest.param(
            both(DEFAULT, policy("a", ALLOWS, order=2.0), policy("b", DENIES, order=1.0)),
            "deny: deny",
            id="by order",
        ),
        pytest.param(
            both(DEFAULT, policy("a", ALLOWS), policy("b", DENIES)),
            "allow: allow",
            id="then by name",
        ),
        pytest.param(
            both(DEFAULT, policy("a", DENIES, order=None), policy("b", ALLOWS, order=9e9)),
            "allow: allow",
            id="without order last",
        ),
        pytest.param(
            both(DEFAULT, policy("a", rule(DENY, port=81)), policy("b", ALLOWS)),
            "allow: allow",
            id="no match: the next policy",
        ),
        pytest.param(
            both(FIRST, DEFAULT, policy("a", DENIES, tier="first"), policy("b", ALLOWS)),
            "deny: deny",
            id="the earlier tier decides",
        ),
        pytest.param(
            both(FIRST, DEFAULT, policy("a", PASSES, DENIES, tier="first"), policy("b", ALLOWS)),
            "allow: allow",
            id="pass leaves the tier at once",
        ),
        pytest.param(
            both(FIRST, DEFAULT, policy("a", tier="first"), policy("b", ALLOWS)),
            "deny: first",
            id="the end of the earlier tier denies",
        ),
        pytest.param(
            both(FIRST_PASSES, DEFAULT, policy("a", tier="first"), policy("b", ALLOWS)),
            "allow: allow",
            id="the end of the earlier tier passes",
        ),
        pytest.param(
            both(FIRST, DEFAULT, policy("a", PASSES, tier="first")),
            "allow: profile",
            id="pass, and no other tier: the profiles",
        ),
        pytest.param(
            both(DEFAULT, policy("a", PASSES)), "allow: profile", id="pass in the last tier"
        ),
        pytest.param(
            both(
                tier("a"),
                tier("z", 1.0),
                policy("p", DENIES, tier="a"),
                policy("q", ALLOWS, tier="z"),
            ),
            "allow: allow",
            id="a tier without order is last",
        ),
        pytest.param(
            both(
                tier("a"), tier("z"), policy("p", DENIES, tier="a"), policy("q", ALLOWS, tier="z")
            ),
            "deny: deny",
            id="tiers of one order by name",
        ),
    ],
)
def test_tiers_then_profiles_decide(more: State, expected: str) -> None:
    last = profile("last", rule(ALLOW, "profile"))
    snapshot = cluster(db=("last",), more=both(last, more))
    assert said(judge(snapshot, packet("web > db tcp 80"))) == expected


def test_every_step_that_was_looked_at_is_told() -> None:
    more = both(FIRST, DEFAULT, policy("a", LOGS, PASSES), profile("last", rule(ALLOW, "profile")))
    verdict = judge(cluster(db=("last",), more=more), packet("outside > db tcp 80"))
    assert verdict.ingress is not None
    assert [(step.kind, step.name, step.outcome) for step in verdict.ingress.steps] == [
        ("tier", "first", "skipped"),
        ("rule", "", "log"),
        ("rule", "", "pass"),
        ("policy", "NetworkPolicy/prod/a", "pass"),
        ("tier", "default", "pass"),
        ("rule", "", "allow"),
        ("profile", "last", "allow"),
    ]


# What one criterion matches: Calico's rule and entity fields.

OFFICE = netset("office", "198.51.100.0/24", labels={"kind": "office"})
COVERS_WEB = netset("covers", "10.0.0.2/32", labels={"app": "cover"})


def src(**criteria: object) -> Rule:
    return Rule(ALLOW, Origin("Rule"), src=EntityMatch(**criteria))  # type: ignore[arg-type]  # a table's cells


def dst(protocol: int = TCP, **criteria: object) -> Rule:
    return Rule(ALLOW, Origin("Rule"), protocol=protocol, dst=EntityMatch(**criteria))  # type: ignore[arg-type]


def head(**criteria: object) -> Rule:
    return Rule(ALLOW, Origin("Rule"), **criteria)  # type: ignore[arg-type]


APP_WEB = SelectorText('app == "web"')
HAS_KIND = SelectorText("has(kind)")
NO_APP = SelectorText("!has(app)")
ALL = SelectorText("all()")
TEN, WORLD6 = (Net("10.0.0.0/8"),), (Net("::/0"),)


@pytest.mark.parametrize(
    ("matching", "flow", "expected"),
    [
        (head(), "outside > db tcp 80", True),
        (head(), "outside6 > web6 udp 9", True),
        (src(tag=TagName("app_web")), "web > db tcp 80", True),
        (src(tag=TagName("app_web")), "far > db tcp 80", False),
        (src(tag=TagName("app_web")), "outside > db tcp 80", False),
        (src(not_tag=TagName("app_web")), "web > db tcp 80", False),
        (src(not_tag=TagName("app_web")), "outside > db tcp 80", True),
        (src(selector=APP_WEB), "web > db tcp 80", True),
        (src(selector=APP_WEB), "web6 > outside6 tcp 80", True),
        (src(selector=APP_WEB), "far > db tcp 80", False),
        (src(selector=SelectorText('pcns.name == "prod"')), "web > db tcp 80", True),
        # all() is every endpoint and network set, not every packet; a negated selector is.
        (src(selector=ALL), "far > db tcp 80", True),
        (src(selector=ALL), "outside > db tcp 80", True),  # a network set holds it
        (src(selector=ALL), "n2 > db tcp 80", False),
        (src(selector=NO_APP), "n2 > db tcp 80", False),
        (src(not_selector=SelectorText("has(app)")), "n2 > db tcp 80", True),
        (src(not_selector=SelectorText("has(app)")), "web > db tcp 80", False),
        (src(selector=HAS_KIND), "outside > db tcp 80", True),
        (src(selector=HAS_KIND), "web > db tcp 80", False),
        (src(selector=SelectorText('app == "cover"')), "web > db tcp 80", True),
        (src(netset=NetsetName("office")), "outside > db tcp 80", True),
        (src(netset=NetsetName("office")), "web > db tcp 80", False),
        (src(netset=NetsetName("nowhere")), "outside > db tcp 80", False),
        (src(not_netset=NetsetName("office")), "outside > db tcp 80", False),
        (src(not_netset=NetsetName("nowhere")), "outside > db tcp 80", True),
        (src(nets=TEN), "web > db tcp 80", True),
        (src(nets=TEN), "outside > db tcp 80", False),
        (src(nets=TEN), "web6 > outside6 tcp 80", False),
        (src(not_nets=TEN), "outside > db tcp 80", True),
        (src(not_nets=TEN), "web > db tcp 80", False),
        # A list without a net of the packet's family takes the rule out of that family.
        (src(not_nets=TEN), "web6 > outside6 tcp 80", False),
        (src(not_nets=WORLD6), "web6 > outside6 tcp 80", False),
        # Every criterion that is given must hold.
        (src(tag=TagName("app_web"), nets=TEN), "web > db tcp 80", True),
        (src(tag=TagName("app_web"), not_nets=TEN), "web > db tcp 80", False),
        (src(tag=TagName("app_web"), selector=HAS_KIND), "web > db tcp 80", False),
        (src(tag=TagName("app_web"), netset=NetsetName("covers")), "web > db tcp 80", True),
        (dst(ports=(PortRange(80, 90),)), "far > web tcp 80", True),
        (dst(ports=(PortRange(80, 90),)), "far > web tcp 91", False),
        (dst(ports=(PortRange(80, 90),)), "far > web udp 80", False),
        (dst(not_ports=(PortRange(80, 90),)), "far > web tcp 80", False),
        (dst(not_ports=(PortRange(80, 90),)), "far > web tcp 91", True),
        (dst(named_ports=("http",)), "far > web tcp 8080", True),
        (dst(named_ports=("http",)), "far > web tcp 80", False),
        (dst(named_ports=("http",)), "far > db tcp 8080", False),  # db names no port
        (dst(named_ports=("nobodys",)), "far > web tcp 8080", False),
        (dst(UDP, named_ports=("http",)), "far > web udp 8080", False),  # it is a TCP port
        (dst(ports=(PortRange(80, 80),), named_ports=("http",)), "far > web tcp 80", True),
        (dst(ports=(PortRange(80, 80),), named_ports=("http",)), "far > web tcp 8080", True),
        (dst(not_named_ports=("http",)), "far > web tcp 8080", False),
        (dst(not_named_ports=("http",)), "far > db tcp 8080", True),
        (head(protocol=TCP), "far > web udp 80", False),
        (head(not_protocol=TCP), "far > web udp 80", True),
        (head(not_protocol=TCP), "far > web tcp 80", False),
        (head(ip_version=6), "far > web tcp 80", False),
        (head(ip_version=6), "outside6 > web6 tcp 80", True),
        (head(protocol=ICMP, icmp=IcmpMatch(8)), "far > web icmp 8", True),
        (head(protocol=ICMP, icmp=IcmpMatch(8, 1)), "far > web icmp 8", False),
        (head(protocol=ICMP, icmp=IcmpMatch(0)), "far > web icmp 8", False),
        (head(protocol=ICMP, not_icmp=IcmpMatch(8)), "far > web icmp 8", False),
        (head(protocol=ICMP, not_icmp=IcmpMatch(8, 1)), "far > web icmp 8", True),
        (head(protocol=ICMPV6, icmp=IcmpMatch(128)), "outside6 > web6 icmpv6 128", True),
        (head(protocol=ICMP), "outside6 > web6 icmpv6 128", False),
    ],
)
def test_a_rule_matches_where_every_criterion_holds(
    matching: Rule, flow: str, *, expected: bool
) -> None:
    snapshot = cluster(more=both(OFFICE, COVERS_WEB))
    assert rule_matches(snapshot, matching, packet(flow)) is expected


# Whose an address is: policy-semantics.md section 5.


@pytest.mark.parametrize(
    ("first", "second", "owner"),
    [
        (1.0, 2.0, "second"),
        (2.0, 1.0, "first"),
        (1.0, 1.0, "second"),  # of one age: by uid, then by name, so that all nodes agree
    ],
)
def test_the_newest_claimant_owns_an_address_alone(first: float, second: float, owner: str) -> None:
    contested = both(
        profile("tag-first", tags=["first"]),
        profile("tag-second", tags=["second"]),
        pod("first", "10.9.9.9", profiles=["tag-first"], created=first),
        pod("second", "10.9.9.9", node="n2", profiles=["tag-second"], created=second),
    )
    snapshot = cluster(more=contested)
    flow = Flow(Address("10.9.9.9"), Address(ADDRESSES["db"]), TCP, 40000, 80)
    for name in ("first", "second"):
        assert rule_matches(snapshot, src(tag=TagName(name)), flow) is (name == owner)
