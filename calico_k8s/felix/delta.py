"""Desired against programmed, with the difference kept as each changes.  Pure.

In: what should be there, key by key, and what is.  Out: the keys to write and the keys to
delete, at a cost of what differs and not of what there is.  Nothing is applied here: the caller
writes, then says what it wrote.
"""

from collections.abc import Hashable, Iterable, KeysView, Mapping
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class DeltaTracker(Generic[Key, Value]):
    """Two maps and their difference.

    Invariant: ``updates`` are the keys whose desired value the programmed one is missing or
    other than; ``deletes`` are the keys programmed and not desired.  Cost of each single change: O(1).
    """

    def __init__(self) -> None:
        self._desired: dict[Key, Value] = {}
        self._programmed: dict[Key, Value] = {}
        self._updates: dict[Key, None] = {}
        self._deletes: dict[Key, None] = {}

    @property
    def desired(self) -> Mapping[Key, Value]:
        """What should be there; a live view."""
        return self._desired

    @property
    def programmed(self) -> Mapping[Key, Value]:
        """What is there, as far as is known; a live view."""
        return self._programmed

    @property
    def updates(self) -> KeysView[Key]:
        """Keys to write, in the order they came to differ; a live view: copy it before writing."""
        return self._updates.keys()

    @property
    def deletes(self) -> KeysView[Key]:
        """Keys to delete, in the order they came to differ; a live view."""
        return self._deletes.keys()

    @property
    def is_in_sync(self) -> bool:
        """Nothing to write and nothing to delete."""
        return not self._updates and not self._deletes

    def set_desired(self, key: Key, value: Value) -> None:
        """The key should be there with this value."""
        self._desired[key] = value
        self._compare(key)

    def drop_desired(self, key: Key) -> None:
        """The key should not be there; no error when it was not desired."""
        self._desired.pop(key, None)
        self._compare(key)

    def replace_desired(self, desired: Mapping[Key, Value]) -> None:
        """Exactly these should be there."""
        if not (self._desired or self._programmed):
            self._desired = dict(desired)
            self._updates = dict.fromkeys(desired)
            return
        for key in [key for key in self._desired if key not in desired]:
            self.drop_desired(key)
        for key, value in desired.items():
            self.set_desired(key, value)

    def mark_programmed(self, key: Key) -> None:
        """The key was written with its desired value."""
        self._programmed[key] = self._desired[key]
        self._compare(key)

    def mark_all_programmed(self) -> None:
        """Everything that differed was written with its desired value.  Cost: O(updates)."""
        desired, programmed = self._desired, self._programmed
        for key in self._updates:
            programmed[key] = desired[key]
        self._updates.clear()

    def note_programmed(self, key: Key, value: Value) -> None:
        """The key was written with this value, whatever is desired."""
        self._programmed[key] = value
        self._compare(key)

    def mark_deleted(self, keys: Iterable[Key]) -> None:
        """The keys are no longer there."""
        for key in list(keys):
            self._programmed.pop(key, None)
            self._compare(key)

    def replace_programmed(self, programmed: Mapping[Key, Value]) -> int:
        """The whole was read back; how many keys were other than believed."""
        drifted = 0
        for key in [key for key in self._programmed if key not in programmed]:
            del self._programmed[key]
            self._compare(key)
            drifted += 1
        for key, value in programmed.items():
            if key not in self._programmed or self._programmed[key] != value:
                self._programmed[key] = value
                self._compare(key)
                drifted += 1
        return drifted

    def _compare(self, key: Key) -> None:
        is_desired, is_programmed = key in self._desired, key in self._programmed
        self._updates.pop(key, None)
        if not is_desired and is_programmed:
            self._deletes.setdefault(key)
            return
        self._deletes.pop(key, None)
        if is_desired and not (is_programmed and self._programmed[key] == self._desired[key]):
            self._updates[key] = None
