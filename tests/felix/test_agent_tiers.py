"""A pod in more tiers than the kernel follows is closed alone, and told, over nftables."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from calico_k8s.felix.iptables.programs import Backend
from calico_k8s.felix.kernel import AnyBackend, Native
from calico_k8s.model.keys import Key, PolicyKey, TierKey
from calico_k8s.model.names import PolicyId, SelectorText, TierName
from calico_k8s.model.resources import Action, Direction, Policy, Tier, Value
from calico_k8s.render.settings import STAGES_MAX
from tests.felix.nodes import Machine, PodSite, allow, machine_up, reaches, until, walled
from tests.namespaces import Namespace

pytestmark = pytest.mark.kernel


@pytest.fixture(params=[Backend.NFT, Native.NFTABLES], ids=str)
def machine(
    request: pytest.FixtureRequest, namespace: Namespace, tmp_path: Path
) -> Iterator[Machine]:
    backend: AnyBackend = request.param
    with machine_up(namespace, tmp_path, backend) as machine:
        yield machine


def tiers(pod: PodSite, count: int) -> dict[Key, Value | None]:
    """Tiers that let TCP 81 into the pod, and pass the rest on; those from ``count`` on are none."""
    items: dict[Key, Value | None] = {}
    for number in range(STAGES_MAX):
        name = TierName(f"t{number}")
        policy = PolicyId("GlobalNetworkPolicy", "", f"p{number}")
        is_there = number < count
        items[TierKey(name)] = Tier(name, number, Action.PASS) if is_there else None
        items[PolicyKey(name, policy)] = (
            Policy(
                policy,
                name,
                SelectorText(f"pod == '{pod.id.name}'"),
                (Direction.INGRESS,),
                ingress=(allow(port=81),),
            )
            if is_there
            else None
        )
    return items


def errors(machine: Machine) -> tuple[str, ...]:
    status = machine.status()
    return () if status is None else status.errors


def test_a_pod_in_too_many_tiers_is_closed_alone_told_and_open_again_in_fewer(
    machine: Machine,
) -> None:
    client, server, other = (machine.pod(f"pod-{n}", n) for n in (10, 11, 12))
    machine.start()
    machine.settle(walled(client, server, other) | client.stored("open", "friends"))
    assert reaches(client, other)
    labelled = other.stored("open", labels={"pod": other.id.name})
    machine.settle(labelled | tiers(other, STAGES_MAX))
    told = f"pod ns/{other.id.name}: in {STAGES_MAX + 1} tiers and profiles"
    assert until(lambda: told in " ".join(errors(machine)))
    for version in (4, 6):
        assert not reaches(client, other, version)
        assert reaches(client, server, version)
        assert not reaches(other, server, version)
    machine.settle(tiers(other, 3))
    assert reaches(client, other, 4)
    assert reaches(client, other, 6)
    assert until(lambda: not errors(machine))
