"""etcd v3 as a :class:`~calico_k8s.datastore.store.Store`: reads, transactions, leases.

In come paths and bytes, out go values of the store's door.  Our keys live below ``root``, which is
added and taken away here, so that nobody else knows it.  Which member answers is the transport's
matter, what the bytes look like the wire's.
"""

import threading
from collections.abc import Sequence

from calico_k8s.datastore.etcd import messages, transport, wire
from calico_k8s.datastore.etcd.transport import Login, Members
from calico_k8s.datastore.etcd.watcher import EtcdWatcher, Place
from calico_k8s.datastore.location import EtcdLocation, TlsFiles
from calico_k8s.datastore.store import (
    ABSENT,
    Compare,
    Entry,
    LeaseId,
    Operation,
    Revision,
    Snapshot,
    check_transaction,
)
from calico_k8s.errors import StoreCompacted, StoreConflict, StoreLeaseLost

PAGE_TIMEOUT_S = 10.0
PAGE_BYTES = 4 << 20
"""What a page of a long read aims at: 7,000 of our entries, 30 ms."""
FIRST_PAGE_ENTRIES = 1000
SPREAD_S = 2.0
"""A proxy that ends is the end of thousands of watches: they are opened elsewhere over this time."""
READS_MAX = 3
"""A read whose revision is compacted away between its pages starts over, this many times."""


READER = "proxy-reader"
"""The user of etcd as whom everybody reads through proxies."""
READER_KEY = "/proxy-reader"
"""Holds the reader's password, for those who may read everything by their own certificates."""


class EtcdStore:
    """A key space in etcd.  Nothing is contacted before the first call.

    With ``proxies``, which are etcd's own grpc-proxy, reads of prefixes and watches go through
    them; everything else goes to the members themselves.
    """

    def __init__(
        self, location: EtcdLocation, tls: TlsFiles | None, proxies: tuple[str, ...] = ()
    ) -> None:
        if tls:
            transport.check_tls(tls)
        self._location = location
        self._tls = tls
        self._proxies = proxies
        self._root = location.root
        self._members = Members(location.endpoints, tls)
        self._readers = self._new_readers() if proxies else self._members
        self._lock = threading.Lock()
        self._watchers: set[EtcdWatcher] = set()
        self._place_by_prefix: dict[str, Place] = {}  # reached by the last read or watcher

    def identity(self) -> str:
        """The cluster's id."""
        key = wire.encode_key(self._root, "/")
        answer = self._call(transport.RANGE, wire.encode_count(key, wire.prefix_end(key)))
        return f"{wire.decode_range(answer, 0).header.cluster_id:016x}"

    def read(self, prefix: str) -> Snapshot:
        """Everything below a prefix, page by page at the first page's revision."""
        for _ in range(READS_MAX - 1):
            try:
                return self._read(prefix)
            except StoreCompacted:
                continue
        return self._read(prefix)

    def _read(self, prefix: str) -> Snapshot:
        start = wire.encode_key(self._root, prefix)
        end = wire.prefix_end(start)
        limit, revision = FIRST_PAGE_ENTRIES, Revision(0)
        entries: list[Entry] = []
        while True:
            request = wire.encode_range(start, end, limit=limit, revision=revision)
            answer = _ask(self._readers, transport.RANGE, request, PAGE_TIMEOUT_S)
            page = wire.decode_range(answer, len(self._root))
            revision = revision or page.header.revision
            entries += page.entries
            if not page.has_more:
                self._remember(prefix, page.header.cluster_id, revision, entries)
                return Snapshot(revision, tuple(entries))
            start = wire.encode_key(self._root, entries[-1].key) + b"\0"
            limit = max(1, limit * PAGE_BYTES // len(answer))

    def _remember(
        self, prefix: str, cluster_id: int, revision: Revision, entries: Sequence[Entry]
    ) -> None:
        newest = max(entries, key=lambda entry: entry.mod_revision, default=Entry("", b"", ABSENT))
        place = Place(cluster_id, revision, newest.key, newest.mod_revision)
        with self._lock:
            self._place_by_prefix[prefix] = place

    def get(self, key: str) -> Entry | None:
        """One entry."""
        request = wire.encode_range(wire.encode_key(self._root, key), b"", limit=1)
        entries = wire.decode_range(self._call(transport.RANGE, request), len(self._root)).entries
        return entries[0] if entries else None

    def transact(
        self, operations: Sequence[Operation], compares: Sequence[Compare] = ()
    ) -> Revision:
        """Does all operations at once, provided that all compares hold."""
        check_transaction(operations, compares)
        request = wire.encode_txn(self._root, operations, compares)
        answer = wire.decode_txn(
            self._members.ask(lambda member: member.call(transport.TXN, request), is_write=True)
        )
        if not answer.has_succeeded:
            keys = ", ".join(compare.key for compare in compares)
            raise StoreConflict(f"changed by another writer, so nothing was written: {keys}")
        return answer.header.revision

    def watch(self, prefix: str, after: Revision) -> EtcdWatcher:
        """Follows a prefix, over a channel of its own, so that no long read is in its way."""
        members = self._new_readers()
        spread_s = SPREAD_S if self._proxies else 0.0
        with self._lock:
            place = self._place_by_prefix.get(prefix)
            if place is None or place.revision != after:
                place = Place(place.cluster_id if place else 0, after, "", ABSENT)
            watcher = EtcdWatcher(members, self._root, prefix, place, self._on_close, spread_s)
            self._watchers.add(watcher)
        return watcher

    def _on_close(self, watcher: EtcdWatcher) -> None:
        with self._lock:
            self._watchers.discard(watcher)
            self._place_by_prefix[watcher.prefix] = watcher.place

    def grant_lease(self, ttl_s: int) -> LeaseId:
        """A lease; one that was granted but not heard of ends by itself."""
        answer = self._call(transport.LEASE_GRANT, messages.encode_lease_grant(ttl_s))
        return LeaseId(messages.decode_lease_grant(answer))

    def keep_alive(self, lease: LeaseId) -> None:
        """Gives the lease its full time again."""
        method, request = transport.LEASE_KEEP_ALIVE, messages.encode_keep_alive(lease)
        answer = self._call(method, request)
        if messages.decode_keep_alive(answer) == 0:
            raise StoreLeaseLost(f"lease {lease:x} has ended")

    def revoke_lease(self, lease: LeaseId) -> None:
        """Ends a lease; asked twice it is ended once."""
        try:
            self._call(transport.LEASE_REVOKE, messages.encode_lease_revoke(lease))
        except StoreLeaseLost:
            return

    def compact(self, revision: Revision) -> None:
        """Forgets the changes up to ``revision``."""
        try:
            self._call(transport.COMPACT, messages.encode_compaction(revision))
        except StoreCompacted:
            return

    def close(self) -> None:
        """Ends every watcher and gives everything back."""
        with self._lock:
            watchers = tuple(self._watchers)
        for watcher in watchers:
            watcher.close()
        self._readers.close()
        self._members.close()

    def _new_readers(self) -> Members:
        if not self._proxies:
            return Members(self._location.endpoints, self._tls)
        return Members(self._proxies, self._tls, self._login if self._tls else None)

    def _login(self) -> Login | None:
        entry = self.get(READER_KEY)
        return Login(READER, entry.value.decode()) if entry is not None else None

    def _call(self, method: str, request: bytes) -> bytes:
        """A call that may be repeated without harm."""
        return _ask(self._members, method, request, transport.CALL_TIMEOUT_S)


def _ask(members: Members, method: str, request: bytes, timeout_s: float) -> bytes:
    return members.ask(lambda member: member.call(method, request, timeout_s))
