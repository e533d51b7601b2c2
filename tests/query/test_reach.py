"""Who reaches whom: one question stands for every flow that rules can tell apart."""

import pytest

from calico_k8s.errors import InputError
from calico_k8s.model import keys
from calico_k8s.model.addresses import Address, Net
from calico_k8s.model.names import EndpointId, NamespaceName, NodeName, ProfileId
from calico_k8s.model.resources import (
    Action,
    EntityMatch,
    Node,
    Origin,
    PortRange,
    Rule,
    Rules,
    WorkloadEndpoint,
)
from calico_k8s.policy.snapshot import Snapshot
from calico_k8s.query.explain import explain_lines, report
from calico_k8s.query.matrix import compare, compute_matrix, parse_service
from calico_k8s.query.matrix_text import matrix_lines
from calico_k8s.query.reach import ask, find_party, source_ports

NODE = NodeName("n1")
OPEN = ProfileId("open")
GUARDED = ProfileId("guarded")
ALLOW_ALL = (Rule(Action.ALLOW, Origin("Namespace", name="web", index=0)),)


def endpoint(name: str, *addresses: str, profile: ProfileId = OPEN) -> WorkloadEndpoint:
    return WorkloadEndpoint(
        id=EndpointId(NODE, NamespaceName("web"), name),
        addresses=tuple(Address(address) for address in addresses),
        profiles=(profile,),
    )


def snapshot(*rules: Rule) -> Snapshot:
    pods = (
        endpoint("a", "10.0.0.1", "fd00::1"),
        endpoint("b", "10.0.0.2", profile=GUARDED),
        endpoint("c", "fd00::3"),
    )
    owner = Origin("Pod", "web")
    return Snapshot.from_items(
        {
            **{keys.EndpointKey(pod.id): pod for pod in pods},
            keys.ProfileRulesKey(OPEN): Rules(ALLOW_ALL, ALLOW_ALL),
            keys.ProfileRulesKey(GUARDED): Rules(rules, ALLOW_ALL, owner),
            keys.NodeKey(NODE): Node(NODE, (Address("192.168.0.1"),)),
        }
    )


def allow(src: EntityMatch) -> Rule:
    return Rule(Action.ALLOW, Origin("Pod", "web", index=0), protocol=6, src=src)


def is_allowed(state: Snapshot, src: str, dst: str, port: str = "80/tcp") -> bool:
    parties = find_party(state, src), find_party(state, dst)
    return ask(state, *parties, parse_service(port)).allowed


def test_a_cidr_is_allowed_only_if_every_address_of_it_is() -> None:
    state = snapshot(allow(EntityMatch(nets=(Net("172.16.0.0/13"),))))
    assert is_allowed(state, "172.16.0.0/14", "web/b")
    assert is_allowed(state, "172.23.255.255", "web/b")
    assert not is_allowed(state, "172.16.0.0/12", "web/b")


def test_one_excepted_address_inside_a_cidr_is_found() -> None:
    nets = EntityMatch(nets=(Net("172.16.0.0/12"),), not_nets=(Net("172.16.9.9/32"),))
    state = snapshot(allow(nets))
    assert not is_allowed(state, "172.16.0.0/12", "web/b")
    assert is_allowed(state, "172.17.0.0/16", "web/b")


def test_the_nodes_own_address_is_told_apart_from_its_neighbours() -> None:
    state = snapshot()
    assert is_allowed(state, "192.168.0.1", "web/b")
    assert not is_allowed(state, "192.168.0.0/24", "web/b")


def test_source_ports_that_a_rule_splits_are_each_asked() -> None:
    state = snapshot(allow(EntityMatch(ports=(PortRange(1024, 50000),))))
    assert source_ports(state) == (32768, 50001)
    assert not is_allowed(state, "web/a", "web/b")


def test_pods_without_a_common_family_are_a_clear_error() -> None:
    state = snapshot()
    with pytest.raises(InputError, match="no address family in common"):
        is_allowed(state, "web/b", "web/c")


def test_an_unknown_pod_is_told_with_the_nearest_name() -> None:
    with pytest.raises(InputError, match=r"no pod 'web/aa'.*did you mean 'web/a'"):
        find_party(snapshot(), "web/aa")


@pytest.mark.parametrize("text", ["0", "70000/tcp", "80/quic", "http", "80/icmp", "-1", ""])
def test_a_port_that_is_none_is_told(text: str) -> None:
    with pytest.raises(InputError, match="port"):
        parse_service(text)


def test_an_explanation_names_what_decided() -> None:
    state = snapshot()
    answer = ask(state, find_party(state, "web/a"), find_party(state, "web/b"), parse_service("80"))
    lines = list(explain_lines(answer, "web/a", "web/b"))
    assert lines[0] == "denied: web/a → web/b, tcp 80: end of annotation of pod web/b"
    assert lines[-1] == "    end of annotation of pod web/b: deny  ← decides"
    found = report(answer)
    assert found.deciding is not None
    assert (found.deciding.kind, found.deciding.name, found.deciding.rule) == ("Pod", "b", None)
    assert found.egress is not None
    assert found.egress.verdict == "allow"


def test_a_pod_reaches_itself_whatever_its_policy() -> None:
    assert is_allowed(snapshot(), "web/b", "web/b")


def test_the_matrix_has_a_cell_for_each_family_that_both_pods_have() -> None:
    matrix = compute_matrix(snapshot(), (parse_service("80"),))
    families = {(cell.src, cell.dst): cell.family for cell in matrix.probes}
    assert ("web/b", "web/c") not in families
    assert families["web/a", "web/b"] == 4
    assert families["web/a", "web/c"] == 6
    keys_in_order = [(c.src, c.dst, c.protocol, c.port, c.family) for c in matrix.probes]
    assert keys_in_order == sorted(keys_in_order)


def test_comparing_matrices_gives_only_the_cells_that_differ() -> None:
    service = (parse_service("80"),)
    before = compute_matrix(snapshot(), service)
    after = compute_matrix(snapshot(allow(EntityMatch())), service)
    changes = compare(before, after)
    assert [(c.after.src, c.after.dst) for c in changes if c.after] == [("web/a", "web/b")]
    text = "\n".join(matrix_lines(after, before))
    assert text.count("[✓]") == 1
    assert "[✗]" not in text
