"""The loop on a server that lies: most endpoints go only when two looks at Kubernetes agree."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from calico_k8s.controller import reflector as reflectors
from calico_k8s.controller.events import Announcer
from calico_k8s.controller.fence import Writer, claim
from calico_k8s.controller.metrics import Metrics
from calico_k8s.controller.run import Loop, Parts
from calico_k8s.datastore.factory import open_store
from calico_k8s.datastore.store import Compare, Operation, Put, Revision, Store
from calico_k8s.errors import Deposed, StoreConflict, StoreUncertain, UnavailableError
from calico_k8s.translate.namespaces import TranslateSettings
from tests.fakes.kube_server import Exchange, fake_kube, gone, listed, pod, watched

PODS = 150


class Cluster:
    """Answers each list of pods with the next of some numbers, the last for ever."""

    def __init__(self, *sizes: int) -> None:
        self._sizes = list(sizes)
        self._lock = threading.Lock()
        self.lists = 0
        self.ends_watch = threading.Event()

    def answer(self, exchange: Exchange) -> None:
        is_pods = exchange.path.startswith("/api/v1/pods")
        if "watch" in exchange.query:
            if is_pods:
                exchange.begin()
                self.ends_watch.wait(20)
                self.ends_watch.clear()
                verb, status = gone()
                exchange.send(json.dumps({"type": verb, "object": status}).encode() + b"\n")
                exchange.send(b"")
            else:
                watched(stays=True)(exchange)
        elif is_pods:
            with self._lock:
                size = self._sizes.pop(0) if len(self._sizes) > 1 else self._sizes[0]
                self.lists += 1
            listed(*(pod(f"web-{number}", 1) for number in range(size)), revision=7)(exchange)
        else:
            listed(revision=7)(exchange)


@contextmanager
def looping(cluster: Cluster, store: Store) -> Iterator[tuple[Loop, Metrics, list[Exception]]]:
    errors: list[Exception] = []
    with fake_kube(*[cluster.answer] * 1000) as kube:
        metrics = Metrics()
        announcer = Announcer(kube.api, "me", lambda _result: None)
        announcer.start()
        fence = claim(store, "cluster", lambda _before: Writer("me"))
        loop = Loop(Parts(kube.api, store, fence, metrics, announcer, TranslateSettings()))

        def run() -> None:
            try:
                loop.run()
            except UnavailableError as error:
                errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield loop, metrics, errors
        finally:
            loop.stop()
            cluster.ends_watch.set()
            thread.join(20)
            announcer.close()
            assert not thread.is_alive()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(open_store(f"sqlite://{tmp_path}/state.db")) as opened:
        yield opened


class Late:
    """A store that says of one transaction that nobody knows, and does it when told to."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.is_armed = False
        self.kept: tuple[Sequence[Operation], Sequence[Compare]] | None = None

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def transact(
        self, operations: Sequence[Operation], compares: Sequence[Compare] = ()
    ) -> Revision:
        if self.is_armed:
            self.is_armed, self.kept = False, (operations, compares)
            raise StoreUncertain("the connection broke")
        return self._store.transact(operations, compares)


def count(store: Store) -> int:
    return sum("/workload/" in entry.key for entry in store.read("/v1/host/").entries)


def wait_for(condition: Callable[[], object]) -> None:
    give_up_at = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < give_up_at, "it did not come to that"
        time.sleep(0.01)


def test_a_list_that_lacks_most_pods_is_not_believed_alone(store: Store) -> None:
    cluster = Cluster(PODS, 3, PODS)
    with looping(cluster, store) as (loop, metrics, _):
        wait_for(lambda: loop.problem() is None and count(store) == PODS)
        cluster.ends_watch.set()  # the next list has three
        wait_for(lambda: cluster.lists >= 4)  # the second look, and the reflector's again
        held = metrics.registry.get_sample_value(
            "calico_k8s_controller_mass_deletions_checked_total"
        )
        assert held == 1
        assert count(store) == PODS


def test_most_pods_go_when_two_lists_agree(store: Store) -> None:
    cluster = Cluster(PODS, 3)
    with looping(cluster, store) as (loop, _, _):
        wait_for(lambda: loop.problem() is None and count(store) == PODS)
        cluster.ends_watch.set()
        wait_for(lambda: count(store) == 3)


def test_a_loop_whose_right_is_gone_ends(store: Store) -> None:
    cluster = Cluster(1, 2)
    with looping(cluster, store) as (loop, _, errors):
        wait_for(lambda: loop.problem() is None and count(store) == 1)
        claim(store, "cluster", lambda _before: Writer("another"))
        cluster.ends_watch.set()  # a second pod: something to write
        wait_for(lambda: errors)
        assert isinstance(errors[0], Deposed)
        assert count(store) == 1


def test_a_write_that_comes_late_is_not_done_any_more(store: Store) -> None:
    cluster, late = Cluster(1, 2, 1), Late(store)
    with looping(cluster, late) as (loop, _, _):  # type: ignore[arg-type]  # the rest by __getattr__
        wait_for(lambda: loop.problem() is None and count(store) == 1)
        late.is_armed = True
        cluster.ends_watch.set()  # a second pod: its write is lost
        wait_for(lambda: late.kept and loop.problem() is None and count(store) == 2)
        cluster.ends_watch.set()  # and it is gone again
        wait_for(lambda: loop.problem() is None and count(store) == 1)
        assert late.kept is not None
        with pytest.raises(StoreConflict):
            store.transact(*late.kept)
        assert count(store) == 1


def test_what_somebody_else_changed_is_put_right_by_the_next_comparison(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("calico_k8s.controller.run.RESYNC_S", 0.2)
    with looping(Cluster(1), store) as (loop, metrics, _):
        wait_for(lambda: loop.problem() is None and count(store) == 1)
        (entry,) = (e for e in store.read("/v1/host/").entries if "/workload/" in e.key)
        store.transact([Put(entry.key, json.dumps({"addresses": []}).encode())])
        wait_for(lambda: (now := store.get(entry.key)) and now.value == entry.value)
        drift = metrics.registry.get_sample_value("calico_k8s_controller_drift_repaired_total")
        assert drift == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_ends_by_a_mistake_ends_the_loop(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mistaken(*_: object) -> None:
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(reflectors, "list_pages", mistaken)
    with looping(Cluster(1), store) as (_, _, errors):
        wait_for(lambda: errors)
        assert "a thread has ended" in str(errors[0])
