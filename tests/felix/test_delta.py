"""Desired against programmed: the kept difference is the difference, whatever happened."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from calico_k8s.felix.delta import DeltaTracker

KEYS = st.sampled_from("abcde")
VALUES = st.integers(0, 2)
MAPS = st.dictionaries(KEYS, VALUES)


class DifferenceMachine(RuleBasedStateMachine):
    """Random histories beside two plain dictionaries."""

    def __init__(self) -> None:
        super().__init__()
        self.tracker: DeltaTracker[str, int] = DeltaTracker()
        self.desired: dict[str, int] = {}
        self.programmed: dict[str, int] = {}

    @rule(key=KEYS, value=VALUES)
    def desire(self, key: str, value: int) -> None:
        self.tracker.set_desired(key, value)
        self.desired[key] = value

    @rule(key=KEYS)
    def drop(self, key: str) -> None:
        self.tracker.drop_desired(key)
        self.desired.pop(key, None)

    @rule(wanted=MAPS)
    def desire_exactly(self, wanted: dict[str, int]) -> None:
        self.tracker.replace_desired(wanted)
        self.desired = dict(wanted)

    @rule(held=MAPS)
    def read_back(self, held: dict[str, int]) -> None:
        other = {
            key
            for key in self.programmed.keys() | held.keys()
            if self.programmed.get(key) != held.get(key)
        }
        assert self.tracker.replace_programmed(held) == len(other)
        self.programmed = dict(held)

    @rule()
    def write_one(self) -> None:
        for key in list(self.tracker.updates)[:1]:
            self.tracker.mark_programmed(key)
            self.programmed[key] = self.desired[key]

    @rule()
    def write_all(self) -> None:
        self.tracker.mark_all_programmed()
        self.programmed |= self.desired

    @rule()
    def delete_all(self) -> None:
        for key in self.tracker.deletes:
            self.programmed.pop(key)
        self.tracker.mark_deleted(self.tracker.deletes)

    @invariant()
    def the_kept_difference_is_the_difference(self) -> None:
        differs = {k for k, v in self.desired.items() if self.programmed.get(k) != v}
        assert set(self.tracker.updates) == differs
        assert set(self.tracker.deletes) == self.programmed.keys() - self.desired.keys()
        assert self.tracker.is_in_sync == (self.desired == self.programmed)
        assert dict(self.tracker.desired) == self.desired
        assert dict(self.tracker.programmed) == self.programmed


TestDifference = DifferenceMachine.TestCase


def test_a_key_that_comes_to_differ_again_is_written_after_those_that_waited() -> None:
    tracker: DeltaTracker[str, int] = DeltaTracker()
    tracker.set_desired("a", 1)
    tracker.set_desired("b", 1)
    tracker.mark_programmed("a")
    tracker.set_desired("a", 2)
    assert list(tracker.updates) == ["b", "a"]
