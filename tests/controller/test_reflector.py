"""A reflector on a server that fails in every way: what it hands on is what there is."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest

from calico_k8s.controller import reflector as reflectors
from calico_k8s.controller.kube import KubeApi
from calico_k8s.controller.reflector import NEW_WATCH_S, Pause, Reflector, ReflectorState
from calico_k8s.controller.wire import Change, ref_of
from calico_k8s.errors import (
    KubeError,
    KubeExpired,
    KubeForbidden,
    KubeNotFound,
    KubeUnavailable,
)
from calico_k8s.translate.objects import Decoded
from tests.fakes.kube_server import (
    Answer,
    FakeKube,
    fake_kube,
    gone,
    listed,
    pod,
    refused,
    watched,
)


class Recorder:
    """A sink and an observer: what is known of the pods, and how it came to be."""

    def __init__(self) -> None:
        self.changes: list[str] = []
        self.names: set[str] = set()
        self.lists = 0
        self.absences: list[str] = []
        self.errors: list[type[KubeError]] = []

    def on_changes(self, changes: Sequence[Change]) -> None:
        for change in changes:
            name = ref_of(change).name
            if isinstance(change, Decoded):
                self.names.add(name)
                self.changes.append(f"+{name}")
            else:
                self.names.discard(name)
                self.changes.append(f"-{name}")

    def on_listed(self, kind: str) -> None:  # noqa: ARG002 - the sink's
        self.lists += 1

    def on_list(self, kind: str, objects: int, duration_s: float) -> None: ...

    def on_absent(self, kind: str) -> None:
        self.absences.append(kind)

    def on_event(self, kind: str) -> None: ...

    def on_error(self, kind: str, error: KubeError) -> None:  # noqa: ARG002 - the observer's
        self.errors.append(type(error))


@contextmanager
def reflecting(*steps: Answer, kind: str = "Pod") -> Iterator[tuple[Recorder, Reflector, FakeKube]]:
    recorder = Recorder()
    with fake_kube(*steps) as kube:
        reflector = Reflector(kube.api, kind, recorder, recorder)
        reflector.start()
        try:
            yield recorder, reflector, kube
        finally:
            reflector.close()


def wait_for(condition: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < give_up_at, "it did not come to that"
        time.sleep(0.005)


def test_pages_are_one_list_and_the_watch_goes_on_from_its_revision() -> None:
    with reflecting(
        listed(pod("a", 1), revision=7, rest="more"),
        listed(pod("b", 2), revision=7),
        watched(("ADDED", pod("c", 8)), ("DELETED", pod("a", 9)), stays=True),
    ) as (recorder, reflector, kube):
        wait_for(lambda: recorder.names == {"b", "c"})
        assert recorder.changes == ["+a", "+b", "+c", "-a"]
        assert recorder.lists == 1
        assert reflector.state is ReflectorState.WATCHING
        asked = kube.asked
        assert [query.get("continue") for query in asked] == [None, "more", None]
        assert asked[2]["resourceVersion"] == "7"
        assert asked[2]["allowWatchBookmarks"] == "true"


def test_a_watch_that_ends_or_breaks_goes_on_where_it_was_bookmarks_included() -> None:
    bookmark = {"metadata": {"resourceVersion": "20"}}
    with reflecting(
        listed(revision=7),
        watched(("ADDED", pod("a", 8)), cut=True),
        watched(("BOOKMARK", bookmark)),
        watched(("ADDED", pod("b", 21)), stays=True),
    ) as (recorder, _, kube):
        wait_for(lambda: recorder.names == {"a", "b"})
        assert recorder.lists == 1
        revisions = [query["resourceVersion"] for query in kube.asked if "watch" in query]
        assert revisions == ["7", "8", "20"]


@pytest.mark.parametrize("how", ["event", "status"])
def test_a_revision_that_is_gone_ends_in_a_list_that_tells_what_went_meanwhile(how: str) -> None:
    lost = watched(gone()) if how == "event" else refused(410, "too old resource version")
    with reflecting(
        listed(pod("a", 1), pod("b", 2), revision=7),
        lost,
        listed(pod("b", 2), pod("c", 9), revision=10),
        watched(stays=True),
    ) as (recorder, _, _):
        wait_for(lambda: recorder.lists == 2)
        assert recorder.names == {"b", "c"}
        assert recorder.changes[-1] == "-a", "what is gone is told after what is there"
        assert recorder.errors == [KubeExpired]


def test_a_list_whose_rest_has_expired_starts_over_and_takes_nothing_away() -> None:
    with reflecting(
        listed(pod("a", 1), pod("b", 2), revision=7),
        watched(gone()),
        listed(pod("b", 2), revision=10, rest="more"),
        refused(410, "the continue token is too old"),
        listed(pod("b", 2), revision=11, rest="more"),
        listed(pod("a", 1), revision=11),
        watched(stays=True),
    ) as (recorder, _, _):
        wait_for(lambda: recorder.lists == 2)
        assert recorder.names == {"a", "b"}
        assert "-a" not in recorder.changes


def test_what_only_a_half_list_had_is_gone_when_a_whole_one_lacks_it() -> None:
    with reflecting(
        listed(pod("a", 1), revision=7, rest="more"),
        refused(410, "the continue token is too old"),
        listed(pod("b", 2), revision=9),
        watched(stays=True),
    ) as (recorder, _, _):
        wait_for(lambda: recorder.lists == 1)
        assert recorder.names == {"b"}


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reflector that asks again at once for what is not there."""
    monkeypatch.setattr(reflectors, "ABSENT_S", (0.05, 0.1))
    monkeypatch.setattr(reflectors, "BELIEVED_S", 0.5)


def tier(name: str, revision: int) -> dict[str, object]:
    return {"metadata": {"name": name, "resourceVersion": str(revision)}}


@pytest.mark.usefixtures("hasty")
def test_a_kind_that_is_not_there_is_an_empty_list_until_it_comes() -> None:
    with reflecting(
        *[refused(404, "not found")] * 3,
        listed(tier("security", 1), revision=7),
        watched(stays=True),
        kind="Tier",
    ) as (recorder, reflector, _):
        wait_for(lambda: recorder.lists >= 1)
        assert recorder.names == set()
        wait_for(lambda: reflector.state is ReflectorState.WATCHING)
        assert recorder.names == {"security"}
        assert (recorder.lists, recorder.absences) == (2, ["Tier"]), "told once, not each time"
        assert recorder.errors == []


@pytest.mark.usefixtures("hasty")
def test_a_kind_that_returns_is_followed_again_by_short_watches_at_first() -> None:
    with reflecting(
        listed(tier("security", 1), revision=7),
        *[refused(404, "not found")] * 10,
        listed(tier("back", 9), revision=11),
        watched(("ADDED", tier("later", 12))),
        watched(stays=True),
        kind="Tier",
    ) as (recorder, _, kube):
        wait_for(lambda: len(watches(kube)) == 3)
        assert recorder.changes == ["+security", "-security", "+back", "+later"]
        assert [length <= NEW_WATCH_S[1] for length in watches(kube)] == [False, True, True]


def watches(kube: FakeKube) -> list[int]:
    """How long each watch was asked for."""
    return [int(each["timeoutSeconds"]) for each in kube.asked if "watch" in each]


@pytest.mark.usefixtures("hasty")
def test_a_kind_that_goes_takes_its_objects_with_it() -> None:
    with reflecting(
        listed(tier("security", 1), revision=7), *[refused(404, "not found")] * 50, kind="Tier"
    ) as (recorder, reflector, _):
        wait_for(lambda: reflector.state is ReflectorState.ABSENT)
        assert recorder.changes == ["+security", "-security"]
        assert set(recorder.errors) == {KubeNotFound}


def test_a_server_that_has_not_heard_of_a_kind_yet_takes_nothing_away() -> None:
    with reflecting(
        listed(tier("security", 1), revision=7),
        refused(404, "not found"),
        refused(404, "not found"),
        listed(tier("security", 1), revision=7),
        watched(stays=True),
        kind="Tier",
    ) as (recorder, _, _):
        wait_for(lambda: recorder.lists == 2)
        assert "-security" not in recorder.changes
        assert recorder.absences == []


@pytest.mark.usefixtures("hasty")
def test_a_kind_that_every_cluster_has_is_never_believed_to_be_missing() -> None:
    with reflecting(*[refused(404, "not found")] * 50) as (recorder, reflector, _):
        wait_for(lambda: len(recorder.errors) >= 5)
        assert reflector.state is not ReflectorState.ABSENT
        assert recorder.lists == 0


def test_a_server_that_answers_each_watch_with_gone_is_asked_ever_less_often() -> None:
    storm = [step for _ in range(50) for step in (listed(revision=7), watched(gone()))]
    with reflecting(*storm) as (recorder, _, kube):
        time.sleep(1.5)
        assert len(recorder.errors) < 12
        assert len(kube.asked) < 25
        wait_for(lambda: len(recorder.errors) > 2)


def test_a_refusal_is_told_and_asked_again() -> None:
    with reflecting(
        refused(403, "pods is forbidden"), listed(pod("a", 1), revision=7), watched(stays=True)
    ) as (recorder, reflector, _):
        wait_for(lambda: reflector.state is ReflectorState.WATCHING)
        assert recorder.errors == [KubeForbidden]
        assert recorder.names == {"a"}


def test_an_answer_of_something_else_is_an_error_and_no_empty_list() -> None:
    with reflecting(
        listed(pod("a", 1), revision=7),
        watched(gone()),
        lambda exchange: exchange.say(200, b"<html>a proxy's page</html>"),
        lambda exchange: exchange.say(200, b'{"metadata": {}, "items": [{"metadata"'),
        listed(pod("a", 1), revision=8),
        watched(stays=True),
    ) as (recorder, _, _):
        wait_for(lambda: recorder.lists == 2)
        assert recorder.names == {"a"}
        assert recorder.errors == [KubeExpired, KubeUnavailable, KubeUnavailable]


def test_a_pod_that_cannot_be_used_is_told_as_such_and_takes_no_other_with_it() -> None:
    broken = pod("broken", 2, containers=[{"name": "x", "ports": [{"containerPort": 99999}]}])
    with reflecting(
        listed(pod("a", 1), broken, revision=7), watched(("MODIFIED", broken), stays=True)
    ) as (recorder, _, _):
        wait_for(lambda: recorder.changes.count("+broken") == 2)
        assert recorder.names == {"a", "broken"}
        assert recorder.errors == []


def test_listing_again_is_done_when_asked_for() -> None:
    with reflecting(
        listed(pod("a", 1), revision=7),
        watched(stays=True),
        listed(revision=8),
        watched(stays=True),
    ) as (recorder, reflector, _):
        wait_for(lambda: reflector.state is ReflectorState.WATCHING)
        reflector.list_again()
        wait_for(lambda: recorder.lists == 2)
        assert recorder.names == set()


def test_closing_does_not_wait_for_a_silent_server() -> None:
    with reflecting(listed(revision=7), watched(stays=True)) as (_, reflector, _):
        wait_for(lambda: reflector.state is ReflectorState.WATCHING)
        started_s = time.monotonic()
        reflector.close()
        assert time.monotonic() - started_s < 20, "a watch may be silent for minutes"


def test_a_server_that_is_not_there_is_waited_for() -> None:
    recorder = Recorder()
    with fake_kube() as kube:
        api: KubeApi = kube.api
    reflector = Reflector(api, "Pod", recorder, recorder)
    reflector.start()
    wait_for(lambda: len(recorder.errors) >= 2)
    assert reflector.state is ReflectorState.WAITING
    assert recorder.lists == 0
    reflector.close()


def test_pauses_grow_to_a_bound_and_start_over() -> None:
    pause = Pause(first_s=1.0, longest_s=8.0)
    times = [pause.next_s() for _ in range(6)]
    bounds = [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
    assert all(bound / 2 <= each <= bound for each, bound in zip(times, bounds, strict=True))
    pause.reset()
    assert pause.next_s() <= 1.0
