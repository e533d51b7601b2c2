"""What a change of a pod, a service or a namespace costs the controller, at 10,000 pods.

`python tests/bench/bench_translate.py` prints each figure beside its budget and its floor: what
msgspec takes to decode the same pod from the API's JSON. Processor time counts.
"""

import resource
import sys
import time
from collections.abc import Callable

import msgspec

from calico_k8s.translate import objects
from calico_k8s.translate.cluster import Translator
from calico_k8s.translate.namespaces import FLAG, TranslateSettings
from tests.bench.figure import Figure, Floor, record

PODS = 10_000
NAMESPACES = 100
SERVICES = 1_000
CHANGES = 2_000
CHANGES_PER_SECOND = 1_000
"""The controller's budget for all that a pod change takes; translation may take a tenth."""
SHARE = 0.1
RESIDENT_MB_MAX = 200


def pod(number: int, generation: int = 0) -> objects.Pod:
    labels = {"app": f"a{number % 50}", "tier": f"t{number % 5}", "pod": f"p{number}"}
    policy = f"allow tcp from label app=a{number % 20} to port {number % 100 + 1}"
    return objects.Pod(
        objects.Metadata(
            name=f"p{number}",
            namespace=f"n{number % NAMESPACES}",
            labels=labels | ({"version": str(generation)} if generation else {}),
            annotations={"policy": policy} if number % 2 else None,
        ),
        objects.PodSpec(
            node_name=f"node-{number % 100}",
            containers=(objects.Container((objects.ContainerPort(80, "http"),)),),
        ),
        objects.PodStatus("Running", f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"),
    )


def service(number: int) -> objects.Service:
    metadata = objects.Metadata(
        name=f"s{number}", namespace=f"n{number % NAMESPACES}", labels={FLAG: "open"}
    )
    selector = {"app": f"a{number % 50}"}
    return objects.Service(
        metadata, objects.ServiceSpec(selector=selector, ports=(objects.ServicePort(80),))
    )


def seconds(work: Callable[[], None]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def load(translator: Translator, pods: list[objects.Pod]) -> None:
    for number in range(NAMESPACES):
        translator.update(objects.Namespace(objects.Metadata(name=f"n{number}")))
    for number in range(SERVICES):
        translator.update(service(number))
    for value in pods:
        translator.update(value)
    translator.flush()


def tell(translator: Translator, pods: list[objects.Pod]) -> None:
    for value in pods:
        translator.update(value)
        translator.flush()


def decode(encoded: list[bytes]) -> None:
    for raw in encoded:
        msgspec.json.decode(raw, type=objects.Pod)


def main() -> int:
    translator = Translator(TranslateSettings())
    pods = [pod(number) for number in range(PODS)]
    relabelled = [pod(number, generation=1) for number in range(CHANGES)]
    encoded = [msgspec.json.encode(value) for value in relabelled]
    first = seconds(lambda: load(translator, pods))
    print(f"{PODS:,} pods, {SERVICES:,} services, first translation: {first:.2f} s")
    floor = seconds(lambda: decode(encoded)) / CHANGES
    changed = seconds(lambda: tell(translator, relabelled)) / CHANGES
    same = seconds(lambda: tell(translator, relabelled)) / CHANGES
    budget = SHARE / CHANGES_PER_SECOND
    record(
        Figure(
            "a label, translated", changed * 1e6, 0, Floor("decoding it", floor * 1e6), unit="us"
        )
    )
    print(f"decoding a pod (floor):        {floor * 1e6:7.1f} us")
    print(f"a pod's label changes:         {changed * 1e6:7.1f} us, budget {budget * 1e6:.0f} us")
    print(f"a pod is told again, the same: {same * 1e6:7.1f} us")
    resident_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"resident: {resident_mb:.0f} MB, budget {RESIDENT_MB_MAX} MB")
    return 0 if changed < budget and resident_mb < RESIDENT_MB_MAX else 1


if __name__ == "__main__":
    sys.exit(main())
