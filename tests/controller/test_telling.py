"""Findings of several sources about one object are one whole to whoever is told."""

from calico_k8s.controller.events import Announcer
from calico_k8s.controller.metrics import PREFIX, Metrics
from calico_k8s.controller.telling import Source, Teller
from calico_k8s.translate.findings import Code, Finding, ObjectRef, Severity, make_finding

POD = ObjectRef("Pod", "shop", "web")
SYNTAX = make_finding(Code.ANNOTATION_SYNTAX, "no", POD)
NODE = Finding("not-enforced", Severity.ERROR, "no interface", POD)


class Told(Announcer):
    """What would become Events."""

    def __init__(self) -> None:
        self.now: list[tuple[str, tuple[str, ...]]] = []

    def tell(self, ref: ObjectRef, uid: str, findings: tuple[Finding, ...]) -> None:  # noqa: ARG002 - one object
        self.now.append((uid, tuple(each.code for each in findings)))


def test_one_source_does_not_silence_another() -> None:
    metrics, told = Metrics(), Told()
    teller = Teller(metrics, told)
    teller.tell(Source.NODE, POD, "u", (NODE,))
    teller.tell(Source.TRANSLATION, POD, "u", (SYNTAX,))
    teller.tell(Source.NODE, POD, "", ())
    teller.tell(Source.TRANSLATION, POD, "", ())
    teller.tell(Source.NODE, POD, "", ())
    assert told.now == [
        ("u", ("not-enforced",)),
        ("u", ("annotation-syntax", "not-enforced")),
        ("u", ("annotation-syntax",)),
        ("u", ()),
        ("", ()),
    ]
    labels = {"code": "annotation-syntax", "kind": "Pod", "namespace": "shop"}
    assert metrics.registry.get_sample_value(f"{PREFIX}_findings", labels) == 0
