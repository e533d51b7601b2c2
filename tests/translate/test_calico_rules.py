"""What a rule of a Calico policy matches, and what of it is refused."""

import pytest

from tests.nine_pods import World
from tests.translate.test_calico_policies import everywhere, in_x

ELSEWHERE = "y/a y/b y/c z/a z/b z/c"
EVERYBODY = f"x/b x/c {ELSEWHERE} outside"

SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: web, namespace: y}
spec: {selector: {pod: a}, ports: [{port: 8080, targetPort: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: named, namespace: y}
spec: {selector: {}, ports: [{port: 8080, targetPort: http}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: named-1, namespace: y, labels: {kubernetes.io/service-name: named}}
addressType: IPv4
endpoints: [{addresses: [10.0.2.2]}, {addresses: [198.51.100.7]}]
ports: [{port: 80}, {port: 81, protocol: UDP}]
---"""


def cluster(rule: str) -> World:
    """The world where a cluster-wide policy lets in to ``a`` pods by this rule alone."""
    return World(everywhere(f"selector: pod == 'a', ingress: [{{action: Allow, {rule}}}]"))


def local(rule: str) -> World:
    """The same by a policy of namespace ``x``."""
    return World(in_x(f"selector: pod == 'a', ingress: [{{action: Allow, {rule}}}]"))


@pytest.mark.parametrize(
    ("source", "of_cluster", "of_x"),
    [
        ("selector: pod == 'b'", "x/b y/b z/b", "x/b"),
        ("selector: all()", f"x/b x/c {ELSEWHERE}", "x/b x/c"),
        ("selector: '!has(none)'", f"x/b x/c {ELSEWHERE}", "x/b x/c"),
        ("notSelector: pod == 'b'", "x/c y/a y/c z/a z/c outside", "x/c"),
        ("namespaceSelector: ns == 'y'", "y/a y/b y/c", "y/a y/b y/c"),
        ("namespaceSelector: ns == 'y', selector: pod == 'b'", "y/b", "y/b"),
        ("namespaceSelector: ns == 'y', notSelector: pod == 'b'", "y/a y/c", "y/a y/c"),
        ("namespaceSelector: all()", f"x/b x/c {ELSEWHERE}", f"x/b x/c {ELSEWHERE}"),
        ("namespaceSelector: global()", "", ""),
        ("serviceAccounts: {names: [account-b]}", "x/b y/b z/b", "x/b"),
        ("serviceAccounts: {names: [account-b, account-c]}", "x/b x/c y/b y/c z/b z/c", "x/b x/c"),
        (
            "serviceAccounts: {names: [account-b], selector: projectcalico.org/name == 'account-c'}",
            "",
            "",
        ),
        ("nets: [10.0.2.0/24]", "y/a y/b y/c", "y/a y/b y/c"),
        ("nets: [10.0.2.1]", "y/a", "y/a"),
        ("nets: [10.0.2.0/24], selector: pod == 'b'", "y/b", ""),
        ("notNets: [10.0.2.0/23]", "x/b x/c outside", "x/b x/c outside"),
        ("nets: [10.0.0.0/8], notNets: [10.0.2.0/24]", "x/b x/c z/a z/b z/c", "x/b x/c z/a z/b z/c"),
        ("", EVERYBODY, EVERYBODY),
        ("selector: ''", EVERYBODY, EVERYBODY),
    ],
)  # fmt: skip
def test_where_the_selectors_of_a_rule_look(source: str, of_cluster: str, of_x: str) -> None:
    for world, expected in (
        (cluster(f"source: {{{source}}}"), of_cluster),
        (local(f"source: {{{source}}}"), of_x),
    ):
        assert world.sources("x/a") == expected
        assert world.codes == []


@pytest.mark.parametrize(
    ("rule", "allowed"),
    [
        ("protocol: TCP", "tcp/80 tcp/81"),
        ("protocol: tcp", "tcp/80 tcp/81"),
        ("protocol: 6", "tcp/80 tcp/81"),
        ("protocol: '17'", "udp/80"),
        ("protocol: UDPLite", "136/0"),
        ("notProtocol: TCP", "udp/80 136/0 icmp/8 icmp/0"),
        ("protocol: TCP, destination: {ports: [80]}", "tcp/80"),
        ("protocol: TCP, destination: {ports: ['80']}", "tcp/80"),
        ("protocol: TCP, destination: {ports: ['79:80', 90]}", "tcp/80"),
        ("protocol: TCP, destination: {ports: [http]}", "tcp/80"),
        ("protocol: TCP, destination: {notPorts: [http]}", "tcp/81"),
        ("protocol: TCP, destination: {notPorts: [81]}", "tcp/80"),
        ("protocol: TCP, destination: {ports: ['1:100'], notPorts: [81]}", "tcp/80"),
        ("protocol: TCP, source: {ports: [40000]}", "tcp/80 tcp/81"),
        ("protocol: TCP, source: {ports: ['1:39999']}", ""),
        ("protocol: ICMP", "icmp/8 icmp/0"),
        ("protocol: ICMP, icmp: {type: 8}", "icmp/8"),
        ("protocol: ICMP, notICMP: {type: 8}", "icmp/0"),
        ("protocol: ICMP, icmp: {}", "icmp/8 icmp/0"),
        ("ipVersion: 6", ""),
        ("ipVersion: 4, protocol: TCP", "tcp/80 tcp/81"),
    ],
)
def test_what_a_rule_says_of_protocols(rule: str, allowed: str) -> None:
    world = cluster(rule)
    asked = ("tcp/80", "tcp/81", "udp/80", "136/0", "icmp/8", "icmp/0")
    assert " ".join(each for each in asked if world.allows("y/b", "x/a", each)) == allowed
    assert world.codes == []


def test_families_are_apart() -> None:
    assert cluster("ipVersion: 6").allows("y/b", "x/a", family=6)
    assert not cluster("source: {nets: [10.0.0.0/8]}").allows("y/b", "x/a", family=6)
    both = cluster("source: {notNets: [10.0.2.2/32]}")
    assert (both.allows("y/c", "x/a"), both.allows("y/c", "x/a", family=6)) == (True, False)
    assert cluster("protocol: ICMPv6, icmp: {type: 128, code: 0}").codes == []


EGRESS = "selector: pod == 'c', egress: [{{action: {}, destination: {{services: {{name: {}, namespace: y}}}}}}]"


def test_a_service_as_destination_is_its_pods_at_their_own_ports() -> None:
    world = World(SERVICE, everywhere(EGRESS.format("Allow", "web")))
    assert (world.targets("x/c"), world.targets("x/c", "tcp/81"), world.codes) == ("y/a", "", [])
    listed = World(SERVICE, everywhere(EGRESS.format("Allow", "named")))
    assert listed.targets("x/c") == "y/b outside"
    assert listed.targets("x/c", "udp/81") == "y/b outside"
    assert listed.targets("x/c", "udp/80") == ""
    denied = World(SERVICE, everywhere(EGRESS.format("Deny", "web")))
    assert denied.targets("x/c") == ""  # what it does not match ends with the tier
    only_udp = EGRESS.format("Allow", "named").replace("destination", "protocol: UDP, destination")
    assert World(SERVICE, everywhere(only_udp)).targets("x/c") == ""


def test_a_service_as_source_is_its_addresses_with_any_port() -> None:
    rule = "ingress: [{action: Allow, source: {services: {name: named, namespace: y}}}]"
    world = World(SERVICE, everywhere(f"selector: pod == 'c', {rule}"))
    assert world.sources("x/c") == "y/b outside"
    own = in_x(
        "selector: pod == 'c', ingress: [{action: Allow, source: {services: {name: named}}}]"
    )
    assert (
        World(SERVICE, own.replace("namespace: x", "namespace: y")).sources("y/c") == "y/b outside"
    )


def test_no_selector_finds_the_addresses_of_a_service() -> None:
    rule = "ingress: [{action: Allow, source: {selector: all()}}]"
    named = everywhere(EGRESS.format("Allow", "named"), "q")
    world = World(SERVICE, named, everywhere(f"selector: pod == 'c', {rule}"))
    assert world.sources("x/c") == "x/a x/b y/a y/b z/a z/b"  # c pods reach the service alone


def test_a_service_that_is_not_there_matches_nothing_and_is_told() -> None:
    world = World(everywhere(EGRESS.format("Allow", "web")))
    assert (world.targets("x/c"), world.codes) == ("", ["policy-service-unknown"])


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("http: {methods: [GET]}", "needs a proxy"),
        ("source: {domains: [a.io]}", "stands in the destination of egress only"),
        ("destination: {domains: [a.io]}", "stands in the destination of egress only"),
        ("protocol: TCPX", "is no protocol"),
        ("protocol: 0", "is no protocol"),
        ("protocol: 256", "is no protocol"),
        ("notProtocol: 300", "is no protocol"),
        ("icmp: {type: 8}", "needs the protocol ICMP"),
        ("protocol: ICMP, icmp: {code: 8}", "needs a type"),
        ("protocol: ICMP, icmp: {type: 255}", "a type over 254"),
        ("protocol: ICMP, icmp: {type: 8, code: 256}", "a code over 255"),
        ("protocol: ICMP, ipVersion: 6", "the protocol's is 4"),
        ("protocol: ICMPv6, ipVersion: 4", "the protocol's is 6"),
        ("ipVersion: 5", "ipVersion"),
        ("destination: {ports: [80]}", "needs the protocol TCP, UDP or SCTP"),
        ("protocol: ICMP, destination: {notPorts: [80]}", "needs the protocol TCP, UDP or SCTP"),
        ("protocol: TCP, destination: {ports: [65536]}", "is no port"),
        ("protocol: TCP, destination: {ports: ['90:80']}", "is no port"),
        ("protocol: TCP, destination: {ports: ['a b']}", "is no name of a port"),
        ("source: {nets: [10.0.0.0/33]}", "is no CIDR"),
        ("source: {notNets: [x]}", "is no CIDR"),
        ("source: {selector: 'a ='}", "does not parse"),
        ("source: {notSelector: global()}", "says global()"),
        ("source: {namespaceSelector: ((}", "does not parse"),
        ("source: {serviceAccounts: {selector: '='}}", "does not parse"),
        ("source: {someday: 1}", "someday is no field that is known here"),
        ("someday: 1", "someday is no field that is known here"),
        ("destination: {services: {name: s, namespace: y}}", "stands in the source of ingress"),
        ("source: {services: {name: s, namespace: y}, selector: all()}", "give it alone"),
        ("source: {services: {name: s}}", "no namespace is its own"),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_reason_and_fails_closed(
    rule: str, said: str
) -> None:
    allowed = cluster(rule)
    assert allowed.sources("x/a") == ""
    assert said in allowed.messages
    assert allowed.codes == ["policy-invalid"]
    for action in ("Deny", "Pass", "Deni"):
        spec = f"selector: pod == 'a', ingress: [{{action: {action}, {rule}}}, {{action: Allow}}]"
        assert World(everywhere(spec)).sources("x/a") == ""


def test_a_log_that_is_not_understood_is_left_out() -> None:
    spec = "selector: all(), ingress: [{action: Log, someday: 1}, {action: Allow}]"
    world = World(everywhere(spec))
    assert (world.sources("x/a"), world.codes) == (EVERYBODY, ["policy-invalid"])
