"""An agent among newer versions: what it does not know never opens anything, and is told."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from calico_k8s.datastore.store import Put
from calico_k8s.felix.iptables.programs import Backend
from calico_k8s.model.keys import EndpointKey, ProfileRulesKey, key_path
from calico_k8s.model.names import ProfileId
from tests.felix.nodes import (
    READY,
    Machine,
    PodSite,
    allow,
    machine_up,
    reaches,
    rules,
    tags,
    until,
)
from tests.namespaces import Namespace

pytestmark = pytest.mark.kernel

RULES_PATH = key_path(ProfileRulesKey(ProfileId("closed")))


@pytest.fixture
def machine(namespace: Namespace, tmp_path: Path) -> Iterator[Machine]:
    with machine_up(namespace, tmp_path, Backend.NFT) as machine:
        yield machine


@pytest.fixture
def pods(machine: Machine) -> tuple[PodSite, PodSite]:
    """One that may reach the other, which an agent enforces."""
    client, server = machine.pod("client", 10), machine.pod("server", 11)
    machine.start()
    machine.settle(
        READY
        | rules("closed", allow("access"))
        | rules("open", allow())
        | tags("friends", "access")
        | client.stored("open", "friends")
        | server.stored("closed")
    )
    assert reaches(client, server)
    return client, server


def write(machine: Machine, path: str, **more: object) -> int:
    """A stored object as a newer controller would write it: with more fields."""
    entry = machine.store.get(path)
    assert entry is not None
    value = msgspec.json.decode(entry.value)
    return machine.store.transact([Put(path, msgspec.json.encode(value | more))])


def errors(machine: Machine) -> tuple[str, ...]:
    status = machine.status()
    return () if status is None else status.errors


def test_what_only_describes_is_ignored(machine: Machine, pods: tuple[PodSite, PodSite]) -> None:
    client, server = pods
    write(machine, key_path(EndpointKey(server.id)), bandwidth={"ingress": "1M"}, generation=7)
    new = [Put("/v1/policy/mood/all", b"{}"), Put("/v1/written", b'{"written": "soon"}')]
    revision = machine.store.transact(new)
    assert until(lambda: machine.is_at(revision))
    assert reaches(client, server)
    assert errors(machine) == ()


def test_a_rule_of_a_newer_form_opens_nothing_is_told_and_is_right_again_later(
    machine: Machine, pods: tuple[PodSite, PodSite]
) -> None:
    client, server = pods
    entry = machine.store.get(RULES_PATH)
    assert entry is not None
    value = msgspec.json.decode(entry.value)
    value["inbound_rules"][0]["time_of_day"] = "09:00-17:00"
    revision = machine.store.transact([Put(RULES_PATH, msgspec.json.encode(value))])
    assert until(lambda: machine.is_at(revision))
    assert not reaches(client, server), "an allow that is not understood matches nothing"
    assert until(lambda: any("time_of_day" in error for error in errors(machine)))
    machine.settle(rules("closed", allow("access")))
    assert reaches(client, server)
    assert until(lambda: errors(machine) == ())


def test_a_deny_of_a_newer_form_denies_all(machine: Machine, pods: tuple[PodSite, PodSite]) -> None:
    client, server = pods
    entry = machine.store.get(RULES_PATH)
    assert entry is not None
    raw = msgspec.json.decode(entry.value)
    deny = raw["inbound_rules"][0] | {"action": "deny", "mood": "bad"}
    value = raw | {"inbound_rules": [deny, *raw["inbound_rules"]]}
    revision = machine.store.transact([Put(RULES_PATH, msgspec.json.encode(value))])
    assert until(lambda: machine.is_at(revision))
    assert not reaches(client, server)
    assert until(lambda: any("mood" in error for error in errors(machine)))


def test_a_setting_of_a_newer_version_changes_nothing_and_is_told(
    machine: Machine, pods: tuple[PodSite, PodSite]
) -> None:
    client, server = pods
    path = "/v1/config/warp-speed"
    revision = machine.store.transact([Put(path, b'"9"')])
    assert until(lambda: machine.is_at(revision))
    assert until(lambda: any("warp-speed" in error for error in errors(machine)))
    assert reaches(client, server)
