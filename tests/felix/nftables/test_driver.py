"""Transactions on a real kernel: what it follows, what it refuses, what is there already."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from calico_k8s.errors import KernelError
from calico_k8s.felix.apply import Applier
from calico_k8s.felix.desired import Order, Plan
from calico_k8s.felix.ipsets import IpsetDriver
from calico_k8s.felix.nftables.driver import Nftables
from calico_k8s.model.addresses import Version
from calico_k8s.render.settings import STAGES_MAX
from calico_k8s.render.tables import IpsetName, KernelIpset, KernelMember, Table
from tests.namespaces import Namespace, run
from tests.render.kernels import VERSIONS, write_native
from tests.render.states import INGRESS, OPEN_OUT, State, deep

pytestmark = pytest.mark.kernel

NETS = KernelIpset(IpsetName("cali4-s-nets"), "hash:net", 4)
PLACE = "ip", "calico_k8s"


@pytest.fixture
def nftables(namespace: Namespace) -> Iterator[Nftables]:
    with closing(Nftables((4,))) as kernel:
        yield kernel


@pytest.mark.parametrize("version", VERSIONS)
def test_the_kernel_follows_as_many_stages_as_are_let_through(
    namespace: Namespace, version: Version
) -> None:
    write_native(State("", (OPEN_OUT, deep("a", INGRESS, STAGES_MAX)), {}, {}), version)


def test_more_stages_are_refused_and_nothing_is_written(namespace: Namespace) -> None:
    with pytest.raises(KernelError, match="Too many links"):
        write_native(State("", (OPEN_OUT, deep("a", INGRESS, STAGES_MAX + 1)), {}, {}), 6)
    assert run("nft", "list", "ruleset") == ""


def plan(*members: str) -> Plan:
    made = {NETS.name: [KernelMember(member) for member in members]}
    return Plan(
        created={NETS.name: NETS}, added=made, tables=(Table("mangle", 4, {}),), order=Order()
    )


def applier(nftables: Nftables) -> Applier:
    writers = nftables.writers(("mangle",))
    return Applier(IpsetDriver(sets=nftables.sets), writers, 0, nftables)


def listed() -> str:
    return " ".join(run("nft", "list", "set", *PLACE, NETS.name).split())


def test_a_table_that_somebody_else_made_is_made_anew(nftables: Nftables) -> None:
    run("nft", "add table ip calico_k8s")
    run("nft", f"add set ip calico_k8s {NETS.name} {{ type inet_service; }}")
    run(
        "nft",
        f"add chain ip calico_k8s theirs; add rule ip calico_k8s theirs th dport @{NETS.name}",
    )
    applier(nftables).carry_out(plan("10.0.0.0/8"))
    assert "elements = { 10.0.0.0/8 }" in listed()
    assert "theirs" not in run("nft", "list", "ruleset")


def test_nets_within_nets_are_there_when_the_outer_goes(nftables: Nftables) -> None:
    writer = applier(nftables)
    writer.carry_out(plan("10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", "192.168.0.0/31", "192.168.0.2"))
    assert "{ 10.0.0.0/8, 192.168.0.0/31, 192.168.0.2 }" in listed()
    again = applier(closing_later := Nftables((4,)))
    with closing(closing_later):
        again.carry_out(plan("10.1.0.0/16", "10.1.2.3", "255.255.255.255"))
        assert "{ 10.1.0.0/16, 255.255.255.255 }" in listed()
        again.carry_out(Plan(removed={NETS.name: [KernelMember("10.1.0.0/16")]}))
    assert "{ 10.1.2.3, 255.255.255.255 }" in listed()


def test_intervals_that_are_no_nets_are_made_anew(nftables: Nftables) -> None:
    writer = applier(nftables)
    writer.carry_out(plan("10.0.0.0/8"))
    run("nft", f"add element ip calico_k8s {NETS.name} {{ 11.0.0.1-11.0.0.6 }}")
    writer.mend(Order())
    assert "elements = { 10.0.0.0/8 }" in listed()
