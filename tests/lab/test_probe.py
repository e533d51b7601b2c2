"""What passes is seen as passing, what is dropped as denied, in every protocol and family."""

import subprocess
from collections.abc import Iterator
from queue import Queue

import msgspec
import pytest

from calico_k8s.errors import InputError, KernelError, UnavailableError
from calico_k8s.lab.cluster import Cluster, cluster_up
from calico_k8s.lab.exchange import _TcpExchange, ask
from calico_k8s.lab.netns import entered
from calico_k8s.lab.plan import Place, PodId, PodNetwork, place_of
from calico_k8s.lab.probe import QUICK, Prober, _in_flight_max
from calico_k8s.lab.question import Answer, Outcome, Probe
from calico_k8s.model.addresses import Address, address_version
from calico_k8s.model.names import NodeName
from calico_k8s.model.resources import ICMP, ICMPV6, Action
from tests.lab.plans import TCP, TCP_PORT, UDP, node, plan, pod

pytestmark = pytest.mark.kernel

PLAN = plan(4)
NAMED_PORTS = [*((each.protocol, each.port) for each in PLAN.listen), (ICMP, 0)]
NAMES = {TCP: "tcp", UDP: "udp", 132: "sctp", ICMP: "icmp"}


@pytest.fixture(params=list(PodNetwork), scope="module")
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with cluster_up(PLAN, request.param) as up:
        yield up


@pytest.fixture(scope="module")
def prober(cluster: Cluster) -> Iterator[Prober]:
    with Prober(PLAN, cluster.places()) as made:
        yield made


def iptables(cluster: Cluster, version: int, *arguments: str) -> None:
    """Runs iptables on every node."""
    program = "iptables" if version == 4 else "ip6tables"
    for site in cluster.nodes.values():
        with entered(site.namespace):
            subprocess.run([program, "-w", *arguments], check=True)


def all_pairs() -> list[Probe]:
    """Every pod to every pod, itself included, in every protocol and family."""
    return [
        Probe(place_of(source.id), address, port, protocol)
        for source in PLAN.pods
        for target in PLAN.pods
        for address in target.addresses
        for protocol, port in NAMED_PORTS
    ]


def test_everything_reaches_everything_where_there_is_no_policy(
    cluster: Cluster, prober: Prober
) -> None:
    owners = {address: each.id for each in PLAN.pods for address in each.addresses}
    probes = all_pairs()
    for probe, answer in zip(probes, prober.probe(probes), strict=True):
        assert answer.verdict is Action.ALLOW, probe
        assert answer.rtt_s is not None
        # The kernel answers an echo, and names nobody.
        name = "" if probe.protocol == ICMP else owners[probe.address]
        assert answer.answered_by == name


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("protocol", NAMES, ids=NAMES.values())
def test_what_a_node_drops_is_denied_and_nothing_else(
    cluster: Cluster, prober: Prober, protocol: int, version: int
) -> None:
    name = "icmpv6" if (protocol, version) == (ICMP, 6) else NAMES[protocol]
    target = pod(1, 1).addresses[0 if version == 4 else 1]
    # Only what asks: answers to this pod's own questions have its address too.
    asks = [f"--{name}-type", "echo-request"] if protocol == ICMP else ["--dport", "1:9999"]
    rule = ["FORWARD", "-p", name, *asks, "-d", target, "-j", "DROP"]
    iptables(cluster, version, "-I", *rule)
    try:
        probes = all_pairs()
        for probe, answer in zip(probes, prober.probe(probes), strict=True):
            is_dropped = (probe.protocol, probe.address) == (protocol, target)
            is_denied = is_dropped and probe.src != "default/p1"
            assert answer.verdict is (Action.DENY if is_denied else Action.ALLOW), probe
            assert answer.outcome in (Outcome.SILENT, Outcome.ANSWERED)
    finally:
        iptables(cluster, version, "-D", *rule)


def test_dropped_answers_are_denied_too(cluster: Cluster, prober: Prober) -> None:
    source = pod(0, 0).addresses[0]
    iptables(cluster, 4, "-I", "FORWARD", "-d", source, "-j", "DROP")
    try:
        target = pod(1, 1).addresses[0]
        answers = prober.probe(
            [Probe(Place("default/p0"), target, port, each) for each, port in NAMED_PORTS]
        )
        assert {answer.outcome for answer in answers} == {Outcome.SILENT}
    finally:
        iptables(cluster, 4, "-F", "FORWARD")


def test_an_allowed_connection_does_not_speak_for_a_later_one(
    cluster: Cluster, prober: Prober
) -> None:
    accept_known = ["-m", "conntrack", "--ctstate", "ESTABLISHED,RELATED", "-j", "ACCEPT"]
    target = pod(1, 1).addresses[0]
    probes = [Probe(Place("default/p0"), target, port, each) for each, port in NAMED_PORTS]
    assert {answer.verdict for answer in prober.probe(probes * 20)} == {Action.ALLOW}
    iptables(cluster, 4, "-A", "FORWARD", *accept_known)
    iptables(cluster, 4, "-A", "FORWARD", "-j", "DROP")
    try:
        assert {answer.verdict for answer in prober.probe(probes * 20)} == {Action.DENY}
    finally:
        iptables(cluster, 4, "-F", "FORWARD")


def test_the_source_port_can_be_chosen(cluster: Cluster, prober: Prober) -> None:
    for protocol, port in NAMED_PORTS[:3]:
        name = NAMES[protocol]
        rule = ["FORWARD", "-p", name, "-m", name, "--sport", "7777", "-j", "DROP"]
        iptables(cluster, 4, "-I", *rule)
        target = pod(1, 1).addresses[0]
        chosen, other = (
            Probe(Place("default/p0"), target, port, protocol, src_port=number)
            for number in (7777, 7778)
        )
        verdicts = [answer.verdict for answer in prober.probe([chosen, other])]
        iptables(cluster, 4, "-D", *rule)
        assert verdicts == [Action.DENY, Action.ALLOW], name
        assert prober.probe([chosen, chosen])[0].verdict is Action.ALLOW


def test_nodes_ask_too(prober: Prober) -> None:
    probes = [
        Probe(place_of(NodeName("node0")), address, port, protocol)
        for address in pod(1, 1).addresses
        for protocol, port in NAMED_PORTS
    ]
    assert {answer.verdict for answer in prober.probe(probes)} == {Action.ALLOW}


def test_an_echo_reaches_a_node(prober: Prober) -> None:
    probes = [
        Probe(Place("default/p0"), address, 0, ICMPV6 if address_version(address) == 6 else ICMP)
        for address in node(1).addresses
    ]
    assert {answer.verdict for answer in prober.probe(probes)} == {Action.ALLOW}


def test_no_route_and_no_listener_are_told_from_silence(cluster: Cluster, prober: Prober) -> None:
    source, nowhere = Place("default/p0"), Address("192.0.2.1")
    with entered(cluster.places()[source]):
        # In the pod itself: routers say so too, and then only now and then.
        subprocess.run(["ip", "route", "add", "unreachable", nowhere], check=True)
    answers = prober.probe(
        [
            *(Probe(source, nowhere, port, protocol) for protocol, port in NAMED_PORTS),
            Probe(source, node(1).addresses[0], 80, TCP),
            Probe(source, node(1).addresses[0], 53, UDP),
        ]
    )
    outcomes = [answer.outcome for answer in answers]
    assert outcomes == [Outcome.UNREACHABLE] * 4 + [Outcome.REFUSED] * 2
    assert {answer.verdict for answer in answers} == {Action.DENY}


@pytest.mark.parametrize(
    ("probe", "says"),
    [
        (Probe(Place("a/b"), Address("10.244.0.10"), 80, TCP), "no pod or node a/b"),
        (Probe(Place("default/p0"), Address("10.244.0.10"), 81, TCP), "on port 81/tcp"),
        (Probe(Place("default/p0"), Address("10.244.0.10"), 0, 47), "cannot probe protocol 47"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused(prober: Prober, probe: Probe, says: str) -> None:
    sensible = Probe(Place("default/p0"), pod(1, 1).addresses[0], 80, TCP)
    with pytest.raises(InputError, match=says):
        prober.probe([sensible, probe, sensible])
    assert prober.probe([sensible])[0].verdict is Action.ALLOW


def test_a_wrong_pod_that_answers_is_an_error(cluster: Cluster, prober: Prober) -> None:
    target, other = pod(1, 1).addresses[0], pod(2, 0).addresses[0]
    rule = ["PREROUTING", "-d", target, "-p", "udp", "-j", "DNAT", "--to-destination", other]
    iptables(cluster, 4, "-t", "nat", "-I", *rule)
    try:
        with pytest.raises(KernelError, match=r"default/p1 was asked .* default/p2 answered"):
            prober.probe([Probe(Place("default/p0"), target, 53, UDP)])
    finally:
        iptables(cluster, 4, "-t", "nat", "-D", *rule)


def test_a_pod_answers_from_when_it_is_added_until_it_is_removed(
    cluster: Cluster, prober: Prober
) -> None:
    late = pod(9, 1)
    cluster.add_pods([late])
    prober.add_pod(late, cluster.pods[late.id].namespace)
    to, back = (
        Probe(Place("default/p0"), late.addresses[0], 80, TCP),
        Probe(place_of(late.id), pod(0, 0).addresses[1], 80, TCP),
    )
    assert [answer.verdict for answer in prober.probe([to, back])] == [Action.ALLOW, Action.ALLOW]
    namespace = cluster.pods[late.id].namespace
    prober.remove_pod(late.id)
    cluster.remove_pod(late.id)
    assert not namespace.path.exists()
    assert prober.probe([to])[0].verdict is Action.DENY
    with pytest.raises(InputError, match=r"no pod or node default/p9"):
        prober.probe([back])


def test_a_page_is_served_to_whoever_asks_for_one(cluster: Cluster, prober: Prober) -> None:
    name = cluster.pods[PodId("default/p0")].namespace.name
    page = subprocess.run(
        [
            *("ip", "netns", "exec", name, "python3", "-c"),
            "import sys,urllib.request as r; print(r.urlopen(sys.argv[1]).read().decode())",
            f"http://{pod(1, 1).addresses[0]}:{TCP_PORT.port}/",
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    assert page.stdout.strip() == "default/p1"


def test_a_connection_from_a_port_of_ones_own_that_is_seen_late_still_counts(
    prober: Prober,
) -> None:
    """It was closed to ask again, and its port, in TIME_WAIT, could not be asked from."""
    answers: Queue[Answer] = Queue()
    probe = Probe(Place("default/p0"), pod(1, 1).addresses[0], 80, TCP, src_port=45678)

    def ask_twice() -> None:  # in one turn, so that what the first brought is not seen between
        exchange = ask(prober._sources, prober._loop, probe, QUICK, answers.put)
        assert isinstance(exchange, _TcpExchange)
        exchange._send()

    prober._loop.call(ask_twice)
    assert answers.get(timeout=30).outcome is Outcome.ANSWERED


def test_no_questions_have_no_answers(prober: Prober) -> None:
    assert prober.probe([]) == []


def test_nodes_listen_where_the_plan_says(cluster: Cluster) -> None:
    listening = msgspec.structs.replace(PLAN, listen=(), node_listen=(TCP_PORT,))
    with Prober(listening, cluster.places()) as made:
        probe = Probe(Place("default/p0"), node(1).addresses[1], 80, TCP)
        assert made.probe([probe])[0].answered_by == "node1"


def test_too_few_open_files_are_told_before_anything_fails() -> None:
    assert _in_flight_max(20000, 4000) == 800
    assert _in_flight_max(4096, 1000) == 349
    with pytest.raises(UnavailableError, match=r"needs 1700 open files and may have 1024"):
        _in_flight_max(1024, 1000)
