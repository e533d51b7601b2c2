"""Lists and watches of the Kubernetes API, decoded."""

import json

import pytest

from calico_k8s.controller.wire import DEFINED, PATHS, KindDecoder, ref_of, uid_of
from calico_k8s.errors import KubeError, KubeExpired, KubeUnavailable
from calico_k8s.translate.findings import ObjectRef
from calico_k8s.translate.objects import KINDS, Decoded
from tests.fakes.kube_server import pod

PODS = KindDecoder("Pod")


def page(*objects: object, **metadata: str) -> bytes:
    return json.dumps({"metadata": metadata, "items": objects}).encode()


def line(verb: str, document: object) -> bytes:
    return json.dumps({"type": verb, "object": document}).encode()


def test_every_kind_is_listed_in_the_group_that_it_is_of() -> None:
    assert PATHS.keys() == KINDS.keys()
    for kind, path in PATHS.items():
        assert path.startswith(f"/apis/{KINDS[kind].group}/" if KINDS[kind].group else "/api/v1/")


def test_what_every_cluster_has_needs_no_definition() -> None:
    always = {"", "discovery.k8s.io", "networking.k8s.io"}
    assert {kind for kind, info in KINDS.items() if info.group not in always} == DEFINED


@pytest.mark.parametrize("kind", PATHS)
def test_an_empty_list_of_any_kind_is_read(kind: str) -> None:
    assert KindDecoder(kind).page(b'{"metadata":{"resourceVersion":"3"},"items":null}') == (
        (),
        "3",
        "",
    )


def test_a_page_has_its_objects_its_revision_and_what_leads_to_the_next() -> None:
    found = PODS.page(page(pod("a", 1), resourceVersion="5", **{"continue": "token"}))
    assert (found.objects[0].ref, found.revision, found.rest) == (
        ObjectRef("Pod", "shop", "a"),
        "5",
        "token",
    )
    assert uid_of(found.objects[0]) == "uid-a"


def test_an_object_that_is_not_understood_is_found_and_the_others_are_used() -> None:
    found = PODS.page(page(pod("a", 1), pod("b", 2, hostNetwork="perhaps"), resourceVersion="5"))
    good, bad = found.objects
    assert good.object is not None
    assert bad.object is None
    assert bad.ref == ObjectRef("Pod", "shop", "b")
    assert "hostNetwork" in bad.findings[0].message
    assert uid_of(bad) == ""


def test_events_are_what_is_there_what_is_gone_and_how_far_it_reaches() -> None:
    lines = [line(verb, pod("a", 8)) for verb in ("ADDED", "MODIFIED", "DELETED")]
    added, modified, deleted = map(PODS.event, lines)
    assert isinstance(added, Decoded)
    assert modified == added
    assert deleted == ref_of(added) == ObjectRef("Pod", "shop", "a")
    assert [PODS.revision(each) for each in lines] == ["8", "8", "8"]
    bookmark = line("BOOKMARK", {"kind": "Pod", "metadata": {"resourceVersion": "9"}})
    assert (PODS.event(bookmark), PODS.revision(bookmark)) == (None, "9")


def test_an_object_of_a_watch_that_is_not_understood_is_found_until_it_is_gone() -> None:
    bad = pod("b", 9, hostNetwork="perhaps")
    found = PODS.event(line("MODIFIED", bad))
    assert isinstance(found, Decoded)
    assert found.object is None
    assert "hostNetwork" in found.findings[0].message
    assert PODS.event(line("DELETED", bad)) == found.ref


@pytest.mark.parametrize("raw", [b"", b'{"type":"ADDED","object":{}}', b"<html>"])
def test_a_line_that_does_not_say_how_far_it_reaches_makes_a_list_due(raw: bytes) -> None:
    assert not PODS.revision(raw)


@pytest.mark.parametrize(
    ("code", "error"), [(410, KubeExpired), (500, KubeUnavailable), (400, KubeError)]
)
def test_an_error_in_a_watch_is_raised_with_the_words_of_the_server(
    code: int, error: type[KubeError]
) -> None:
    with pytest.raises(error, match=f"{code}: so it is"):
        PODS.event(line("ERROR", {"kind": "Status", "code": code, "message": "so it is"}))


@pytest.mark.parametrize("raw", [b"", b"<html>", b'{"type":"ADDED"}', b"[]", b"\xff\xfe"])
def test_what_is_no_answer_is_a_server_that_cannot_be_reached(raw: bytes) -> None:
    with pytest.raises(KubeUnavailable, match="not readable"):
        PODS.event(raw)
    with pytest.raises(KubeUnavailable, match="not readable"):
        PODS.page(raw)
