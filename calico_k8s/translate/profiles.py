"""Which profiles are wanted, and what each holds.

In: who holds a profile and what is in it.  Out: the profiles that a change concerns and their
items.  A profile is wanted while somebody holds it: the endpoints that name it, or the object it
is made of.  Its content is what its object defines, else what its holders bring.
"""

from collections.abc import Callable

from calico_k8s.model import keys
from calico_k8s.model.names import ProfileId
from calico_k8s.translate.workloads import ProfileItems

NO_ITEMS: ProfileItems = {}


class ProfileBook:
    """Profiles by id, with the number of their holders.  Cost: O(1) for each call."""

    def __init__(self) -> None:
        self._holders: dict[ProfileId, int] = {}
        self._brought: dict[ProfileId, ProfileItems] = {}
        self._defined: dict[ProfileId, ProfileItems] = {}
        self._dirty: set[ProfileId] = set()

    def hold(self, profile: ProfileId, bring: Callable[[], ProfileItems]) -> None:
        """One more holder; every holder of a profile brings the same items, and the first is asked."""
        holders = self._holders.get(profile, 0)
        self._holders[profile] = holders + 1
        if not holders:
            self._brought[profile] = bring()
            self._dirty.add(profile)

    def release(self, profile: ProfileId) -> None:
        """One holder less."""
        self._holders[profile] -= 1
        if not self._holders[profile]:
            del self._holders[profile], self._brought[profile]
            self._dirty.add(profile)

    def define(self, profile: ProfileId, items: ProfileItems) -> None:
        """What the profile's object says it holds."""
        self._defined[profile] = items
        self._dirty.add(profile)

    def undefine(self, profile: ProfileId) -> None:
        """The profile's object is gone: what its holders brought is its content again."""
        if self._defined.pop(profile, None) is not None:
            self._dirty.add(profile)

    def items(self, profile: ProfileId) -> ProfileItems:
        """What the profile holds; nothing where nobody wants it."""
        if profile not in self._holders:
            return NO_ITEMS
        return self._defined.get(profile, self._brought[profile])

    def take_dirty(self) -> set[ProfileId]:
        """The profiles that may have changed since the last call."""
        dirty, self._dirty = self._dirty, set()
        return dirty


def profile_keys(profile: ProfileId) -> tuple[keys.Key, ...]:
    """Every key that a profile's items can stand under."""
    return (
        keys.ProfileRulesKey(profile),
        keys.ProfileTagsKey(profile),
        keys.ProfileLabelsKey(profile),
    )
