"""Brings the datastore to the wanted items, writing only what differs, in a safe order.

In: wanted items, whole or as changes.  Out: transactions such that whoever reads in between never
sees an endpoint whose profile, or a policy whose tier, is missing: what is referred to is written
first and deleted last.  The last transaction says when it was written.  What the items mean is
not looked at here.  Settings are an operator's and
are left alone, as is every key that is not known.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from hashlib import blake2b

import msgspec

from calico_k8s.datastore.stamp import Stamp, encode_stamp
from calico_k8s.datastore.store import (
    TRANSACTION_BYTES_MAX,
    Compare,
    Delete,
    Operation,
    Put,
    Revision,
    Store,
    transact_in_order,
)
from calico_k8s.errors import StoreError
from calico_k8s.model import codec, keys
from calico_k8s.model.keys import Key
from calico_k8s.model.resources import Ready, Value

MASS_DELETION_MIN = 100
"""From this many stored endpoints on, deleting more than half asks for a second look."""

VALUE_BYTES_MAX = TRANSACTION_BYTES_MAX - 4096
"""A value beside its key and the frame of a transaction."""

_RANK: dict[type, int] = {
    keys.SettingKey: 0,
    keys.NodeKey: 0,
    keys.TierKey: 0,
    keys.NetsetKey: 0,
    keys.ProfileLabelsKey: 0,
    keys.ProfileTagsKey: 0,
    keys.ProfileRulesKey: 0,
    keys.PolicyKey: 1,
    keys.EndpointKey: 2,
    keys.HostEndpointKey: 2,  # what is allowed first, then the endpoint that is closed otherwise
    keys.ReadyKey: 3,
}
"""The order of writing; deleting goes the other way."""

_FOLLOWED = (
    *(keys.TierKey, keys.PolicyKey, keys.NetsetKey),
    *(keys.ProfileRulesKey, keys.ProfileLabelsKey, keys.HostEndpointKey),
)
"""What is asked after once it is written."""

_KEPT = (keys.ReadyKey, keys.SettingKey)
"""What no sync deletes."""

_DIGEST_BYTES = 16
"""Of a stored value: two that differ share one by a chance of 2^-128."""


class Written(msgspec.Struct, frozen=True):
    """How many keys a call wrote and deleted, and the revision that has it all."""

    put: int
    deleted: int
    revision: Revision | None = None
    """None: nothing differed."""
    too_large: tuple[Key, ...] = ()
    """Wanted, but more than any store takes: not stored, so that what they stand for is closed."""


class Reconciler:
    """The writer of one store.

    It remembers what is stored, so that a change costs what differs and not a read.  After any
    error of the store it remembers nothing: call :meth:`sync` again.
    """

    def __init__(self, store: Store, fence: tuple[Compare, ...] = ()) -> None:
        self._store = store
        self._fence = fence
        self._stored: dict[Key, bytes] | None = None
        """A digest of each value: all that is asked of it is whether another one is the same."""
        self._revisions: dict[Key, Revision] = {}

    def revision(self, of: Iterable[Key]) -> Revision | None:
        """The revision that has all of these as they were last written; None: one is not stored.

        Known of policies, tiers, network sets and profiles.
        """
        found = [self._revisions.get(key) for key in of]
        known = [revision for revision in found if revision is not None]
        return max(known, default=None) if len(known) == len(found) else None

    def sync(
        self,
        wanted: Mapping[Key, Value],
        confirm: Callable[[], Mapping[Key, Value]] | None = None,
    ) -> Written:
        """Bring the whole store to ``wanted``, then say that it is ready.

        Where that would delete more than half of many endpoints, ``confirm`` is asked for the
        wanted items once more, from their source; an endpoint that either look still has stays.
        """
        stored = self._read(wanted)
        wanted = dict(wanted)
        if confirm is not None and _is_mass_deletion(stored, wanted):
            again = confirm()
            wanted = {**dict(again), **wanted} if _is_mass_deletion(stored, again) else dict(again)
        gone = {key for key in stored.keys() - wanted.keys() if not isinstance(key, _KEPT)}
        return self.write({**wanted, keys.ReadyKey(): Ready(True)}, gone)

    def write(
        self,
        puts: Mapping[Key, Value],
        deletes: AbstractSet[Key],
        changed_at: float | None = None,
    ) -> Written:
        """Write the puts that differ from what is stored, then the deletes that are there.

        A value that is too large is deleted: an older one of its key must not go on speaking.
        ``changed_at`` is when the oldest of the changes reached us, in seconds since the epoch.

        Raises:
            StoreError: some or all of it is not written.
        """
        stored = self._stored if self._stored is not None else self._read(puts)
        doing = _Doing()
        operations = _operations(stored, puts, deletes, changed_at, doing)
        try:
            revision = transact_in_order(self._store, operations, self._fence)
        except StoreError:
            self._stored = None
            raise
        changed, gone = doing.changed, doing.gone
        stored.update(changed)
        if revision is not None:
            self._revisions.update((key, revision) for key in changed if isinstance(key, _FOLLOWED))
        for key in gone:
            del stored[key]
            self._revisions.pop(key, None)
        return Written(len(changed), len(gone), revision, tuple(doing.too_large))

    def is_mass_deletion(self, deletes: AbstractSet[Key]) -> bool:
        """Whether a write would delete so many endpoints that a sync should look twice instead.

        Cost: O(deletes), unless these are many.
        """
        gone = sum(isinstance(key, keys.EndpointKey) for key in deletes)
        if 2 * gone < MASS_DELETION_MIN or self._stored is None:
            return False
        return _is_most(gone, sum(isinstance(key, keys.EndpointKey) for key in self._stored))

    def _read(self, wanted: Mapping[Key, Value]) -> dict[Key, bytes]:
        """What is stored, under the keys of ``wanted`` themselves where it has them: half the memory."""
        found: dict[Key, bytes] = {}
        self._revisions = {}
        kept = {key: key for key in wanted}
        for entry in self._store.read(keys.V1).entries:
            key = keys.parse_path(entry.key)
            if key is not None:
                key = kept.get(key, key)
                found[key] = _digest(entry.value)
                if isinstance(key, _FOLLOWED):
                    self._revisions[key] = entry.mod_revision
        self._stored = found
        return found


class _Doing(msgspec.Struct):
    """What a write comes to, known once it is done."""

    changed: dict[Key, bytes] = {}
    """Digests of what is written."""
    gone: list[Key] = []
    too_large: list[Key] = []


def _operations(
    stored: Mapping[Key, bytes],
    puts: Mapping[Key, Value],
    deletes: AbstractSet[Key],
    changed_at: float | None,
    doing: _Doing,
) -> Iterator[Operation]:
    """What has to be done, in a safe order; values are encoded as they are taken."""
    for _, path, key in _ranked(puts):
        raw = codec.encode(puts[key])
        digest = _digest(raw)
        if len(raw) > VALUE_BYTES_MAX:
            doing.too_large.append(key)
        elif stored.get(key) != digest:
            doing.changed[key] = digest
            yield Put(path, raw)
    for _, path, key in reversed(_ranked({*deletes, *doing.too_large})):
        if key in stored:
            doing.gone.append(key)
            yield Delete(path)
    if doing.changed or doing.gone:
        yield Put(keys.WRITTEN_PATH, encode_stamp(Stamp(time.time(), changed_at)))


def _ranked(which: Iterable[Key]) -> list[tuple[int, str, Key]]:
    """Keys with their paths, in the order of writing."""
    return sorted((_RANK[type(key)], keys.key_path(key), key) for key in which)


def _digest(raw: bytes) -> bytes:
    return blake2b(raw, digest_size=_DIGEST_BYTES).digest()


def _is_mass_deletion(stored: Mapping[Key, bytes], wanted: Mapping[Key, Value]) -> bool:
    endpoints = {key for key in stored if isinstance(key, keys.EndpointKey)}
    return _is_most(len(endpoints - wanted.keys()), len(endpoints))


def _is_most(gone: int, stored: int) -> bool:
    return stored >= MASS_DELETION_MIN and 2 * gone > stored
