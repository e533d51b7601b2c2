"""What is to be done when: the timers of the loop.  Pure: the time is an argument."""

from collections.abc import Iterator
from enum import Enum, auto


class Task(Enum):
    """Something that the loop does later, or again and again."""

    RETRY = auto()
    """Try again after a failed write."""
    CHECK_PLACE = auto()
    """Look whether our jumps and rules are where they should be."""
    RESYNC = auto()
    """Compare everything with the kernel."""
    COLLECT = auto()
    """Drop retired groups and sets."""
    JUDGE = auto()
    """Judge a portion of the live flows that wait for it."""
    JUDGE_AGAIN = auto()
    """Judge the live flows of changed endpoints once more."""
    TELL = auto()
    """Write status."""
    SAVE = auto()
    """Write the state that a rebooted node starts from."""
    LISTEN = auto()
    """Look again for what the kernel tells of denied packets."""
    COUNT = auto()
    """Read how many packets were denied, where not all were told."""
    PREPARE = auto()
    """Load what makes later writes quicker."""


class Schedule:
    """Each task's next moment, in seconds of one clock; a task stands at most once."""

    def __init__(self) -> None:
        self._due: dict[Task, float] = {}

    def at(self, task: Task, moment_s: float) -> None:
        """Do the task at that moment, instead of when it was due."""
        self._due[task] = moment_s

    def by(self, task: Task, moment_s: float) -> None:
        """Do the task at that moment at the latest."""
        self._due[task] = min(moment_s, self._due.get(task, moment_s))

    def cancel(self, task: Task) -> None:
        """Do the task no more."""
        self._due.pop(task, None)

    def take_due(self, now_s: float) -> Iterator[Task]:
        """The tasks whose moment has come, the longest due first; each is taken out."""
        for task, moment_s in sorted(self._due.items(), key=lambda item: item[1]):
            if moment_s <= now_s:
                del self._due[task]
                yield task

    def wait_s(self, now_s: float) -> float | None:
        """How long until the next task; None where there is none."""
        return max(0.0, min(self._due.values()) - now_s) if self._due else None
