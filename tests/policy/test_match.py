"""What one criterion matches: Calico's rule and entity fields, each line one packet."""

import pytest

from calico_k8s.model.addresses import Address, Net
from calico_k8s.model.names import NetsetName, SelectorText, TagName
from calico_k8s.model.resources import ICMP, ICMPV6, EntityMatch, IcmpMatch, Origin, PortRange, Rule
from calico_k8s.policy.match import Flow, rule_matches
from tests.policy.packets import ADDRESSES, ALLOW, TCP, UDP, cluster, packet
from tests.states import both, netset, pod, profile

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
