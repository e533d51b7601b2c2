"""The right to write the datastore: one controller's at a time, and only its own cluster's.

In: who claims it, with what the Lease says of the claim.  Out: compares that every transaction of
the holder carries, or an error that says who else holds it.  What is written is not known here.

``/v1/leader`` names the writer.  Whoever claims it writes it by compare-and-swap and takes the mod
revision of that write as the fence: the next claim changes it, and from then on every transaction
of the writer before is refused, however late it comes.  The writer itself changes it after a
transaction whose end it does not know, so that it cannot be done after the store has been read
again.  ``/v1/cluster`` names the cluster whose policy the store holds.
"""

from collections.abc import Callable

import msgspec

from calico_k8s.datastore.store import ABSENT, Compare, Entry, Put, Revision, Store
from calico_k8s.errors import Deposed, StoreConflict, StoreForeign, StoreUncertain
from calico_k8s.model.keys import CLUSTER_PATH, LEADER_PATH

CLAIMS_MAX = 5
"""Tries of a compare-and-swap that others win, or that end uncertain."""


class Writer(msgspec.Struct, frozen=True):
    """Who writes: ``/v1/leader``."""

    identity: str
    """Of one process, never used again."""
    lease_uid: str = ""
    """Of the Lease by which it was elected; empty for a controller that was told to write."""
    transitions: int = 0
    """How often that Lease had changed hands."""


class StoredCluster(msgspec.Struct, frozen=True):
    """``/v1/cluster``."""

    uid: str
    """Of its namespace kube-system."""


class Fence:
    """The right to write, once claimed."""

    def __init__(self, store: Store, writer: Writer, revision: Revision) -> None:
        self._store = store
        self._writer = writer
        self._revision = revision

    @property
    def compares(self) -> tuple[Compare, ...]:
        """What every transaction compares."""
        return (Compare(LEADER_PATH, self._revision),)

    def check(self) -> None:
        """Nothing, while the right is still ours.

        Raises: Deposed, StoreError.
        """
        _ours(self._store.get(LEADER_PATH), self._writer)

    def renew(self) -> None:
        """Makes every transaction sent before now one that is done already, or never will be.

        Raises: Deposed; StoreError, and then it must be renewed again before anything is written.
        """
        for _ in range(CLAIMS_MAX):
            entry = _ours(self._store.get(LEADER_PATH), self._writer)
            compare = Compare(LEADER_PATH, entry.mod_revision)
            try:
                self._revision = self._store.transact([Put(LEADER_PATH, entry.value)], [compare])
            except (StoreConflict, StoreUncertain):
                continue  # the key says who was faster: another, or a write of ours that came late
            return
        raise StoreUncertain("the datastore does not say whether it has done what was sent to it")


def claim(store: Store, cluster_uid: str, writer_after: Callable[[Writer | None], Writer]) -> Fence:
    """Makes a controller the writer.

    ``writer_after`` is given the writer before and says who is to be the next: it is called after
    the key was read, so that a Lease it reads is not older than the key, and raises where the
    Lease is no longer held.

    Raises: StoreForeign where the store is another cluster's; StoreError.
    """
    for _ in range(CLAIMS_MAX):
        cluster = check_cluster(store, cluster_uid)
        entry = store.get(LEADER_PATH)
        writer = writer_after(_decode(entry))
        if entry is not None and _decode(entry) == writer:  # a claim whose answer was lost
            fence = Fence(store, writer, entry.mod_revision)
            fence.renew()
            return fence
        operations = [Put(LEADER_PATH, msgspec.json.encode(writer))]
        if cluster == ABSENT:
            operations.append(Put(CLUSTER_PATH, msgspec.json.encode(StoredCluster(cluster_uid))))
        compares = [
            Compare(LEADER_PATH, entry.mod_revision if entry else ABSENT),
            Compare(CLUSTER_PATH, cluster),
        ]
        try:
            return Fence(store, writer, store.transact(operations, compares))
        except (StoreConflict, StoreUncertain):
            continue
    raise StoreUncertain("the right to write the datastore could not be had: others claim it too")


def check_cluster(store: Store, cluster_uid: str) -> Revision:
    """The mod revision of the key that names the cluster.

    Raises: StoreForeign where it names another one; StoreError.
    """
    entry = store.get(CLUSTER_PATH)
    if entry is None:
        return ABSENT
    try:
        known = msgspec.json.decode(entry.value, type=StoredCluster).uid
    except (msgspec.DecodeError, UnicodeDecodeError):
        known = entry.value.decode(errors="replace")
    if known != cluster_uid:
        raise StoreForeign(
            f"the datastore holds the policy of another cluster: its kube-system has the UID"
            f" {known}, here it is {cluster_uid}; give each cluster its own --datastore path, or"
            f" delete the key {CLUSTER_PATH} below it if that cluster is no more"
        )
    return entry.mod_revision


def _decode(entry: Entry | None) -> Writer | None:
    """None also for what is no writer: nobody who reads it as one can be fenced by it."""
    try:
        return msgspec.json.decode(entry.value, type=Writer) if entry else None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _ours(entry: Entry | None, writer: Writer) -> Entry:
    found = _decode(entry)
    if entry is None or found != writer:
        by = f"controller {found.identity}" if found else "somebody who removed its key"
        raise Deposed(f"{by} has taken over writing the datastore, so this one ends")
    return entry
