"""Flags: both places, every value, defaults."""

import pytest

from calico_k8s.model.names import TagName
from calico_k8s.model.resources import EntityMatch
from calico_k8s.translate.findings import Code, Severity
from calico_k8s.translate.namespaces import (
    FLAG,
    Flag,
    TranslateSettings,
    read_namespace,
    unknown_namespace,
)
from calico_k8s.translate.objects import Metadata, Namespace


def namespace(
    name: str = "prod", label: str | None = None, annotation: str | None = None
) -> Namespace:
    labels = {} if label is None else {FLAG: label}
    annotations = {} if annotation is None else {FLAG: annotation}
    return Namespace(Metadata(name=name, labels=labels, annotations=annotations))


@pytest.mark.parametrize(
    ("label", "annotation", "default", "flag", "codes"),
    [
        (None, None, "open", "open", []),
        (None, None, "closed", "closed", []),
        ("open", None, "closed", "open", []),
        (None, "closed", "open", "closed", []),
        ("closed", "closed", "open", "closed", []),
        ("open", "closed", "open", "closed", [Code.FLAG_CONFLICT]),
        ("closed", "open", "open", "open", [Code.FLAG_CONFLICT]),
        ("Open", None, "open", "closed", [Code.FLAG_VALUE]),
        (None, "", "open", "closed", [Code.FLAG_VALUE]),
        ("open", "opne", "open", "closed", [Code.FLAG_CONFLICT, Code.FLAG_VALUE]),
    ],
)
def test_the_annotation_holds_then_the_label_then_the_default(
    label: str | None, annotation: str | None, default: Flag, flag: Flag, codes: list[Code]
) -> None:
    settings = TranslateSettings(default_namespace_policy=default)
    reading = read_namespace(namespace(label=label, annotation=annotation), settings)
    assert reading.flag == flag
    assert [finding.code for finding in reading.findings] == codes


@pytest.mark.parametrize(("label", "flag"), [(None, "open"), ("closed", "closed"), ("x", "closed")])
def test_the_system_namespace_is_open_unless_it_says_otherwise(
    label: str | None, flag: Flag
) -> None:
    settings = TranslateSettings(default_namespace_policy="closed")
    assert read_namespace(namespace("kube-system", label=label), settings).flag == flag


def test_a_closed_namespace_lets_its_own_pods_in_and_an_open_one_everybody() -> None:
    closed = read_namespace(namespace(label="closed"), TranslateSettings()).rules.ingress
    opened = read_namespace(namespace(label="open"), TranslateSettings()).rules.ingress
    assert [rule.src for rule in closed] == [EntityMatch(tag=TagName("namespace_prod"))]
    assert [rule.src for rule in opened] == [EntityMatch()]


def test_pods_inherit_the_namespace_s_labels_and_name() -> None:
    reading = read_namespace(namespace(label="open"), TranslateSettings())
    assert reading.labels.labels == {
        f"pcns.{FLAG}": "open",
        "pcns.projectcalico.org/name": "prod",
        "projectcalico.org/ingress-given-by": "flag",
    }


def test_a_namespace_that_is_not_there_is_closed() -> None:
    reading = unknown_namespace("prod")
    assert reading.flag == "closed"
    assert reading.labels.labels == {"pcns.projectcalico.org/name": "prod"}


def test_a_wrong_flag_is_an_error_that_says_what_becomes_of_it() -> None:
    (finding,) = read_namespace(namespace(annotation="shut"), TranslateSettings()).findings
    assert finding.severity is Severity.ERROR
    assert finding.path == ("metadata", "annotations", FLAG)
    assert finding.message == (
        "projectcalico-policy is 'shut', so the namespace is closed: give 'open' or 'closed'"
    )
