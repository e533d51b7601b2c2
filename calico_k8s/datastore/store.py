"""The door to the datastore: what every store can do, and the values that pass through it.

In come paths below ``/calico`` and raw bytes; out come snapshots at one revision, revisions, and
every change after a revision.  What the bytes mean is the codec's matter and never known here.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NewType, Protocol

import msgspec

from calico_k8s.errors import StoreError

Revision = NewType("Revision", int)
"""The number of a transaction: the store's next one is higher.  A fresh store may start anywhere."""

LeaseId = NewType("LeaseId", int)

ABSENT = Revision(0)
"""The mod revision of a key that does not exist."""

OPERATIONS_MAX = 128
"""Operations, and compares, in one transaction.  Source: etcd --max-txn-ops."""
TRANSACTION_BYTES_MAX = 1_500_000
"""Keys and values of one transaction.  Source: etcd --max-request-bytes, 1.5 MiB, less its frame."""


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A key that exists; ``mod_revision`` is of the transaction that wrote it last."""

    key: str
    value: bytes
    mod_revision: Revision


class Snapshot(msgspec.Struct, frozen=True):
    """Every entry below a prefix as of ``revision``, in the order of their keys."""

    revision: Revision
    entries: tuple[Entry, ...]


class Put(msgspec.Struct, frozen=True, gc=False):
    """Writes a value; with a lease, the key goes when the lease does."""

    key: str
    value: bytes
    lease: LeaseId | None = None


class Delete(msgspec.Struct, frozen=True, gc=False):
    """Removes a key; one that is not there is no error."""

    key: str


Operation = Put | Delete


class Compare(msgspec.Struct, frozen=True, gc=False):
    """A condition of a transaction: the key's mod revision is this one (``ABSENT``: no such key)."""

    key: str
    mod_revision: Revision


class Change(msgspec.Struct, frozen=True, gc=False):
    """What one transaction did to one key; ``value`` None is its removal."""

    key: str
    value: bytes | None
    mod_revision: Revision


class Batch(msgspec.Struct, frozen=True):
    """All changes after the batch before, up to and with ``revision``, in order.

    Invariant: a transaction's changes are never spread over two batches.  An empty batch says that
    the store is there, and that nothing below the prefix has changed up to ``revision``.
    """

    revision: Revision
    changes: tuple[Change, ...]


class Watcher(Protocol):
    """The changes below a prefix, each once and in order; belongs to one thread, except ``close``.

    The first batch comes as soon as the store answers, empty if need be.  Iteration blocks until
    there is another one, and ends after ``close``.

    Raises: StoreUnavailable when the store cannot be reached at all (watch again from the last
    batch's revision), StoreCompacted when changes after that revision can no longer be had (take a
    new snapshot).  After either the watcher is of no more use.
    """

    def __iter__(self) -> Iterator[Batch]: ...

    def __next__(self) -> Batch: ...

    def close(self) -> None:
        """Ends the iteration, from any thread, and more than once if need be."""


class Store(Protocol):
    """A key space.  Every method may be called from any thread, blocks, and has a time limit.

    Keys are paths that start with a slash; a prefix is a path's beginning, whole parts or not.

    Raises (each method): StoreUnavailable, and StoreForbidden where the store refuses the caller.
    """

    def identity(self) -> str:
        """The name of this key space's history; another one means another cluster's, or a new."""

    def read(self, prefix: str) -> Snapshot:
        """Everything below a prefix.  Cost: O(entries)."""

    def get(self, key: str) -> Entry | None:
        """One entry, as of now; None when there is none."""

    def transact(
        self, operations: Sequence[Operation], compares: Sequence[Compare] = ()
    ) -> Revision:
        """Does all operations at once, provided that all compares hold.

        Both have their limits (``check_transaction``); ``transact_in_order`` splits.

        Raises: StoreConflict when a compare does not hold: nothing was written.  StoreUncertain
        when the connection broke after sending: the transaction may be done, or may yet be.
        A compare on each written key makes a late one harmless.
        """

    def watch(self, prefix: str, after: Revision) -> Watcher:
        """Follows a prefix from a revision on: a snapshot's, or the last batch's.

        The store is first asked by the watcher's iteration, which also raises what goes wrong.
        """

    def grant_lease(self, ttl_s: int) -> LeaseId:
        """A lease that ends ``ttl_s`` seconds after it was last kept alive."""

    def keep_alive(self, lease: LeaseId) -> None:
        """Gives the lease its full time again.

        Raises: StoreLeaseLost when it has ended and its keys are gone.
        """

    def revoke_lease(self, lease: LeaseId) -> None:
        """Ends a lease and removes its keys; one that has ended already is no error."""

    def compact(self, revision: Revision) -> None:
        """Forgets the changes up to ``revision``; entries stay.  Below what is forgotten: no-op."""

    def close(self) -> None:
        """Ends every watcher and gives everything back."""


def transact_in_order(
    store: Store, operations: Iterable[Operation], compares: Sequence[Compare] = ()
) -> Revision | None:
    """Does any number of operations, in as many transactions as it takes; None for none.

    They are done in the order given, so that whoever reads in between finds a beginning of it, and
    taken as they are needed: of a generator's, one transaction is in memory at a time.
    ``compares`` go with every transaction, so no operation here may touch a compared key.

    Raises: as ``Store.transact``; the transactions before the failed one stay.
    """
    revision = None
    for chunk in _split(operations):
        revision = store.transact(chunk, compares)
    return revision


def check_transaction(operations: Sequence[Operation], compares: Sequence[Compare]) -> None:
    """Holds every store to the limits of the narrowest, so that none takes what another refuses.

    Raises: ValueError for more than OPERATIONS_MAX, or a key twice, which is the caller's mistake;
    StoreError for more than TRANSACTION_BYTES_MAX, which is somebody's huge object.
    """
    if max(len(operations), len(compares)) > OPERATIONS_MAX:
        raise ValueError(f"a transaction holds up to {OPERATIONS_MAX} operations and compares")
    if len({operation.key for operation in operations}) < len(operations):
        raise ValueError("a transaction may touch a key once")
    size_bytes = sum(map(_size_bytes, operations))
    if size_bytes > TRANSACTION_BYTES_MAX:
        raise StoreError(
            f"{size_bytes} bytes for {operations[0].key} and {len(operations) - 1} other keys are"
            f" more than the {TRANSACTION_BYTES_MAX} a transaction may have"
        )


def _split(operations: Iterable[Operation]) -> Iterator[Sequence[Operation]]:
    """Runs of operations, each as long as a transaction's limits allow, and never empty."""
    run: list[Operation] = []
    size_bytes = 0
    for operation in operations:
        size_bytes += _size_bytes(operation)
        is_full = len(run) == OPERATIONS_MAX or size_bytes > TRANSACTION_BYTES_MAX
        if is_full and run:
            yield run
            run, size_bytes = [], _size_bytes(operation)
        run.append(operation)
    if run:
        yield run


def _size_bytes(operation: Operation) -> int:
    # An operation's frame is under 32 bytes; a key of ours is ASCII.
    return len(operation.key) + 32 + (len(operation.value) if isinstance(operation, Put) else 0)
