"""What staged policies would open and close is what the matrix says with them and without."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from calico_k8s.model.resources import PROTOCOL_NUMBERS
from calico_k8s.policy.snapshot import Snapshot
from calico_k8s.query.matrix import compute_matrix
from calico_k8s.query.preview import preview
from calico_k8s.query.reach import Service
from calico_k8s.query.staged import StagedReport, staged_lines, staged_report
from calico_k8s.translate.cluster import translate_all
from tests.lab.clusters import POOLS, TCP_PORTS, Object, clusters, expanded
from tests.nine_pods import World
from tests.policy_strategies import PolicyMaker
from tests.translate.test_calico_policies import calico, in_x

SERVICES = tuple(Service(PROTOCOL_NUMBERS["tcp"], port) for port in TCP_PORTS)
ENFORCED = {
    "StagedGlobalNetworkPolicy": ("projectcalico.org/v3", "GlobalNetworkPolicy"),
    "StagedNetworkPolicy": ("projectcalico.org/v3", "NetworkPolicy"),
    "StagedKubernetesNetworkPolicy": ("networking.k8s.io/v1", "NetworkPolicy"),
}


def snapshot(objects: list[Object]) -> Snapshot:
    return Snapshot.from_items(translate_all(expanded(objects).objects()).items)


def report(*texts: str) -> StagedReport:
    return staged_report(World(*texts).snapshot, [Service(6, 80)])


def without_rules(found: StagedReport) -> list[str]:
    """The lines that say what becomes of each policy."""
    return [line for line in staged_lines(found) if not line.startswith(" ")]


@given(clusters(), st.integers(0, 2**32 - 1), st.integers(0, 2))
def test_the_report_of_a_staged_policy_is_the_difference_that_enforcing_it_makes(
    cluster: list[Object], seed: int, number: int
) -> None:
    objects = [each for each in cluster if not each["kind"].startswith("Staged")]
    made = PolicyMaker(Random(seed), POOLS).staged_policy(number)
    action = made["spec"].get("stagedAction")
    version, kind = ENFORCED[made["kind"]]
    spec = {field: given for field, given in made["spec"].items() if field != "stagedAction"}
    becomes = made | {"apiVersion": version, "kind": kind, "spec": spec}

    def is_replaced(each: Object) -> bool:
        names = ("apiVersion", "kind")
        same = all(each[field] == becomes[field] for field in names)
        return same and each["metadata"] == becomes["metadata"]

    after = list(objects)
    if action in ("Set", "Learn", "Delete"):
        after = [each for each in objects if not is_replaced(each)]
    if action in ("Set", "Learn"):
        after.append(becomes)
    found = staged_report(snapshot([*objects, made]), SERVICES)
    wanted = preview(
        compute_matrix(snapshot(objects), SERVICES), compute_matrix(snapshot(after), SERVICES)
    )
    assert (found.opened, found.closed) == (wanted.opened, wanted.closed)
    for effect in found.policies:
        assert (effect.opened, effect.closed) == (wanted.opened, wanted.closed)


def test_each_alone_and_all_together() -> None:
    deny = calico("StagedGlobalNetworkPolicy", "namespaceSelector: ns == 'x', types: [Ingress]")
    allow = calico(
        "StagedNetworkPolicy",
        "selector: pod == 'a', ingress: [{action: Allow, source: {namespaceSelector: ns == 'y'}}]",
        "in",
        "x",
    )
    found = report(deny, allow)
    alone = {effect.policy: len(effect.closed) for effect in found.policies}
    assert alone == {
        "StagedGlobalNetworkPolicy/p": 2 * 3 * 8,
        "StagedNetworkPolicy/x/in": 2 * (8 - 3),
    }
    assert len(found.closed) == 2 * (3 * 8 - 3)
    assert without_rules(found) == [
        "StagedNetworkPolicy/x/in: would be CalicoNetworkPolicy/x/in, in tier default, for 1 pod",
        "StagedGlobalNetworkPolicy/p: would be GlobalNetworkPolicy/p, in tier default, for 3 pods",
        "all 2 together:",
    ]


def test_what_becomes_of_the_policy_of_that_name_is_said() -> None:
    shut = in_x("ingress: []")

    def said(action: str, *others: str, spec: str = "") -> str:
        staged = calico("StagedNetworkPolicy", f"stagedAction: {action}{spec}", namespace="x")
        (line,) = without_rules(report(staged, *others))
        return line.removeprefix("StagedNetworkPolicy/x/p: ")

    name = "CalicoNetworkPolicy/x/p"
    assert said("Set") == f"would be {name}, in tier default, for 3 pods"
    assert said("Set", shut) == f"would replace {name}, in tier default, for 3 pods"
    assert said("Learn") == f"would be {name}, in tier default, for 3 pods, and is being learnt"
    assert said("Set", spec=", tier: t") == (
        f"would be {name}, in tier t, which is not there, for 3 pods"
    )
    assert said("Delete", shut) == f"would delete {name}, which is for 3 pods"
    assert said("Delete") == f"would delete {name}, and there is none: it changes nothing"
    assert said("Ignore", shut) == "ignored"
    assert list(staged_lines(report(shut))) == ["no policy is staged"]


HOST = """
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: uplink, labels: {role: node}}
spec: {node: node-1, interfaceName: "*", profiles: [projectcalico-default-allow]}
---
apiVersion: v1
kind: Node
metadata: {name: node-1}
status: {addresses: [{type: InternalIP, address: 192.168.0.1}, {type: InternalIP, address: "fd00:9::1"}]}
"""


def test_what_is_staged_for_nodes_is_told_of_nodes_and_of_what_passes_them() -> None:
    def told(spec: str) -> StagedReport:
        return report(
            HOST, calico("StagedGlobalNetworkPolicy", f"selector: role == 'node', {spec}")
        )

    local = told("types: [Ingress]")
    (line,) = without_rules(local)
    assert line.endswith("in tier default, for 0 pods and 1 host endpoint")
    assert {cell.dst for cell in local.closed} == {"node/node-1"}
    passing = told("applyOnForward: true, types: [Ingress]")
    assert {"node/node-1", "x/a"} <= {cell.dst for cell in passing.closed}
    assert told("ingress: [{action: Allow}]").closed == ()
    early = told("applyOnForward: true, preDNAT: true, types: [Ingress], ingress: [{action: Deny}]")
    assert any("computed alone" in line for line in staged_lines(early))
    for other in (local, passing):
        assert not any("computed alone" in line for line in staged_lines(other))
