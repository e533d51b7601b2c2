"""What Felix's drivers cost, each beside its floor: the same deed by the program or the bare kernel.

In comes nothing; out go milliseconds, the best and the median of several rounds, and the ratio of
the bests.  Everything happens in network namespaces of its own, with a lock of its own.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from calico_k8s.felix.bridge import BridgeDriver
from calico_k8s.felix.conntrack import FlowCutter
from calico_k8s.felix.interfaces import Interfaces
from calico_k8s.felix.ipsets import IpsetDriver
from calico_k8s.felix.iptables import inprocess
from calico_k8s.felix.iptables.driver import TableDriver
from calico_k8s.felix.iptables.programs import Backend, restore, save
from calico_k8s.model.addresses import Address
from calico_k8s.policy.match import Flow
from calico_k8s.render.tables import (
    ChainName,
    IpsetName,
    KernelIpset,
    KernelMember,
    RuleText,
    Table,
)
from tests.bench.figure import Figure, Floor, record
from tests.namespaces import new_namespace, run

ROUNDS = 20
MEMBERS = 10_000
CHAINS, RULES_A_CHAIN = 100, 10
FLOWS = 10_000
BIT = 0x40000

Work = Callable[[], object]


def milliseconds(work: Work, rounds: int = ROUNDS) -> tuple[float, float]:
    """The best and the median round."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append((time.perf_counter() - start) * 1000)
    return min(times), statistics.median(times)


def report(name: str, work: Work, floor_name: str, floor: Work, rounds: int = ROUNDS) -> None:
    """One line: the deed, its floor and the ratio."""
    best, median = milliseconds(work, rounds)
    floor_best, floor_median = milliseconds(floor, rounds)
    print(
        f"{name:42} {best:8.3f} {median:8.3f} ms   {floor_name:34} {floor_best:8.3f}"
        f" {floor_median:8.3f} ms   {best / floor_best:5.2f}"
    )
    record(Figure(name, best, 0, Floor(floor_name, floor_best)))


def bench_ipsets() -> None:
    """One member, ten thousand, and reading them back, beside the ``ipset`` program."""
    driver = IpsetDriver()
    name = IpsetName("cali4-bench")
    ipset = KernelIpset(name, "hash:ip", 4)
    members = [KernelMember(f"10.0.{n // 250}.{n % 250}") for n in range(MEMBERS)]
    script = "".join(f"add floor {member.text}\n" for member in members)
    run("ipset", "create", "floor", "hash:ip")
    driver.set_ipset(ipset, [])
    driver.apply_creates()

    def one() -> None:
        driver.add_members(name, members[:1])
        driver.apply_adds()
        driver.remove_members(name, members[:1])
        driver.apply_removes()

    def one_by_program() -> None:
        run("ipset", "add", "floor", "10.0.0.0")
        run("ipset", "del", "floor", "10.0.0.0")

    def many() -> None:
        driver.set_ipset(ipset, members)
        driver.apply_adds()
        driver.set_ipset(ipset, [])
        driver.apply_removes()

    def many_by_program() -> None:
        run("ipset", "restore", stdin=script)
        run("ipset", "restore", stdin=script.replace("add", "del"))

    report("ipset: add and delete a member", one, "ipset add, ipset del", one_by_program)
    report(f"ipset: add and delete {MEMBERS}", many, "ipset restore, twice", many_by_program, 5)
    driver.set_ipset(ipset, members)
    driver.apply_adds()
    report(
        f"ipset: read back {MEMBERS}", driver.resync, "ipset save", lambda: run("ipset", "save"), 5
    )
    driver.close()


def table(extra: int) -> Table:
    """A thousand rules in a hundred chains, and one more chain with a jump to it."""
    body = tuple(
        RuleText(f"-p tcp -m tcp --dport {port} -j ACCEPT") for port in range(RULES_A_CHAIN)
    )
    chains = {ChainName(f"cali-{n}"): body for n in range(CHAINS)}
    chains[ChainName("cali-all")] = tuple(RuleText(f"-i v{n} -g cali-{n}") for n in range(CHAINS))
    chains[ChainName(f"cali-new{extra}")] = (RuleText(f"-i w{extra} -j DROP"),)
    return Table("filter", 4, chains, first={"FORWARD": (RuleText("-j cali-all"),)})


def bench_tables(backend: Backend) -> None:
    """A chain exchanged, a look at the whole, a whole load, beside the bare programs."""
    driver = TableDriver(backend, 4, "filter")
    count = 0

    def change() -> None:
        nonlocal count
        count += 1
        driver.set_desired(table(count))
        driver.apply()

    def change_by_program() -> None:
        restore(backend, 4, "*filter\n:cali-x - [0:0]\n-A cali-x -i w -j DROP\nCOMMIT\n")
        restore(backend, 4, "*filter\n:cali-x - [0:0]\n-X cali-x\nCOMMIT\n")

    def load() -> None:
        driver.set_desired(Table("filter", 4, {}))
        driver.apply()
        driver.set_desired(table(0))
        driver.apply()

    change()
    with_floor = save(backend, 4, "filter")
    report(f"{backend}: a chain for another", change, "restore, make and delete", change_by_program)
    report(
        f"{backend}: a look, nothing changed",
        driver.has_drifted,
        "save",
        lambda: save(backend, 4, "filter"),
    )
    report(
        f"{backend}: unload and load {with_floor.count('-A ')} rules",
        load,
        "restore of the same, once",
        lambda: restore(backend, 4, with_floor),
        5,
    )
    driver.close()


def bench_conntrack(folder: Path) -> None:
    """One pod's flows among ten thousand, beside the ``conntrack`` program."""
    run("ip", "link", "set", "lo", "up")
    load = folder / "flows"
    load.write_text(
        "".join(
            f"-A -t 600 -u SEEN_REPLY -s 10.0.{n // 250}.{n % 250} -d 10.9.{n % 100}.1 -p udp"
            f" --sport {n + 1} --dport 53 --reply-port-src 53 --reply-port-dst {n + 1}"
            f" -r 10.9.{n % 100}.1 -q 10.0.{n // 250}.{n % 250}\n"
            for n in range(FLOWS)
        )
    )
    run("conntrack", "--load-file", str(load))
    cutter = FlowCutter(BIT)
    pod = Address("10.9.5.1")

    def deny(_flow: Flow) -> bool:
        return True

    def allow(_flow: Flow) -> bool:
        return False

    def cut_and_restore() -> None:
        entries = cutter.flows_of([pod])
        assert cutter.judge(entries, deny).cut == FLOWS // 100
        marked = [entry._replace(mark=BIT) for entry in entries]
        assert cutter.judge(marked, allow).restored == FLOWS // 100

    report(
        f"conntrack: a pod's flows of {FLOWS}",
        lambda: cutter.flows_of([pod]),
        "conntrack -L -d",
        lambda: run("conntrack", "-L", "-d", pod),
    )
    report(
        f"conntrack: cut and restore {FLOWS // 100} of them",
        cut_and_restore,
        "finding them alone",
        lambda: cutter.flows_of([pod]),
    )
    report(
        f"conntrack: all {FLOWS}",
        cutter.all_flows,
        "conntrack -L",
        lambda: run("conntrack", "-L"),
        5,
    )
    cutter.close()


def bench_bridge() -> None:
    """A pod on a bridge bound to its port and let go, beside an empty ``nft``."""
    driver = BridgeDriver()
    ports = frozenset(f"veth{n}" for n in range(100))
    bound = {Address(f"10.0.0.{n}"): f"veth{n}" for n in range(100)}

    def bind_all_but(port: str) -> Work:
        kept = {address: name for address, name in bound.items() if name != port}
        interfaces = Interfaces(ports_by_address=kept, workload_ports=ports)

        def work() -> None:
            driver.set_desired(interfaces)
            driver.apply()

        return work

    steps = (bind_all_but("veth1"), bind_all_but(""))
    report(
        "bridge: a pod comes and goes, among 100",
        lambda: [step() for step in steps],
        "nft list tables, twice",
        lambda: [run("nft", "list", "tables") for _ in steps],
    )


def main() -> int:
    """Every bench in turn."""
    if os.geteuid():
        print("bench: needs root", file=sys.stderr)
        return 3
    print(
        f"{'':42} {'best':>8} {'median':>8}      {'floor':34} {'best':>8} {'median':>8}      ratio"
    )
    inprocess.load()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XTABLES_LOCKFILE"] = str(Path(folder, "lock"))
        with new_namespace() as namespace, namespace:
            bench_ipsets()
        for backend in Backend:
            with new_namespace() as namespace, namespace:
                bench_tables(backend)
        with new_namespace() as namespace, namespace:
            bench_conntrack(Path(folder))
        with new_namespace() as namespace, namespace:
            bench_bridge()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.SubprocessError as error:
        sys.exit(f"bench: {error}")
