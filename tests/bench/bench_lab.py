"""How long the lab takes: 40 pods on 2 nodes up, and the matrix of one port.

Out: seconds, beside their budgets; exit 1 over one. Needs root. Policy is not measured here: what
is denied is dropped by one plain rule.
"""

import subprocess
import sys
import time

from calico_k8s.lab.cluster import Cluster, cluster_up
from calico_k8s.lab.netns import entered
from calico_k8s.lab.plan import LabPlan, PodNetwork, place_of
from calico_k8s.lab.probe import Prober
from calico_k8s.lab.question import Probe
from calico_k8s.model.resources import ICMP, PROTOCOL_NAMES, Action
from tests.lab.plans import plan

PODS, NODES = 40, 2
UP_BUDGET_S = MATRIX_BUDGET_S = 5.0


def close(cluster: Cluster) -> None:
    """Has every node forward nothing any more."""
    for site in cluster.nodes.values():
        with entered(site.namespace):
            for program in ("iptables", "ip6tables"):
                subprocess.run([program, "-I", "FORWARD", "-j", "DROP"], check=True)


def matrix_s(prober: Prober, measured: LabPlan, protocol: int, port: int) -> tuple[float, int]:
    """Seconds for all pairs over IPv4, and how many of them were allowed."""
    probes = [
        Probe(place_of(source.id), target.addresses[0], port, protocol)
        for source in measured.pods
        for target in measured.pods
    ]
    start_s = time.perf_counter()
    answers = prober.probe(probes)
    taken_s = time.perf_counter() - start_s
    return taken_s, sum(answer.verdict is Action.ALLOW for answer in answers)


def main() -> int:
    """Prints the figures; 1 if one is over its budget."""
    measured = plan(PODS, NODES)
    is_slow = False
    for network in PodNetwork:
        start_s = time.perf_counter()
        with cluster_up(measured, network) as cluster, Prober(measured, cluster.places()) as prober:
            up_s = time.perf_counter() - start_s
            print(f"{network:6}  {PODS} pods on {NODES} nodes up and listening  {up_s:6.2f} s")
            is_slow |= up_s > UP_BUDGET_S
            ports = [*((each.protocol, each.port) for each in measured.listen), (ICMP, 0)]
            for is_closed in (False, True):
                if is_closed:
                    close(cluster)
                for protocol, port in ports:
                    taken_s, allowed = matrix_s(prober, measured, protocol, port)
                    name = f"{port}/{PROTOCOL_NAMES[protocol]}"
                    pairs = f"{PODS * PODS} pairs, {allowed} allowed"
                    print(f"{network:6}  {name:12} {pairs:26}  {taken_s:6.2f} s")
                    is_slow |= taken_s > MATRIX_BUDGET_S
            start_s = time.perf_counter()
        print(f"{network:6}  down {time.perf_counter() - start_s:36.2f} s")
    print(f"budgets: up {UP_BUDGET_S} s, matrix of one port {MATRIX_BUDGET_S} s")
    return int(is_slow)


if __name__ == "__main__":
    sys.exit(main())
