"""Host endpoints as they are written: what is stored of each, and what is told."""

from typing import Any

import pytest

from calico_k8s.model import keys
from calico_k8s.model.addresses import parse_address
from calico_k8s.model.names import NodeName, ProfileId
from calico_k8s.model.resources import HostEndpoint, NamedPort, Node, Value
from calico_k8s.policy.host_verdict import Passage, judge_host
from calico_k8s.policy.match import Flow
from calico_k8s.policy.snapshot import Snapshot
from calico_k8s.translate.host_endpoints import (
    ALLOW_ALL_PROFILE,
    allow_all_rules,
    auto_host_endpoint,
    read_host_endpoint,
)
from calico_k8s.translate.objects import CalicoHostEndpoint, Metadata

WHOLE = {
    "node": "n1",
    "interfaceName": "eth0",
    "expectedIPs": ["192.168.0.1", "FD00::1", "192.168.0.1"],
    "profiles": ["base", "extra"],
    "ports": [
        {"name": "web", "port": 80, "protocol": "TCP"},
        {"name": "dns", "port": 53, "protocol": 17},
    ],
}


def read(spec: Any) -> tuple[HostEndpoint | None, list[str]]:  # Any: what JSON can say
    metadata = Metadata("uplink", labels={"role": "host", "projectcalico.org/namespace": "x"})
    reading = read_host_endpoint(CalicoHostEndpoint(metadata, spec))
    found = reading.items.get(keys.HostEndpointKey(NodeName("n1"), "uplink"))
    assert found is None or isinstance(found, HostEndpoint)
    return found, [finding.message for finding in reading.findings]


def test_every_field_is_stored() -> None:
    endpoint, told = read(WHOLE)
    assert told == []
    assert endpoint == HostEndpoint(
        NodeName("n1"),
        "uplink",
        "eth0",
        ("192.168.0.1", "fd00::1"),  # type: ignore[arg-type]  # canonical addresses
        {"role": "host"},
        (NamedPort("dns", 17, 53), NamedPort("web", 6, 80)),
        (ProfileId("profile.base"), ProfileId("profile.extra")),
    )


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        (None, "spec.node is missing, so the host endpoint protects nothing"),
        ({"interfaceName": "eth0"}, "spec.node is missing"),
        ({"node": "n1"}, "spec.interfaceName is missing, and no expectedIPs tells the interface"),
        ({"node": "n1", "interfaceName": "eth*"}, "'eth*' is neither an interface's name"),
        ({"node": "n1", "interfaceName": "a" * 16}, "is neither an interface's name"),
        ({"node": "n1", "interfaceName": 7}, "spec.interfaceName should be text"),
        ({"node": "n1", "expectedIPs": ["nonsense"]}, "spec.expectedIPs[0] is no address"),
    ],
)
def test_without_a_place_it_protects_nothing_and_that_is_told(spec: Any, told: str) -> None:
    endpoint, messages = read(spec)
    assert endpoint is None
    assert told in " ".join(messages)


@pytest.mark.parametrize(
    ("more", "told", "kept"),
    [
        ({"expectedIPs": ["192.168.0.1", "x"]}, "spec.expectedIPs[1] is no address", {}),
        ({"profiles": "base"}, "spec.profiles", {"profiles": ()}),
        ({"ports": [{"name": "web"}]}, "spec.ports", {"named_ports": ()}),
        (
            {"ports": [{"name": "web", "port": 80, "protocol": "CARROT"}]},
            "spec.ports[0].protocol 'CARROT' is no protocol",
            {"named_ports": ()},
        ),
        ({"someday": 1}, "spec.someday is no field that is known here", {}),
    ],
)
def test_a_piece_that_cannot_be_used_opens_nothing(
    more: dict[str, Any], told: str, kept: dict[str, Any]
) -> None:
    endpoint, messages = read({"node": "n1", "interfaceName": "eth0", **more})
    assert endpoint is not None
    assert len(messages) == 1
    assert told in messages[0]
    assert {name: getattr(endpoint, name) for name in kept} == kept


def test_a_node_without_one_has_one_where_that_is_asked_for() -> None:
    node = Node(NodeName("n1"), (parse_address("192.168.0.1"),), {"zone": "a"})
    made = auto_host_endpoint(node)
    assert (made.name, made.interface, made.profiles) == ("n1-auto-hep", "*", (ALLOW_ALL_PROFILE,))
    assert made.labels == {"zone": "a", "projectcalico.org/created-by": "calico-kube-controllers"}
    state: dict[keys.Key, Value] = {
        keys.NodeKey(node.name): node,
        keys.HostEndpointKey(made.node, made.name): made,
        keys.ProfileRulesKey(ALLOW_ALL_PROFILE): allow_all_rules(),
    }
    flow = Flow(parse_address("198.51.100.7"), node.addresses[0], 6, 40000, 8080)
    verdict = judge_host(Snapshot.from_items(state), Passage(node.name, flow, "eth0"))
    assert verdict.allowed
    assert verdict.decisions[0].deciding.name == "projectcalico-default-allow"
