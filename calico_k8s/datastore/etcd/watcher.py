"""A prefix of etcd followed from member to member, each change once and in order.

In come a prefix and the revision after which to begin; out come batches.  Nothing is written.

A watch ends without further notice when its member stops, and etcd lets one begin in the future,
waiting for revisions that a restored backup may reach years later, as other revisions.  So each
time a watch is opened, its member is first asked, by consensus, for the newest change that was
seen, as of the revision that was reached: a cluster of another id, at a lower revision, or without
that change there is not the one that was followed, and what it did since can't be known.
Source: etcd's API guarantees; rpc.proto, WatchCreateRequest.
"""

import random
import threading
from collections.abc import Callable, Iterator

import msgspec

from calico_k8s.datastore.etcd import transport, wire
from calico_k8s.datastore.etcd.transport import Member, MemberFailed, Members
from calico_k8s.datastore.store import ABSENT, Batch, Revision
from calico_k8s.errors import StoreCompacted, StoreError, StoreForbidden


class Place(msgspec.Struct, frozen=True):
    """A place in a cluster's history, known by the newest change below a prefix.

    As of ``revision`` the key has that mod revision, ABSENT when the change was a removal; an empty
    key where nothing is known of the prefix.
    """

    cluster_id: int
    revision: Revision
    key: str
    mod_revision: Revision


class EtcdWatcher:
    """The changes below a prefix; see :class:`~calico_k8s.datastore.store.Watcher`."""

    def __init__(
        self,
        members: Members,
        root: str,
        prefix: str,
        after: Place,
        on_close: Callable[["EtcdWatcher"], None],
        spread_s: float = 0.0,
    ) -> None:
        self.prefix = prefix
        self.place = after
        """How far it is; changed by the thread that iterates."""
        self._members = members
        self._root = root
        self._key = wire.encode_key(root, prefix)
        self._end = wire.prefix_end(self._key)
        self._on_close = on_close
        self._spread_s = spread_s
        self._has_failed = False
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._open: _OpenWatch | None = None

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        while not self._closed.is_set():
            try:
                batch = self._receive(self._open) if self._open else self._reopen()
            except StoreError:
                if self._closed.is_set():
                    break
                self.close()
                raise
            except MemberFailed:
                self._drop()
                self._has_failed = True
                continue
            if batch:
                return batch
        raise StopIteration

    def close(self) -> None:
        """Ends the iteration, from any thread."""
        self._closed.set()
        self._drop()
        self._members.close()
        self._on_close(self)

    def _receive(self, watch: "_OpenWatch") -> Batch | None:
        """The next batch; None for an answer that says nothing new."""
        answer = watch.receive(len(self._root))
        self._check_going_on(answer)
        changes = tuple(c for c in answer.changes if c.mod_revision > self.place.revision)
        if changes:
            # not the header's revision: that may be ahead of changes that are still to come
            revision, last = changes[-1].mod_revision, changes[-1]
            mod_revision = ABSENT if last.value is None else revision
            self.place = Place(self.place.cluster_id, revision, last.key, mod_revision)
            return Batch(revision, changes)
        if answer.header.revision > self.place.revision and not answer.changes:
            # a notice of progress: all changes up to there have been sent
            self.place = msgspec.structs.replace(self.place, revision=answer.header.revision)
            return Batch(self.place.revision, ())
        return None

    def _check_going_on(self, answer: wire.WatchAnswer) -> None:
        if answer.compact_revision:
            raise StoreCompacted(
                f"changes after revision {self.place.revision} are gone:"
                f" etcd is compacted up to {answer.compact_revision}"
            )
        if answer.is_cancelled and "permission denied" in answer.cancel_reason:
            raise StoreForbidden("etcd does not let this certificate's user watch there")
        if answer.is_cancelled:
            raise MemberFailed(f"the watch was cancelled: {answer.cancel_reason}", is_unsent=True)

    def _reopen(self) -> Batch:
        """Watches on at the first member that takes it; says so by an empty batch."""
        if self._has_failed:
            self._closed.wait(random.uniform(0, self._spread_s))
        watch = self._members.ask(self._open_on)
        with self._lock:
            self._open = watch
        if self._closed.is_set():  # meanwhile, so that close() has not seen it
            self._drop()
        return Batch(self.place.revision, ())

    def _open_on(self, member: Member) -> "_OpenWatch":
        self._find_place(member)
        watch = _OpenWatch(member, self._key, self._end, self.place.revision + 1)
        try:
            # The first says that the member watches, or why not.
            self._check_going_on(watch.receive(len(self._root), transport.CALL_TIMEOUT_S))
        except (MemberFailed, StoreError):
            watch.close()
            raise
        return watch

    def _find_place(self, member: Member) -> None:
        """Checks that the member's history is the one that was followed.

        Raises: StoreCompacted when it is not, or the revision reached is compacted or to come.
        """
        place = self.place
        if place.key:
            key = wire.encode_key(self._root, place.key)
            request = wire.encode_range(key, b"", limit=1, revision=place.revision)
        else:
            request = wire.encode_count(self._key, self._end)
        answer = wire.decode_range(member.call(transport.RANGE, request), len(self._root))
        now = answer.header
        found = answer.entries[0].mod_revision if answer.entries else ABSENT
        if place.cluster_id not in (0, now.cluster_id):
            reason = f"it is the cluster {now.cluster_id:x}, not {place.cluster_id:x}"
        elif now.revision < place.revision:
            reason = f"it is at revision {now.revision}, {place.revision} was seen before"
        elif place.key and found != place.mod_revision:
            reason = f"at revision {place.revision}, {place.key} is of another revision than seen"
        else:
            self.place = msgspec.structs.replace(place, cluster_id=now.cluster_id)
            return
        raise StoreCompacted(f"etcd has been set back or replaced: {reason}")

    def _drop(self) -> None:
        """Gives up the open watch, and its member, which may be silent rather than gone."""
        with self._lock:
            watch, self._open = self._open, None
        if watch:
            watch.close()
            self._members.leave(watch.member)


class _OpenWatch:
    """One watch at one member."""

    def __init__(self, member: Member, key: bytes, end: bytes, start_revision: int) -> None:
        self.member = member
        self._stream = member.watch(wire.encode_watch(key, end, start_revision))

    def receive(self, root_bytes: int, timeout_s: float | None = None) -> wire.WatchAnswer:
        """The next answer; without a limit waits for it as long as the member answers pings."""
        return wire.decode_watch(self._stream.receive(timeout_s), root_bytes)

    def close(self) -> None:
        """Ends the stream; a thread that waits for its next answer gets an error."""
        self._stream.cancel()
