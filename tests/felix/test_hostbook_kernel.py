"""How many stages of a host endpoint's groups a real kernel follows over nftables, at each hook."""

from itertools import product

import msgspec
import pytest

from calico_k8s.calc.deltas import Group
from calico_k8s.errors import IptablesError
from calico_k8s.felix.groupbook import GroupBook
from calico_k8s.felix.hostbook import HostBook
from calico_k8s.felix.iptables.programs import Backend, restore, save
from calico_k8s.model.addresses import Version
from calico_k8s.model.resources import Action, Direction, HostHook
from calico_k8s.render.hosts import NEVER_ASKED
from calico_k8s.render.marks import mark_layout
from calico_k8s.render.settings import HOST_STAGES_MAX, STAGES_MAX, RenderConfig
from tests.felix.test_groupbook_kernel import EVERYTHING
from tests.namespaces import Namespace, run
from tests.render.kernels import VERSIONS, ipset_text, ipsets, restore_text, write_native
from tests.render.states import OPEN_OUT, State, deep, host_book, host_endpoint, host_group

pytestmark = pytest.mark.kernel

FOLLOWS_ALL = RenderConfig(tells=True)
"""As over iptables-legacy."""


def host(hook: HostHook, direction: Direction, count: int) -> Group:
    """A group that denies at the end, or, where host endpoints need not decide, passes."""
    *stages, last = deep("", direction, count).stages
    if hook is not HostHook.LOCAL:
        last = msgspec.structs.replace(last, rules=(), end=Action.PASS)
    return host_group(hook, direction, *stages, last)


def state_of(*deepest: HostHook, stages: int) -> State:
    """A host endpoint that asks so many stages at some hooks, and one at the others."""
    asked = [each for each in product(HostHook, Direction) if each != NEVER_ASKED]
    groups = [host(hook, d, stages if hook in deepest else 1) for hook, d in asked]
    uplink = host_endpoint("uplink", "eth0", *groups)
    return State("", (OPEN_OUT, *groups), {}, {}, EVERYTHING, hosts=(uplink,))


def write(config: RenderConfig, hosts: HostBook) -> None:
    """Everything of a node whose pods are in as many tiers as can be, too."""
    pods = GroupBook(mark_layout(config.mark_mask), VERSIONS, {}, 0.0, tells=True)
    for direction in Direction:
        pods.update(deep(f"pods-{direction}", direction, STAGES_MAX), 0.0)
    sets = ipsets(state_of(stages=1))
    for version in VERSIONS:
        run("ipset", "restore", stdin=ipset_text(sets, version))
    for table in pods.tables(config, hosts.tables(config)):
        restore(Backend.NFT, table.version, restore_text(table))


def test_the_kernel_follows_as_many_stages_as_are_let_through_at_every_hook(
    namespace: Namespace,
) -> None:
    hosts = host_book(state_of(*HostHook, stages=HOST_STAGES_MAX))
    write(EVERYTHING, hosts)
    assert not hosts.problems
    for version in VERSIONS:
        assert "cali-host-deny" not in dispatched(version).values()


@pytest.mark.parametrize("version", VERSIONS)
def test_nftables_own_table_follows_as_far(namespace: Namespace, version: Version) -> None:
    held = write_native(state_of(*HostHook, stages=HOST_STAGES_MAX), version)
    assert any(chain.startswith("raw-") for chain in held)
    for stages in (HOST_STAGES_MAX + 1, HOST_STAGES_MAX + 3):
        write_native(state_of(*HostHook, stages=stages), version)


@pytest.mark.parametrize("hook", [HostHook.LOCAL, HostHook.FORWARDED])
def test_one_stage_more_is_refused(namespace: Namespace, hook: HostHook) -> None:
    with pytest.raises(IptablesError, match="Too many links"):
        write(FOLLOWS_ALL, host_book(state_of(hook, stages=HOST_STAGES_MAX + 1)))


@pytest.mark.parametrize(
    ("hook", "closed", "told"),
    [
        (HostHook.LOCAL, {"cali-host-in", "cali-host-out"}, "what the node sends and what the"),
        (HostHook.FORWARDED, {"cali-host-fwd-in", "cali-host-fwd-out"}, "so what passes through"),
        (HostHook.PRE_DNAT, {"cali-host-pre"}, "so what arrives there"),
        (HostHook.UNTRACKED, {"cali-host-pre", "cali-host-out"}, "so what arrives and what the"),
    ],
)
def test_what_is_deeper_is_closed_where_connections_are_known_and_told(
    namespace: Namespace, hook: HostHook, closed: set[str], told: str
) -> None:
    hosts = host_book(state_of(hook, stages=HOST_STAGES_MAX + 2))
    write(EVERYTHING, hosts)
    (problem,) = hosts.problems
    assert f"uplink: in {HOST_STAGES_MAX + 2} tiers" in problem
    assert told in problem
    for version in VERSIONS:
        found = {chain for chain, to in dispatched(version).items() if to == "cali-host-deny"}
        assert found == closed


def dispatched(version: Version) -> dict[str, str]:
    """By chain, where it sends what comes or goes by the interface."""
    rules = [line.split() for line in save(Backend.NFT, version).splitlines()]
    return {
        words[1]: words[-1]
        for words in rules
        if words[0] == "-A" and words[2:4] in (["-i", "eth0"], ["-o", "eth0"])
    }
