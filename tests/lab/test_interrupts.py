"""Signals unwind as exceptions do, and wait while something is being removed."""

import signal
import threading

import pytest

from calico_k8s.lab.interrupts import exit_on_signals, interrupts_deferred


def raise_inside(number: signal.Signals) -> None:
    with exit_on_signals():
        signal.raise_signal(number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_an_ending_signal_unwinds_and_its_handler_is_put_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as ended:
        raise_inside(number)
    assert ended.value.code == 128 + number
    assert signal.getsignal(number) == before


def interrupt_inside(seen: list[str]) -> None:
    with interrupts_deferred():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        seen.append("removed")


def test_an_interrupt_waits_for_the_end_of_a_removal() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        interrupt_inside(seen)
    assert seen == ["removed"]
    assert signal.getsignal(signal.SIGINT) == before


def test_other_threads_change_no_handler() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    seen: list[object] = []

    def run() -> None:
        with exit_on_signals(), interrupts_deferred():
            seen.extend(signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == before
