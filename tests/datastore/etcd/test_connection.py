"""A connection to a real etcd, and to peers that do what no etcd does."""

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from calico_k8s.datastore.etcd import transport, wire
from calico_k8s.datastore.etcd.connection import Connection, ConnectionFailed, Refused
from calico_k8s.datastore.etcd.transport import Member
from calico_k8s.datastore.store import Put
from tests.datastore.followers import wait_until
from tests.etcd.certificates import Authority
from tests.etcd.servers import EtcdCluster, etcd_cluster

TIMEOUT_S = 10.0
SETTINGS = struct.pack(">IBI", 4, 0, 0)  # a frame without any: its length is 0, its kind 4


@contextmanager
def peer(behave: Callable[[socket.socket], object]) -> Iterator[str]:
    """A server that does this to whoever comes, and where it is."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def run() -> None:
            here, _ = listening.accept()
            with here:
                here.settimeout(TIMEOUT_S)
                behave(here)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield f"127.0.0.1:{listening.getsockname()[1]}"
        finally:
            thread.join()


def reset(here: socket.socket) -> None:
    """Ends it as one who has crashed."""
    here.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def says(said: bytes) -> Callable[[socket.socket], None]:
    """Says this, and listens until the other end has gone."""

    def behave(here: socket.socket) -> None:
        here.sendall(said)
        while here.recv(1 << 16):
            pass

    return behave


@contextmanager
def connected(endpoint: str) -> Iterator[Connection]:
    with closing(Connection(endpoint, None)) as connection:
        connection.open(TIMEOUT_S)
        yield connection


def test_a_server_that_does_not_greet_is_no_etcd() -> None:
    with (
        peer(says(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as endpoint,
        pytest.raises(ConnectionFailed, match="does not speak HTTP/2") as failed,
        connected(endpoint),
    ):
        pass
    assert failed.value.is_unsent


def test_a_call_that_nobody_answers_ends_in_time_and_may_have_been_taken_up() -> None:
    with peer(says(SETTINGS)) as endpoint, connected(endpoint) as connection:
        start_s = time.monotonic()
        with pytest.raises(ConnectionFailed, match="it is silent") as failed:
            connection.call("/a/b", b"", 0.2)
        assert time.monotonic() - start_s < TIMEOUT_S
        assert not failed.value.is_unsent


def test_a_server_that_answers_no_ping_ends_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("calico_k8s.datastore.etcd.connection.PING_AFTER_S", 0.1)
    monkeypatch.setattr("calico_k8s.datastore.etcd.connection.PING_TIMEOUT_S", 0.1)
    with peer(says(SETTINGS)) as endpoint, connected(endpoint) as connection:
        connection.begin("/a/b", b"", TIMEOUT_S)
        with pytest.raises(ConnectionFailed, match="it is silent"):
            connection.receive()


def test_a_server_that_resets_whoever_comes_leaves_nothing_open(tmp_path: Path) -> None:
    # Python 3.11 forgets the socket whose wrapping fails; what is not closed fails this test.
    tls = Authority(tmp_path).issue("client")
    for _ in range(20):
        with peer(reset) as endpoint, closing(Connection(endpoint, tls)) as connection:
            with pytest.raises(ConnectionFailed) as failed:
                connection.open(TIMEOUT_S)
            assert failed.value.is_unsent


# ── against a real etcd ──────────────────────────────────────────────────────────────────────────


@pytest.fixture
def endpoint(current_etcd: EtcdCluster) -> str:
    return current_etcd.members[0].endpoint


def put(key: str, value: bytes) -> bytes:
    return wire.encode_txn("/connection", [Put(key, value)], ())


@pytest.mark.etcd
def test_a_refusal_has_etcds_words_and_the_connection_goes_on(endpoint: str) -> None:
    future = wire.encode_range(b"/connection", b"", limit=1, revision=1 << 40)
    with connected(endpoint) as connection:
        with pytest.raises(Refused) as refused:
            connection.call(transport.RANGE, future, TIMEOUT_S)
        assert refused.value.status.code == 11
        assert refused.value.status.details.startswith("etcdserver: mvcc: required revision")
        assert connection.is_usable()
        answer = connection.call(transport.TXN, put("/a", b""), TIMEOUT_S)
        assert wire.decode_txn(answer).has_succeeded


@pytest.mark.etcd
def test_requests_and_answers_may_be_longer_than_any_window(endpoint: str) -> None:
    with connected(endpoint) as connection:
        for number in range(18):
            value = bytes((number,)) * 1_400_000
            connection.call(transport.TXN, put(f"/long/{number:02}", value), TIMEOUT_S)
        everything = wire.encode_range(b"/connection/long/", b"/connection/long0", limit=0)
        for _ in range(2):
            answer = connection.call(transport.RANGE, everything, TIMEOUT_S)
            values = [entry.value for entry in wire.decode_range(answer, 0).entries]
            assert values == [bytes((number,)) * 1_400_000 for number in range(18)]


@pytest.mark.etcd
def test_closing_ends_whoever_waits_for_an_answer(endpoint: str) -> None:
    watch = wire.encode_watch(b"/connection/quiet", b"", 0)
    connection = Connection(endpoint, None)
    connection.open(TIMEOUT_S)
    connection.begin(transport.WATCH, watch, TIMEOUT_S)
    connection.receive(TIMEOUT_S)
    ended = threading.Event()

    def run() -> None:
        with pytest.raises(ConnectionFailed):
            connection.receive()
        ended.set()

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(0.05)  # so that it waits, which is nowhere to be seen
    connection.close()
    thread.join(TIMEOUT_S)
    assert ended.is_set()


@pytest.mark.etcd
def test_a_connection_that_ended_while_idle_is_not_written_to(tmp_path: Path) -> None:
    # An error after sending would make the write uncertain, and the writer read everything again.
    with etcd_cluster(tmp_path) as cluster:
        (member,) = cluster.members
        with closing(Member(member.endpoint, None)) as asked:
            asked.call(transport.TXN, put("/a", b"1"))
            member.kill()
            member.start()
            wait_until(lambda: _call(asked), "the member to take a write")


def _call(asked: Member) -> bool:
    try:
        asked.call(transport.TXN, put("/a", b"2"))
    except transport.MemberFailed as failed:
        if not failed.is_unsent:
            raise
        return False
    return True
