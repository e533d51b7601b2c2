"""What only the file has to mind: leases across a reboot, and a transaction that fails midway."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from calico_k8s.datastore.local.store import LocalStore
from calico_k8s.datastore.location import Access
from calico_k8s.datastore.store import Put
from calico_k8s.errors import StoreLeaseLost, StoreUnavailable


def test_a_lease_of_an_earlier_boot_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with closing(LocalStore(path, Access.READ_WRITE)) as store:
        lease = store.grant_lease(3600)
        store.transact([Put("/v1/a", b"1", lease)])
        # as the file would be found after a reboot: granted on another boot's clock
        store._connection.execute("update lease set boot = 'an earlier one'")
        assert store.get("/v1/a") is None
        assert store.read("/v1/").entries == ()
        with pytest.raises(StoreLeaseLost):
            store.keep_alive(lease)
        store.transact([Put("/v1/b", b"1")])
        assert list(store._connection.execute("select key from entry")) == [("/v1/b",)]


def test_a_transaction_that_fails_midway_leaves_nothing(tmp_path: Path) -> None:
    with closing(LocalStore(tmp_path / "state.db", Access.READ_WRITE)) as store:
        revision = store.transact([Put("/v1/a", b"1")])
        pages = store._connection.execute("pragma page_count").fetchone()[0]
        # SQLite's own limit stands in for a full disk: the same error, at the same places
        store._connection.execute(f"pragma max_page_count = {pages + 2}")
        with pytest.raises(StoreUnavailable, match="full"):
            store.transact([Put(f"/v1/{number}", b"x" * 4000) for number in range(100)])
        assert store.read("/").revision == revision
        assert [entry.key for entry in store.read("/").entries] == ["/v1/a"]
        store._connection.execute("pragma max_page_count = 1000000")
        assert store.transact([Put("/v1/a", b"2")]) == revision + 1


def test_a_writer_that_holds_the_file_is_waited_for_and_then_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.db"
    with closing(LocalStore(path, Access.READ_WRITE)) as store:
        store._connection.execute("pragma busy_timeout = 100")
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("begin immediate")
            with pytest.raises(StoreUnavailable, match="locked"):
                store.transact([Put("/v1/a", b"1")])
            assert store.get("/v1/a") is None  # reading goes on meanwhile
            other.execute("rollback")
        store.transact([Put("/v1/a", b"1")])
