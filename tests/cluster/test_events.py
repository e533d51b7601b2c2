"""Events in a real API server: said again while they are true, and no longer."""

import time
from collections.abc import Iterator

import msgspec
import pytest

from calico_k8s.controller import events
from calico_k8s.controller.events import Announcer
from calico_k8s.translate.findings import Code, Finding, ObjectRef, Severity, make_finding
from calico_k8s.translate.references import PORT_UNKNOWN
from tests.cluster.controllers import wait_for
from tests.cluster.objects import KubeObjects

pytestmark = pytest.mark.cluster


@pytest.fixture
def results() -> list[str]:
    return []


@pytest.fixture
def announcer(
    objects: KubeObjects, results: list[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Announcer]:
    monkeypatch.setattr(events, "REPEAT_S", 0.1)
    started = Announcer(objects.api, "tests", results.append)
    started.start()
    yield started
    started.close()


def counts(objects: KubeObjects, namespace: str) -> list[int]:
    found = msgspec.json.decode(objects.api.get(f"/api/v1/namespaces/{namespace}/events"))
    return [each["count"] for each in found["items"]]


def test_a_finding_is_one_event_that_counts_up_until_it_is_mended(
    announcer: Announcer, objects: KubeObjects, results: list[str], namespace: str
) -> None:
    pod = ObjectRef("Pod", namespace, "web")
    finding = make_finding(Code.ANNOTATION_KEYS, "two keys", pod)
    announcer.tell(pod, "uid", (finding,))
    wait_for(lambda: counts(objects, namespace) and counts(objects, namespace)[0] >= 3)
    announcer.tell(pod, "uid", ())
    seen = len(results)
    announcer.tell(pod._replace(kind="Node"), "uid", (finding,))
    wait_for(lambda: not announcer._due_s)
    (now,) = counts(objects, namespace)
    assert (results[0], set(results[1:])) == ("created", {"repeated"})
    assert len(results) <= seen + 1
    assert now >= 3


def test_what_may_only_wait_for_its_pods_is_told_when_it_lasts(
    announcer: Announcer, objects: KubeObjects, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    early, late = (ObjectRef("NetworkPolicy", namespace, name) for name in ("early", "late"))
    announcer.tell(early, "uid", (waiting_for_a_port(early),))
    assert announcer._due_s[early] - time.monotonic() > events.SETTLE_S / 2
    announcer.tell(early, "uid", ())  # it came
    monkeypatch.setattr(events, "SETTLE_S", 0.1)
    announcer.tell(late, "uid", (waiting_for_a_port(late),))
    wait_for(lambda: counts(objects, namespace))
    assert len(counts(objects, namespace)) == 1


def waiting_for_a_port(policy: ObjectRef) -> Finding:
    return Finding(PORT_UNKNOWN, Severity.WARNING, "no pod has such a port", policy)


def test_a_namespace_that_is_not_there_stops_nobody(
    announcer: Announcer, objects: KubeObjects, results: list[str], namespace: str
) -> None:
    for name in ("no-such-namespace", namespace):
        pod = ObjectRef("Pod", name, "web")
        announcer.tell(pod, "uid", (make_finding(Code.FLAG_VALUE, "wrong", pod),))
    wait_for(lambda: counts(objects, namespace))
    assert "refused" in results
