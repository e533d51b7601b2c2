"""What lint says of host endpoints; docs/lint.md has an example of each code."""

import pytest

from calico_k8s.lint.rules import lint_manifests
from calico_k8s.sources.documents import read_text

OPEN = "profiles: [projectcalico-default-allow]"
NODE = """
apiVersion: v1
kind: Node
metadata: {name: node-1}
status: {addresses: [{type: InternalIP, address: 192.168.0.1}]}
"""
POD = """
apiVersion: v1
kind: Pod
metadata: {name: a}
spec: {nodeName: node-2}
status: {podIPs: [{ip: 10.0.0.1}], phase: Running}
"""


def host(name: str, spec: str) -> str:
    return f"""
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {{name: {name}, labels: {{role: node}}}}
spec: {{node: node-1, {spec}}}
"""


def policy(spec: str) -> str:
    return f"""
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {{name: nodes}}
spec: {{selector: role == 'node', {spec}}}
"""


ETH0 = "interfaceName: eth0"
UNTRACKED = "doNotTrack: true, applyOnForward: true"
CASES = {
    "a whole one": ((NODE, host("a", f"{ETH0}, {OPEN}, expectedIPs: [192.168.0.1]")), []),
    "no Node tells": ((host("a", f"{ETH0}, {OPEN}"), POD), []),
    "interfaces of their own": (
        (host("a", f"{ETH0}, {OPEN}"), host("b", f"interfaceName: eth1, {OPEN}")),
        [],
    ),
    "a pod's address": (
        (POD, host("a", f"{ETH0}, {OPEN}, expectedIPs: [10.0.0.1]")),
        ["expects 10.0.0.1, which is pod default/a's: rules mean the pod by it"],
    ),
    "another's address": (
        (
            host("a", f"{ETH0}, {OPEN}, expectedIPs: [192.0.2.1]"),
            host("b", f"interfaceName: eth1, {OPEN}, expectedIPs: [192.0.2.1]"),
        ),
        ["expects 192.0.2.1, which is expected by HostEndpoint b too: rules mean that one by it"],
    ),
    "policy for what it takes": (
        (host("a", ETH0), policy("ingress: [{action: Allow}]")),
        ["no policy and no profile speaks of what node-1 sends by eth0"],
    ),
    "policy for both": ((host("a", ETH0), policy("types: [Ingress, Egress]")), []),
    "policy for pods": (
        (host("a", "interfaceName: '*'"), policy("types: [Ingress, Egress]").replace("role", "app")),
        ["no policy and no profile speaks of what node-1 takes and sends by every interface"],
    ),
    "a name that is near": (
        (host("a", f"{ETH0}, profiles: [projectcalico-default-alow]"),),
        ["so it allows nothing; did you mean 'projectcalico-default-allow'?"],
    ),
    "preDNAT for nobody": (
        (
            host("a", f"{ETH0}, {OPEN}"),
            policy("preDNAT: true, applyOnForward: true, types: [Ingress]").replace("node'", "n'"),
        ),
        ["preDNAT is about host endpoints alone, and none of those that are here is selected"],
    ),
    "doNotTrack both ways": (
        (host("a", f"{ETH0}, {OPEN}"), policy(f"{UNTRACKED}, ingress: [{{action: Allow}}], egress: [{{action: Allow}}]")),
        [],
    ),
    "doNotTrack that denies": (
        (host("a", f"{ETH0}, {OPEN}"), policy(f"{UNTRACKED}, ingress: [{{action: Deny}}]")),
        [],
    ),
    "doNotTrack out alone": (
        (host("a", f"{ETH0}, {OPEN}"), policy(f"{UNTRACKED}, egress: [{{action: Allow}}]")),
        ["by a doNotTrack policy for ingress, with their source ports"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("texts", "told"), CASES.values(), ids=CASES)
def test_host_endpoints_that_do_not_do_what_was_meant_are_told(
    texts: tuple[str, ...], told: list[str]
) -> None:
    reading = read_text("---".join(texts), "test.yaml")
    assert not reading.errors
    problems = lint_manifests(reading.manifests)
    assert len(problems) == len(told), problems
    assert all(words in p.message for words, p in zip(told, problems, strict=True)), problems
