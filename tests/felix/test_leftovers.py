"""After a clean nothing of ours is left, and whatever is left is found."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from calico_k8s.felix.conntrack import FlowCutter
from calico_k8s.felix.differences import Difference
from calico_k8s.felix.iptables.programs import Backend, program_name
from calico_k8s.felix.kernel import clean_kernel
from calico_k8s.felix.leftovers import find_leftovers
from calico_k8s.render.marks import mark_layout
from calico_k8s.render.settings import DEFAULT_MARK_MASK
from tests.cli.test_present_json import check
from tests.felix.nodes import Machine, machine_up, reaches, walled
from tests.felix.test_drift import calico
from tests.namespaces import Namespace, ip, run

pytestmark = pytest.mark.kernel


@pytest.fixture(params=[Backend.LEGACY, Backend.NFT], ids=str)
def machine(
    namespace: Namespace, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Machine]:
    with machine_up(namespace, tmp_path, request.param) as machine:
        yield machine


def leftovers() -> list[Difference]:
    return list(find_leftovers(DEFAULT_MARK_MASK))


def test_all_that_an_agent_made_is_found_and_gone_after_a_clean(machine: Machine) -> None:
    client, server, other = (machine.pod(name, 10 + at) for at, name in enumerate("abc"))
    machine.start()
    machine.settle(walled(client, server, other))
    assert reaches(client, server)
    machine.stop()
    before = machine.held()
    code, out, _ = calico("clean", "--verify")
    assert (code, machine.held()) == (1, before), "looking writes nothing"
    check("felix clean", json.loads(calico("clean", "--verify", "-o", "json")[1]))
    places = {finding.place for finding in leftovers()}
    assert {
        f"IPv4 {machine.backend} mangle",
        f"IPv6 {machine.backend} filter",
        "ipset cali4-src",
        f"interface {server.link}",
    } <= places
    assert all(place in out for place in places)
    assert calico("clean")[:2] == (0, "nothing of ours is left\n")
    assert calico("clean", "--verify")[:2] == (0, "nothing of ours is left\n")


def iptables(backend: Backend, words: str) -> None:
    run(program_name(backend, 6, "x").removesuffix("-x"), *words.split())


def cut_a_flow() -> None:
    run("conntrack", "-I", "-s", "192.0.2.1", "-d", "192.0.2.2", "-p", "tcp", "--sport", "1",
        "--dport", "2", "--state", "ESTABLISHED", "-t", "60")  # fmt: skip
    cutter = FlowCutter(mark_layout(DEFAULT_MARK_MASK).cut)
    assert cutter.judge(cutter.all_flows(), lambda _: True).cut
    cutter.close()


@pytest.mark.parametrize(
    ("leave", "place", "words"),
    [
        (lambda: iptables(Backend.LEGACY, "-t raw -N cali-a"), "IPv6 legacy raw", "cali-a"),
        (lambda: iptables(Backend.NFT, "-t nat -N cali-a"), "IPv6 nft nat", "cali-a"),
        (
            lambda: iptables(
                Backend.NFT, "-t filter -A INPUT -j ACCEPT -m comment --comment cali:abc"
            ),
            "IPv6 nft filter",
            "chain INPUT has rules of ours",
        ),
        (lambda: run("ipset", "create", "cali6-a", "hash:ip"), "ipset cali6-a", "is left"),
        (lambda: run("nft", "add", "table", "inet", "calico_k8s"), "nft inet calico_k8s", "left"),
        (lambda: ip("link set lo group 0x40000001"), "interface lo", "still marked"),
        (cut_a_flow, "conntrack", "1 flows still carry"),
    ],
)
def test_each_single_thing_that_is_left_is_found(
    namespace: Namespace, leave: Callable[[], object], place: str, words: str
) -> None:
    with namespace:
        assert leftovers() == []
        leave()
        (finding,) = leftovers()
        assert (finding.place, words in finding.problem) == (place, True), finding


def test_what_others_have_is_not_ours(namespace: Namespace) -> None:
    with namespace:
        iptables(Backend.LEGACY, "-t filter -N calico")
        iptables(Backend.NFT, "-t filter -A INPUT -j ACCEPT -m comment --comment californian")
        run("ipset", "create", "cali5-a", "hash:ip")
        run("nft", "add", "table", "inet", "calico")
        ip("link set lo group 1")
        assert leftovers() == []
        assert clean_kernel(5.0, DEFAULT_MARK_MASK) == ()
