"""A prefix of etcd followed from member to member, each change once and in order.

In come a prefix and the revision after which to begin; out come batches.  Nothing is written.

A watch ends without further notice when its member stops, and etcd lets one begin in the future,
waiting for revisions that a restored backup may reach years later.  So each time a watch is
opened, its member first answers a read by consensus: a cluster of another id, at a lower revision,
or in a lower term of its elections than was seen before is not the one that was followed, and what
it did since can't be known.  Source: etcd api guarantees for watch; rpc.proto WatchCreateRequest.
"""

import threading
from collections.abc import Callable, Iterator

from calico_k8s.datastore.etcd import transport, wire
from calico_k8s.datastore.etcd.transport import Member, MemberFailed, Members, Stream
from calico_k8s.datastore.store import Batch, Revision
from calico_k8s.errors import StoreCompacted, StoreError, StoreForbidden


class EtcdWatcher:
    """The changes below a prefix; see :class:`~calico_k8s.datastore.store.Watcher`."""

    def __init__(
        self,
        members: Members,
        root: str,
        prefix: str,
        after: Revision,
        seen: wire.Header | None,
        on_close: Callable[["EtcdWatcher"], None],
    ) -> None:
        self._members = members
        self._key = wire.encode_key(root, prefix)
        self._end = wire.prefix_end(self._key)
        self._root_bytes = len(root)
        self._revision = after
        self._seen = seen
        self._on_close = on_close
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
                continue
            if batch:
                self._revision = batch.revision
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
        answer = watch.receive(self._root_bytes)
        self._check_going_on(answer)
        if not answer.changes:
            # a notice of progress: all changes up to there have been sent
            is_news = answer.header.revision > self._revision
            return Batch(answer.header.revision, ()) if is_news else None
        # not the header's revision: that may be ahead of changes that are still to come
        changes = tuple(c for c in answer.changes if c.mod_revision > self._revision)
        return Batch(changes[-1].mod_revision, changes) if changes else None

    def _check_going_on(self, answer: wire.WatchAnswer) -> None:
        if answer.compact_revision:
            raise StoreCompacted(
                f"changes after revision {self._revision} are gone:"
                f" etcd is compacted up to {answer.compact_revision}"
            )
        if answer.is_cancelled and "permission denied" in answer.cancel_reason:
            raise StoreForbidden("etcd does not let this certificate's user watch there")
        if answer.is_cancelled:
            raise MemberFailed(f"the watch was cancelled: {answer.cancel_reason}", is_unsent=True)

    def _reopen(self) -> Batch:
        """Watches on at the first member that takes it; says so by an empty batch."""
        watch = self._members.ask(self._open_on)
        with self._lock:
            self._open = watch
        if self._closed.is_set():  # meanwhile, so that close() has not seen it
            self._drop()
        return Batch(self._revision, ())

    def _open_on(self, member: Member) -> "_OpenWatch":
        probe = member.call(transport.RANGE, wire.encode_probe(self._key, self._end))
        self._check_history(wire.decode_range(probe, 0).header)
        watch = _OpenWatch(member, self._key, self._end, self._revision + 1)
        try:
            self._check_going_on(watch.wait_until_created(self._root_bytes))
        except (MemberFailed, StoreError):
            watch.close()
            raise
        return watch

    def _check_history(self, now: wire.Header) -> None:
        seen = self._seen
        self._seen = now
        if now.revision < self._revision:
            reason = f"is at revision {now.revision}, {self._revision} was seen before"
        elif seen and now.cluster_id != seen.cluster_id:
            reason = f"is the cluster {now.cluster_id:x}, it was {seen.cluster_id:x} before"
        elif seen and now.raft_term < seen.raft_term:
            reason = f"is in term {now.raft_term}, {seen.raft_term} was seen before"
        else:
            return
        raise StoreCompacted(f"etcd has been set back or replaced: it {reason}")

    def _drop(self) -> None:
        with self._lock:
            watch, self._open = self._open, None
        if watch:
            watch.close()


class _OpenWatch:
    """One watch at one member."""

    def __init__(self, member: Member, key: bytes, end: bytes, start_revision: int) -> None:
        self._member = member
        self._is_over = threading.Event()
        request = wire.encode_watch(key, end, start_revision)
        self._stream: Stream = member.stream(transport.WATCH, self._requests(request), None)

    def receive(self, root_bytes: int) -> wire.WatchAnswer:
        """The next answer; waits for it as long as the member answers pings."""
        try:
            return wire.decode_watch(next(self._stream), root_bytes)
        except StopIteration:
            raise MemberFailed(
                f"{self._member.endpoint}: the watch ended", is_unsent=True
            ) from None
        except transport.STREAM_ERRORS as error:
            transport.raise_for(error, self._member.endpoint)

    def wait_until_created(self, root_bytes: int) -> wire.WatchAnswer:
        """The first answer, which says that the member watches, or why not; with a time limit."""
        alarm = threading.Timer(transport.CALL_TIMEOUT_S, self.close)
        alarm.start()
        try:
            return self.receive(root_bytes)
        finally:
            alarm.cancel()

    def close(self) -> None:
        """Ends the stream; a thread that waits for its next answer gets an error."""
        self._is_over.set()
        self._stream.cancel()

    def _requests(self, request: bytes) -> Iterator[bytes]:
        yield request
        # etcd's grpc-proxy takes the end of the requests for the end of the watch
        self._is_over.wait()
