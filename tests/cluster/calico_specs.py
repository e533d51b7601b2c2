"""Specs of Calico's kinds: what the API server takes, and what it refuses with which words."""

from tests.cluster.objects import Document

GUARD_SPEC: Document = {
    "tier": "security",
    "order": 10,
    "selector": "role == 'db'",
    "types": ["Ingress"],
    "ingress": [
        {
            "action": "Deny",
            "protocol": "TCP",
            "source": {"namespaceSelector": "purpose == 'monitoring'"},
            "destination": {"ports": [5432, "8000:8080", "http"]},
        }
    ],
}

RULE: Document = {"action": "Allow"}
SERVICE: Document = {"name": "web", "namespace": "shop"}


def with_rule(**fields: object) -> Document:
    """A policy with one rule for ingress."""
    return {"ingress": [{**RULE, **fields}]}


def to_domains(domains: list[str], action: str = "Allow", **fields: object) -> Document:
    """A policy with one rule for egress to domains."""
    return {"egress": [{"action": action, "destination": {"domains": domains, **fields}}]}


GOOD: list[tuple[str, Document]] = [
    ("Tier", {}),
    ("Tier", {"order": 10.5, "defaultAction": "Pass"}),
    ("GlobalNetworkPolicy", {}),
    ("GlobalNetworkPolicy", GUARD_SPEC),
    ("GlobalNetworkPolicy", {"ingress": [RULE] * 1024, "egress": [RULE] * 1024}),
    ("GlobalNetworkPolicy", {"selector": f"role == '{'x' * 1014}'"}),
    ("GlobalNetworkPolicy", {"preDNAT": True, "applyOnForward": True, "ingress": [RULE]}),
    ("GlobalNetworkPolicy", {"doNotTrack": True, "applyOnForward": True, "egress": [RULE]}),
    ("GlobalNetworkPolicy", {"ingress": [{**RULE, "source": {"services": SERVICE}}]}),
    ("GlobalNetworkPolicy", {"egress": [{**RULE, "destination": {"services": SERVICE}}]}),
    ("GlobalNetworkPolicy", {"egress": [{**RULE, "source": {"nets": ["10.0.0.1", "fd00::/8"]}}]}),
    ("GlobalNetworkPolicy", {"egress": [{**RULE, "source": {"namespaceSelector": "global()"}}]}),
    ("NetworkPolicy", {"types": ["Egress", "Ingress"], "egress": [RULE]}),
    ("NetworkPolicy", {"egress": [{**RULE, "destination": {"services": {"name": "web"}}}]}),
    ("NetworkPolicy", {"ingress": [{**RULE, "protocol": "ICMP", "icmp": {"type": 8, "code": 0}}]}),
    ("NetworkPolicy", {"ingress": [{**RULE, "protocol": 58, "ipVersion": 6, "notICMP": {}}]}),
    ("NetworkPolicy", {"ingress": [{**RULE, "protocol": 6, "source": {"ports": [0, "a_b.c"]}}]}),
    ("GlobalNetworkSet", {"nets": ["198.51.100.0/24", "2001:db8::/32"]}),
    ("NetworkSet", {}),
    ("NetworkSet", {"allowedEgressDomains": ["api.a.io", "*.a.io", "www.*.io", "A.io."]}),
    ("NetworkPolicy", to_domains(["a.io", "*.a.io"], notNets=["10.0.0.0/8"])),
    ("Profile", {"labelsToApply": {"a": "b"}, "egress": [RULE]}),
    ("HostEndpoint", {"node": "node-1", "interfaceName": "*"}),
    ("HostEndpoint", {"node": "node-1", "expectedIPs": ["192.0.2.1"]}),
    ("StagedGlobalNetworkPolicy", {"stagedAction": "Delete", "tier": "default"}),
    ("StagedNetworkPolicy", {"stagedAction": "Set", "ingress": [RULE]}),
    (
        "StagedKubernetesNetworkPolicy",
        {
            "podSelector": {"matchLabels": {"app": "db"}},
            "ingress": [
                {
                    "from": [{"podSelector": {}}, {"ipBlock": {"cidr": "10.0.0.0/8"}}],
                    "ports": [{"protocol": "TCP", "port": 80, "endPort": 90}, {"port": "http"}],
                }
            ],
        },
    ),
]

BAD: list[tuple[str, Document, str]] = [
    ("GlobalNetworkPolicy", {"order": "first"}, "spec.order"),
    ("GlobalNetworkPolicy", {"selector": "a" * 1025}, "may not be more than 1024"),
    ("GlobalNetworkPolicy", {"selector": "global()"}, "global() stands in the namespaceSelector"),
    ("GlobalNetworkPolicy", {"namespaceSelector": "global()"}, "of a rule only"),
    ("GlobalNetworkPolicy", {"types": ["Ingress", "Ingress"]}, "Duplicate value"),
    ("GlobalNetworkPolicy", {"types": ["Sideways"]}, 'supported values: "Ingress", "Egress"'),
    ("GlobalNetworkPolicy", {"ingress": [RULE] * 1025}, "must have at most 1024 items"),
    ("GlobalNetworkPolicy", {"performanceHints": ["Hurry"]}, "AssumeNeededOnEveryNode"),
    ("GlobalNetworkPolicy", {"ingress": [{}]}, "action: Required value"),
    ("GlobalNetworkPolicy", {"ingress": [{"action": "Accept"}]}, '"Allow", "Deny", "Log", "Pass"'),
    ("GlobalNetworkPolicy", {"preDNAT": True}, "need applyOnForward"),
    ("GlobalNetworkPolicy", {"doNotTrack": True}, "need applyOnForward"),
    (
        "GlobalNetworkPolicy",
        {"preDNAT": True, "doNotTrack": True, "applyOnForward": True},
        "exclude each other",
    ),
    (
        "GlobalNetworkPolicy",
        {"preDNAT": True, "applyOnForward": True, "egress": [RULE]},
        "preDNAT is for ingress only",
    ),
    (
        "GlobalNetworkPolicy",
        {"preDNAT": True, "applyOnForward": True, "types": ["Egress"]},
        "preDNAT is for ingress only",
    ),
    (
        "GlobalNetworkPolicy",
        with_rule(source={"services": {"name": "web"}}),
        "services.namespace: Required value",
    ),
    ("NetworkPolicy", with_rule(ipVersion=5), 'supported values: "4", "6"'),
    ("NetworkPolicy", with_rule(protocol="TCPP"), "ingress[0].protocol"),
    ("NetworkPolicy", with_rule(protocol=256), "less than or equal to 255"),
    ("NetworkPolicy", with_rule(protocol="ICMP", icmp={"code": 1}), "code needs a type"),
    ("NetworkPolicy", with_rule(protocol="ICMP", icmp={"type": 255}), "equal to 254"),
    ("NetworkPolicy", with_rule(icmp={"type": 8}), "need the protocol ICMP or ICMPv6"),
    ("NetworkPolicy", with_rule(protocol="ICMPv6", ipVersion=4), "and ICMPv6 of 6"),
    ("NetworkPolicy", with_rule(source={"ports": [80]}), "need the protocol TCP, UDP or SCTP"),
    (
        "NetworkPolicy",
        with_rule(protocol="UDPLite", destination={"notPorts": [80]}),
        "need the protocol TCP, UDP or SCTP",
    ),
    ("NetworkPolicy", with_rule(protocol="TCP", source={"ports": [65536]}), "equal to 65535"),
    ("NetworkPolicy", with_rule(protocol="TCP", source={"ports": ["1-2:3"]}), "should match"),
    ("NetworkPolicy", with_rule(protocol="TCP", source={"ports": [1] * 51}), "at most 50 items"),
    ("NetworkPolicy", with_rule(source={"nets": ["10.0.0.0/8"] * 257}), "at most 256 items"),
    ("NetworkPolicy", with_rule(source={"nets": ["10.0.0.0/33"]}), "nets[0]"),
    ("NetworkPolicy", with_rule(source={"notNets": ["example.org"]}), "notNets[0]"),
    ("NetworkPolicy", with_rule(source={"selector": "x" * 1025}), "may not be more than 1024"),
    (
        "NetworkPolicy",
        with_rule(source={"services": {"name": "web"}, "selector": "all()"}),
        "give it alone",
    ),
    (
        "NetworkPolicy",
        with_rule(destination={"services": {"name": "web"}}),
        "source of ingress or the destination of egress only",
    ),
    (
        "NetworkPolicy",
        {"egress": [{**RULE, "source": {"services": {"name": "web"}}}]},
        "source of ingress or the destination of egress only",
    ),
    (
        "NetworkPolicy",
        {
            "egress": [
                {**RULE, "protocol": "TCP", "destination": {"services": SERVICE, "ports": [80]}}
            ]
        },
        "services as destination has ports of its own",
    ),
    ("NetworkPolicy", with_rule(http={"methods": ["GET"]}), "http needs a proxy"),
    ("NetworkPolicy", with_rule(source={"domains": ["a.io"]}), "destination of egress only"),
    ("NetworkPolicy", with_rule(destination={"domains": ["a.io"]}), "destination of egress only"),
    (
        "NetworkPolicy",
        to_domains(["a.io"], action="Deny"),
        "domains stands in rules that allow only",
    ),
    ("NetworkPolicy", to_domains(["a.io"], nets=["10.0.0.0/8"]), "so give it alone, with ports"),
    ("NetworkPolicy", to_domains(["*.*.io"]), "spec.egress[0].destination.domains[0]"),
    ("NetworkPolicy", to_domains(["a*.io"]), "spec.egress[0].destination.domains[0]"),
    ("GlobalNetworkSet", {"allowedEgressDomains": ["a.*"]}, "spec.allowedEgressDomains[0]"),
    ("Tier", {"defaultAction": "Allow"}, 'supported values: "Deny", "Pass"'),
    ("GlobalNetworkSet", {"nets": ["10.0.0.0.0"]}, "spec.nets[0]"),
    ("NetworkSet", {"nets": "10.0.0.0/8"}, "spec.nets"),
    ("Profile", {"labelsToApply": {"a": 1}}, "spec.labelsToApply.a"),
    ("HostEndpoint", {}, "spec.node: Required value"),
    ("HostEndpoint", {"node": "node-1"}, "expectedIPs is missing"),
    ("StagedNetworkPolicy", {"stagedAction": "Drop"}, '"Set", "Delete", "Learn", "Ignore"'),
    ("StagedNetworkPolicy", {"stagedAction": "Delete", "order": 1}, "stagedAction Delete says all"),
    (
        "StagedKubernetesNetworkPolicy",
        {"ingress": [{"from": [{"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}}]}]},
        "ipBlock stands alone",
    ),
    ("StagedKubernetesNetworkPolicy", {"egress": [{"ports": [{"endPort": 9}]}]}, "needs a port"),
]
