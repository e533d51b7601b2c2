"""How long the definition takes for a matrix of 200 pods and 3 ports, beside what it does least.

`python tests/bench/bench_matrix.py` prints seconds and cells a second for three clusters: open, so
that one rule decides; with a few statements on every second pod; and with twenty selectors on every
pod, which is more than people write. Processor time counts: the machine may be busy otherwise.
"""

import json
import sys
import time

from calico_k8s.policy.snapshot import Snapshot
from calico_k8s.query.matrix import compute_matrix, parse_service
from calico_k8s.sources.documents import read_text
from calico_k8s.sources.expand import expand
from calico_k8s.translate.cluster import translate_all

PODS = 200
PORTS = ("80/tcp", "81/tcp", "443/tcp")
BUDGET_S = 10.0

SELECTOR = "allow tcp from selector (app in {{'a{}', 'b'}} && tier == 'x' || has(v{})) to port {}"
LABEL = "allow tcp from label app=a{} to port {}"


def policy(number: int, statements: int, template: str) -> str:
    """A policy of some statements, unlike those of the pods beside it."""
    return "; ".join(
        template.format(number % 20, each, 80 + each)
        if template is SELECTOR
        else template.format((number + each) % 20, 80 + each)
        for each in range(statements)
    )


def snapshot(statements: int, every: int, template: str) -> Snapshot:
    """The cluster, in five namespaces; every so many-th pod has a policy."""
    pods = [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"p{number}",
                "namespace": f"n{number % 5}",
                "labels": {"app": f"a{number % 20}", "tier": "y"},
                "annotations": {"policy": policy(number, statements, template)}
                if statements and number % every == 0
                else {},
            },
        }
        for number in range(PODS)
    ]
    listed = json.dumps({"kind": "List", "apiVersion": "v1", "items": pods})
    cluster = expand(read_text(listed, "bench").manifests)
    return Snapshot.from_items(translate_all(cluster.objects()).items)


def main() -> int:
    """Prints the figures; 1 if one is over its budget."""
    services = tuple(parse_service(port) for port in PORTS)
    slowest_s = 0.0
    for name, cluster in (
        ("open (floor)", snapshot(0, 1, LABEL)),
        ("8 labels on every second", snapshot(8, 2, LABEL)),
        ("20 selectors on each", snapshot(20, 1, SELECTOR)),
    ):
        start_s = time.process_time()
        cells = len(compute_matrix(cluster, services).probes)
        took_s = time.process_time() - start_s
        slowest_s = max(slowest_s, took_s)
        print(f"{name:<26} {took_s:6.2f} s  {cells / took_s:9.0f} cells/s  (budget {BUDGET_S} s)")
    return 0 if slowest_s <= BUDGET_S else 1


if __name__ == "__main__":
    sys.exit(main())
