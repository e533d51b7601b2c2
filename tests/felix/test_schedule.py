"""Timers of the loop: one moment for each task, and the tasks that are due in their order."""

import pytest

from calico_k8s.felix.schedule import Schedule, Task


def test_a_task_stands_once_and_its_last_moment_holds() -> None:
    schedule = Schedule()
    schedule.at(Task.TELL, 5.0)
    schedule.at(Task.TELL, 9.0)
    assert list(schedule.take_due(8.0)) == []
    assert list(schedule.take_due(9.0)) == [Task.TELL]
    assert list(schedule.take_due(9.0)) == []


@pytest.mark.parametrize(("first_s", "second_s"), [(5.0, 9.0), (9.0, 5.0)])
def test_by_takes_the_earlier_moment(first_s: float, second_s: float) -> None:
    schedule = Schedule()
    schedule.by(Task.SAVE, first_s)
    schedule.by(Task.SAVE, second_s)
    assert schedule.wait_s(4.0) == 1.0


def test_what_is_due_longest_comes_first() -> None:
    schedule = Schedule()
    schedule.at(Task.TELL, 3.0)
    schedule.at(Task.RESYNC, 1.0)
    schedule.at(Task.SAVE, 7.0)
    assert list(schedule.take_due(5.0)) == [Task.RESYNC, Task.TELL]


def test_a_task_may_be_set_again_while_the_due_ones_are_taken() -> None:
    schedule = Schedule()
    schedule.at(Task.TELL, 1.0)
    for task in schedule.take_due(1.0):
        schedule.at(task, 2.0)
    assert list(schedule.take_due(2.0)) == [Task.TELL]


def test_nothing_to_wait_for_is_none_and_something_late_is_zero() -> None:
    schedule = Schedule()
    assert schedule.wait_s(1.0) is None
    schedule.at(Task.TELL, 1.0)
    assert schedule.wait_s(4.0) == 0.0
    schedule.cancel(Task.TELL)
    assert schedule.wait_s(4.0) is None
