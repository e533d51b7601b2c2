"""What only etcd has to mind: whose keys are whose, and pages."""

import pytest

from calico_k8s.datastore.etcd import store as etcd_store
from calico_k8s.datastore.etcd import wire
from calico_k8s.datastore.factory import open_store
from calico_k8s.datastore.store import Put, transact_in_order
from tests.datastore.followers import Follower, wait_until
from tests.etcd.servers import EtcdCluster

pytestmark = pytest.mark.etcd


def test_keys_live_below_the_root_and_nowhere_else(current_etcd: EtcdCluster) -> None:
    ours = open_store(current_etcd.url("/rooted/ours"))
    other = open_store(current_etcd.url("/rooted/other"))
    outer = open_store(current_etcd.url("/rooted"))
    start = ours.transact([Put("/v1/a", b"ours")])
    follower = Follower(ours.watch("/", start))
    other.transact([Put("/v1/a", b"other")])
    ours.transact([Put("/v1/b", b"ours")])
    assert [each.key for each in follower.wait_for(1)] == ["/v1/b"]
    assert [entry.key for entry in ours.read("/").entries] == ["/v1/a", "/v1/b"]
    assert [entry.key for entry in outer.read("/").entries] == [
        *("/other/v1/a", "/ours/v1/a", "/ours/v1/b")
    ]
    for store in (ours, other, outer):
        store.close()
    wait_until(lambda: follower.has_ended, "the end of the watch")


@pytest.mark.parametrize("page_bytes", [1, 500, 20_000])
def test_pages_of_any_size_make_one_snapshot(
    current_etcd: EtcdCluster, monkeypatch: pytest.MonkeyPatch, page_bytes: int
) -> None:
    monkeypatch.setattr(etcd_store, "PAGE_BYTES", page_bytes)
    monkeypatch.setattr(etcd_store, "FIRST_PAGE_ENTRIES", 7)
    store = open_store(current_etcd.url(f"/pages{page_bytes}"))
    puts = [Put(f"/v1/{number:03}", b"x" * number) for number in range(200)]
    transact_in_order(store, puts)
    assert [(entry.key, entry.value) for entry in store.read("/v1/").entries] == [
        (put.key, put.value) for put in puts
    ]
    store.close()


def test_a_read_whose_revision_is_compacted_between_its_pages_starts_over(
    current_etcd: EtcdCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etcd_store, "FIRST_PAGE_ENTRIES", 10)
    store = open_store(current_etcd.url("/torn"))
    other = open_store(current_etcd.url("/torn"))
    transact_in_order(store, [Put(f"/v1/{number:03}", b"1") for number in range(50)])
    decode, pages = wire.decode_range, 0

    def compact_after_the_first_page(data: bytes, root_bytes: int) -> wire.RangeAnswer:
        nonlocal pages
        pages += 1
        answer = decode(data, root_bytes)
        if pages == 1:
            other.compact(other.transact([Put("/v1/049", b"2")]))
        return answer

    monkeypatch.setattr(wire, "decode_range", compact_after_the_first_page)
    entries = store.read("/v1/").entries
    assert [entry.value for entry in entries] == [b"1"] * 49 + [b"2"]
    store.close()
    other.close()
