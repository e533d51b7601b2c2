"""The definition says of NetworkPolicies what Kubernetes' API says, on random policies."""

import json
from itertools import product
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico_k8s.model.addresses import address_version, parse_address
from calico_k8s.model.resources import PROTOCOL_NUMBERS
from calico_k8s.policy.match import Flow
from calico_k8s.policy.verdict import judge
from tests import kube_oracle
from tests.nine_pods import OUTSIDE, PORTS, World, oracle_pods
from tests.policy_strategies import Object, PolicyMaker, Pools

POOLS = Pools(
    namespaces=("x", "x", "y"),
    labels=(("pod", "a"), ("pod", "b"), ("none", "")),
    namespace_labels=(("ns", "x"), ("ns", "y"), ("kubernetes.io/metadata.name", "z")),
    nets=(
        "10.0.0.0/8",
        "10.0.1.0/24",
        "10.0.1.1/32",
        "10.0.2.3/30",
        "0.0.0.0/0",
        "fd00::/16",
        "::/0",
    ),
    ports=PORTS,
    port_names=("http", "nobody"),
)
PODS = oracle_pods()

pytestmark = pytest.mark.timeout(900)  # with "thorough", 5,000 cases
OF_INTEREST = [PODS[name] for name in ("x/a", "x/b", "x/c", "y/a", "y/c", "z/b")]


def policies(seed: int) -> list[Object]:
    maker = PolicyMaker(Random(seed), POOLS)
    return [maker.network_policy(number) for number in range(maker.one((1, 2, 3, 4)))]


@given(st.integers(0, 2**32 - 1).map(policies))
def test_the_definition_says_what_the_api_says(made: list[Object]) -> None:
    snapshot = World(json.dumps({"kind": "List", "items": made})).snapshot
    ends: list[tuple[kube_oracle.Pod | None, str]] = [
        (pod, address) for pod in OF_INTEREST for address in pod.addresses
    ]
    ends += [(None, address) for address in OUTSIDE.values()]
    for (src, src_ip), (dst, dst_ip) in product(ends, ends):
        a, b = parse_address(src_ip), parse_address(dst_ip)
        if address_version(a) != address_version(b) or (src is None and dst is None):
            continue
        for protocol, port in (("tcp", 80), ("tcp", 81), ("udp", 80), ("sctp", 131)):
            asked = kube_oracle.Connection(src, src_ip, dst, dst_ip, protocol.upper(), port)
            flow = Flow(a, b, PROTOCOL_NUMBERS[protocol], 40000, port)
            assert judge(snapshot, flow).allowed == kube_oracle.is_allowed(made, asked), flow
