"""The inbox: the last state of each object, all at once, when the loop asks."""

import threading
import time

from calico_k8s.controller.inbox import Inbox
from calico_k8s.translate.findings import ObjectRef
from calico_k8s.translate.objects import Decoded, Metadata, Pod

A, B = ObjectRef("Pod", "shop", "a"), ObjectRef("Pod", "shop", "b")


def there(ref: ObjectRef, uid: str = "") -> Decoded:
    return Decoded(ref, Pod(Metadata(ref.name, ref.namespace, uid=uid)))


def test_the_last_change_of_each_object_is_taken_and_only_once() -> None:
    inbox = Inbox(["Pod"])
    inbox.on_changes([there(A, "1"), there(B), there(A, "2")])
    inbox.on_changes([B])
    assert inbox.take(0).changes == {A: there(A, "2"), B: B}
    assert inbox.take(0).changes == {}


def test_it_is_complete_when_every_kind_has_been_listed() -> None:
    inbox = Inbox(["Pod", "Node"])
    inbox.on_listed("Pod")
    assert not inbox.take(0).is_complete
    inbox.on_listed("Node")
    assert inbox.take(0).is_complete
    assert inbox.take(0).is_complete


def test_the_time_is_of_the_oldest_change() -> None:
    inbox = Inbox(["Pod"])
    assert inbox.take(0).first_s is None
    before_s = time.monotonic()
    inbox.on_changes([A])
    after_s = time.monotonic()
    inbox.on_changes([B])
    first_s = inbox.take(0).first_s
    assert first_s is not None
    assert before_s <= first_s <= after_s


def test_waiting_ends_with_a_change_a_list_or_a_call() -> None:
    for end in (
        lambda inbox: inbox.on_changes([A]),
        lambda inbox: inbox.on_listed("Pod"),
        lambda inbox: inbox.wake(),
    ):
        inbox = Inbox(["Pod"])
        threading.Timer(0.05, end, [inbox]).start()
        started_s = time.monotonic()
        inbox.take(10)
        assert time.monotonic() - started_s < 5


def test_whoever_takes_meanwhile_misses_nothing_and_is_not_woken_for_nothing() -> None:
    inbox, refs = Inbox(["Pod"]), [ObjectRef("Pod", "shop", f"p{n}") for n in range(2000)]

    def add() -> None:
        for ref in refs:
            inbox.on_changes([ref])

    thread = threading.Thread(target=add)
    thread.start()
    taken: set[ObjectRef] = set()
    give_up_at_s = time.monotonic() + 30
    while len(taken) < len(refs):
        assert time.monotonic() < give_up_at_s
        for timeout_s in (0, 0.0001, 1):
            taken |= inbox.take(timeout_s if thread.is_alive() else 0).changes.keys()
    thread.join()
    started_s = time.monotonic()
    assert inbox.take(0.05).changes == {}
    assert time.monotonic() - started_s >= 0.05
