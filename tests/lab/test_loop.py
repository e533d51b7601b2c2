"""Deeds happen on the loop's thread, in time, input first; its end is told to who waits."""

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from functools import partial

import pytest

from calico_k8s.errors import InputError
from calico_k8s.lab.loop import READABLE, Loop, LoopStopped


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.stop()


def test_a_deed_is_done_on_the_loops_thread_and_gives_its_result(loop: Loop) -> None:
    assert loop.call(threading.get_ident) not in (0, threading.get_ident())


def test_what_a_deed_raises_reaches_who_asked_and_the_loop_goes_on(loop: Loop) -> None:
    def refuse() -> None:
        raise InputError("no")

    with pytest.raises(InputError, match="no"):
        loop.call(refuse)
    assert loop.call(lambda: 1) == 1


def test_timers_come_in_order_and_not_when_cancelled(loop: Loop) -> None:
    seen: list[str] = []
    finished: Future[None] = Future()

    def plan() -> None:
        now = time.monotonic()
        loop.at(now + 0.03, lambda: finished.set_result(None))
        loop.at(now + 0.02, lambda: seen.append("second"))
        loop.at(now + 0.01, lambda: seen.append("first"))
        loop.at(now + 0.015, lambda: seen.append("never")).cancel()

    loop.call(plan)
    loop.wait(finished, 5)
    assert seen == ["first", "second"]


def test_an_answer_that_has_arrived_is_seen_before_its_time_limit(loop: Loop) -> None:
    near, far = socket.socketpair()
    seen: list[str] = []
    finished: Future[None] = Future()

    def read(_events: int) -> None:
        near.recv(10)
        seen.append("answer")

    def plan() -> None:
        loop.watch(near, READABLE, read)
        loop.at(time.monotonic() + 0.01, lambda: seen.append("limit"))
        loop.at(time.monotonic() + 0.02, lambda: finished.set_result(None))
        far.send(b".")
        time.sleep(0.05)  # the thread is held up past both: the limit is long due

    loop.call(plan)
    loop.wait(finished, 5)
    loop.call(lambda: loop.unwatch(near))
    near.close()
    far.close()
    assert seen == ["answer", "limit"]
    assert loop.call(loop.take_lag_s) >= 0.03
    assert loop.call(loop.take_lag_s) < 0.03


def test_an_answer_that_the_loop_itself_gives_late_is_seen_before_its_time_limit(
    loop: Loop,
) -> None:
    """A thread that was held up has both the question before it and the limit behind it."""
    near, far = socket.socketpair()
    seen: list[str] = []
    finished: Future[None] = Future()

    def answer(_events: int) -> None:
        far.send(far.recv(10))

    def read(_events: int) -> None:
        near.recv(10)
        seen.append("answer")

    def plan() -> None:
        loop.watch(far, READABLE, answer)
        loop.watch(near, READABLE, read)
        loop.at(time.monotonic() + 0.01, lambda: seen.append("limit"))
        loop.at(time.monotonic() + 0.02, lambda: finished.set_result(None))
        near.send(b".")
        time.sleep(0.05)

    loop.call(plan)
    loop.wait(finished, 60)
    for each in (near, far):
        loop.call(partial(loop.unwatch, each))
    near.close()
    far.close()
    assert seen == ["answer", "limit"]


def test_a_number_that_is_used_again_does_not_get_the_events_of_who_had_it(loop: Loop) -> None:
    pairs = [socket.socketpair() for _ in range(2)]
    opened: list[socket.socket] = []
    wrong: list[int] = []

    def swap(index: int) -> None:
        """Whoever is first closes the other, whose number the next socket gets."""
        other = pairs[1 - index][0]
        number = other.fileno()
        pairs[index][0].recv(10)
        loop.unwatch(other)
        other.close()
        new = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        opened.append(new)
        assert new.fileno() == number
        loop.watch(new, READABLE, wrong.append)

    def plan() -> None:
        loop.watch(pairs[0][0], READABLE, lambda _events: swap(0))
        loop.watch(pairs[1][0], READABLE, lambda _events: swap(1))
        for _, far in pairs:
            far.send(b".")

    loop.call(plan)
    loop.call(lambda: None)
    loop.call(lambda: loop.unwatch(opened[0]))
    for each in (*(side for pair in pairs for side in pair), *opened):
        each.close()
    assert len(opened) == 1
    assert wrong == []


def test_waiting_ends_with_its_time(loop: Loop) -> None:
    with pytest.raises(TimeoutError):
        loop.wait(Future(), 0.01)


def test_who_waits_for_a_loop_that_has_ended_is_told(loop: Loop) -> None:
    loop.stop()
    loop.stop()
    with pytest.raises(LoopStopped, match="have ended"):
        loop.wait(Future())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_fault_in_the_loop_is_the_cause_that_is_told(loop: Loop) -> None:
    def fault() -> None:
        raise ZeroDivisionError

    with pytest.raises(LoopStopped) as told:
        loop.call(fault)
    assert isinstance(told.value.__cause__, ZeroDivisionError)
