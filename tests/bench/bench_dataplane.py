"""New connections through one node: what our chains leave of the rate, on every backend.

Two pods of one node, joined by routed veths, beside 998 others in 100 policy groups.  The client
connects and resets, so one packet in four is a new flow: the dearest mix there is.  The floor is
nothing but an established-accept rule in ``FORWARD``.  Each path has a router namespace of its own
and they take turns of 4 ms, so a ratio holds on a machine that others use too.

Needs root and gcc.  Arguments: seconds for each comparison (12), then backends, and ``variants``
for what comments in rules cost.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from calico_k8s.calc.deltas import Group, LocalEndpoint
from calico_k8s.felix.iptables.driver import TableDriver
from calico_k8s.felix.iptables.programs import Backend
from calico_k8s.felix.kernel import AnyBackend, Native, parse_backend
from calico_k8s.render.endpoints import Attachment
from calico_k8s.render.tables import WORKLOAD_LINK_GROUP, Table
from tests.bench.figure import Figure, Floor, record
from tests.namespaces import Namespace, ip, new_namespace, run
from tests.render.kernels import ipset_text, ipsets, restore_text, write_native
from tests.render.states import (
    BACKEND,
    EGRESS,
    INGRESS,
    OPEN_OUT,
    TCP,
    State,
    allow,
    endpoint,
    group,
    nets,
    ports,
    profiles,
    tables,
)

GROUPS, ENDPOINTS = 100, 1000
PORT = 8080
CLIENT, SERVER, GATEWAY = "10.65.0.1", "10.65.0.2", "169.254.1.1"
NOTHING, FLOOR = "no rule, no conntrack", "floor"
OURS = ("100 groups of annotations", "100 groups each direction")
RATE_GOALS: Mapping[AnyBackend, float] = {
    Backend.LEGACY: 0.92,
    Backend.NFT: 0.90,
    Native.NFTABLES: 0.92,
}
P50_GOAL_US = 35
VARIANTS = "variants"
ESTABLISHED = "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"


class Cost(NamedTuple):
    """What ``connect_bench`` prints of a path."""

    cpu_ns: int
    wall_ns: int
    connects: int
    p50_ns: int


class RoutedPath(NamedTuple):
    """A client, a router and a server."""

    client: Namespace
    router: Namespace
    server: Namespace


def address(n: int) -> str:
    """The nth pod's address; the first two are the client's and the server's."""
    return f"10.65.{n // 250}.{n % 250 + 1}"


def state(egress: str) -> State:
    """100 ingress groups; egress as open as annotations leave it, or 100 groups too."""
    ingress = tuple(
        group(
            f"in{n}",
            INGRESS,
            profiles(allow(protocol=TCP, peer_ipset=BACKEND, dst_ports=ports(PORT))),
        )
        for n in range(GROUPS)
    )
    out: tuple[Group, ...] = (OPEN_OUT,)
    if egress == "policies":
        out = tuple(
            group(f"out{n}", EGRESS, profiles(allow(protocol=TCP), allow())) for n in range(GROUPS)
        )
    endpoints: dict[LocalEndpoint, Attachment | None] = {
        endpoint(
            f"p{n}", address(n), f"in{(n * 7 + 59) % GROUPS}", out[(n * 3 + 37) % len(out)].id
        ): Attachment(f"cali{n:04}")
        for n in range(ENDPOINTS)
    }
    return State("", (*ingress, *out), endpoints, {BACKEND: nets("10.65.0.0/24")})


@contextmanager
def routed_path(sets: str) -> Iterator[RoutedPath]:
    """Two pods on a node that holds these sets and no rule."""
    with ExitStack() as stack:
        client, router, server = (stack.enter_context(new_namespace()) for _ in range(3))
        with router:
            for interface, pod, own in (("cali0000", client, CLIENT), ("cali0001", server, SERVER)):
                ip(f"link add {interface} type veth peer name eth0 netns {pod.path}")
                ip(f"addr add {GATEWAY}/32 dev {interface}")
                ip(f"link set {interface} up group {WORKLOAD_LINK_GROUP}")
                ip(f"route add {own}/32 dev {interface}")
                with pod:
                    ip("link set eth0 up")
                    ip(f"addr add {own}/32 dev eth0")
                    ip(f"route add {GATEWAY} dev eth0")
                    ip(f"route add default via {GATEWAY}")
            run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.rp_filter=0")
            run("ipset", "restore", stdin=sets)
        yield RoutedPath(client, router, server)


def bare(backend: Backend, *texts: str) -> None:
    """Rules as they are rendered."""
    for text in texts:
        run(f"iptables-{backend}-restore", "--noflush", stdin=text)


def floor(backend: Backend) -> None:
    """What every node with conntrack has."""
    bare(backend, f"*filter\n{ESTABLISHED}\nCOMMIT\n")


def driven(backend: Backend, made: tuple[Table, ...]) -> None:
    """Tables as the agent writes them, with what it recognises them by."""
    for table in made:
        driver = TableDriver(backend, 4, table.name)
        driver.set_desired(table)
        driver.apply()
        driver.close()


def commented(table: Table) -> str:
    """The table with a comment in every rule, as if each carried its hash."""
    lines = restore_text(table).splitlines()
    return "\n".join(
        f"{line} -m comment --comment cali:{number:08x}" if line.startswith("-A") else line
        for number, line in enumerate((*lines, ""))
    )


def compare(
    program: Path,
    backend: AnyBackend,
    seconds: float,
    loads: Mapping[str, Callable[[], object]],
    sets: str,
) -> None:
    """Load each path with its rules, let them take turns, print each beside the floor."""
    with ExitStack() as stack:
        paths = [stack.enter_context(routed_path(sets)) for _ in loads]
        for path, load in zip(paths, loads.values(), strict=True):
            with path.router:
                load()
        ends = [end.path for path in paths for end in (path.client, path.server)]
        output = run(str(program), str(int(seconds * 1000)), SERVER, str(PORT), *ends)
    lines = (map(int, line.split()) for line in output.splitlines())
    costs = dict(zip(loads, map(Cost._make, lines), strict=True))
    base = costs[FLOOR]
    for name, cost in costs.items():
        print(
            f"{backend:8} {name:34} {cost.cpu_ns / 1000:7.2f} {cost.wall_ns / 1000:7.2f} us"
            f"   {base.cpu_ns / cost.cpu_ns:5.3f} {base.wall_ns / cost.wall_ns:5.3f}"
            f"   {cost.connects:8} {cost.p50_ns / 1000:7.2f} us",
            flush=True,
        )
    for name in (each for each in OURS if each in costs):
        keep(backend, name, costs[name], base, costs[NOTHING])


def keep(backend: AnyBackend, load: str, ours: Cost, base: Cost, nothing: Cost) -> None:
    """What is compared with earlier runs: the rate, and a single call."""
    name = f"{backend}: {load}"
    rate, base_rate = 1e9 / ours.cpu_ns, 1e9 / base.cpu_ns
    floor = Floor("conntrack accept only", base_rate)
    goal = round(RATE_GOALS[backend] * base_rate)
    record(Figure(f"{name}: TCP connects", rate, 0, floor, unit="/s", goal=goal, better="more"))
    floor = Floor("no rules", nothing.p50_ns / 1000)
    p50_us = ours.p50_ns / 1000
    record(Figure(f"{name}: connect p50", p50_us, 0, floor, unit="us", goal=P50_GOAL_US))


def bench(program: Path, backend: Backend, seconds: float) -> None:
    """What one backend's chains leave, as the agent writes them."""
    annotations, policies = state("annotations"), state("policies")
    beside(program, backend, seconds, annotations, {OURS[0]: driven})
    beside(program, backend, seconds, policies, {OURS[1]: driven})


def bench_variants(program: Path, backend: Backend, seconds: float) -> None:
    """What the agent's comments cost, and what one in every rule would."""

    def rules_alone(backend: Backend, made: tuple[Table, ...]) -> None:
        bare(backend, *map(restore_text, made))

    def all_commented(backend: Backend, made: tuple[Table, ...]) -> None:
        bare(backend, *map(commented, made))

    variants = {
        "the same": driven,
        "the same, rules alone": rules_alone,
        "the same, every rule commented": all_commented,
    }
    beside(program, backend, seconds, state("annotations"), variants)


def beside(
    program: Path,
    backend: Backend,
    seconds: float,
    made: State,
    writers: Mapping[str, Callable[[Backend, tuple[Table, ...]], None]],
) -> None:
    """A state's tables as each writer leaves them, beside the floor.

    Each path more takes its part of the caches, from long rule lists more than from the floor: so
    what is compared with a goal has no other beside it.
    """
    written = tables(made, 4)
    loads: dict[str, Callable[[], object]] = {
        NOTHING: lambda: None,
        FLOOR: lambda: floor(backend),
    }
    for name, write in writers.items():
        loads[name] = partial(write, backend, written)
    compare(program, backend, seconds, loads, ipset_text(ipsets(made), 4))


def bench_native(program: Path, seconds: float) -> None:
    """The same of the native tables, which have their sets in them."""
    annotations, policies = state("annotations"), state("policies")
    for name, made in zip(OURS, (annotations, policies), strict=True):
        loads: dict[str, Callable[[], object]] = {
            NOTHING: lambda: None,
            FLOOR: lambda: floor(Backend.NFT),
            name: partial(write_native, made, 4),
        }
        compare(program, Native.NFTABLES, seconds, loads, "")


def main(arguments: list[str]) -> int:
    """Compile, then each backend."""
    seconds = float(arguments[0]) if arguments else 12.0
    words = arguments[1:]
    named = [parse_backend(word) for word in words if word != VARIANTS]
    measure = bench_variants if VARIANTS in words else bench
    print(f"{'':43} {'cpu':>7} {'wall':>7}      to the floor   connects     p50")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XTABLES_LOCKFILE"] = str(Path(folder, "lock"))
        program = Path(folder, "connect_bench")
        source = Path(__file__).with_name("connect_bench.c")
        run("gcc", "-O2", "-Wall", "-Wextra", "-o", str(program), str(source))
        for backend in named or (Backend if VARIANTS in words else (*Backend, *Native)):
            if isinstance(backend, Native):
                bench_native(program, seconds)
            else:
                measure(program, backend, seconds)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except subprocess.SubprocessError as error:
        sys.exit(f"bench: {error}")
