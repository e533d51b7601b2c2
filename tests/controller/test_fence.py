"""The right to write: one at a time, and nothing of a writer before it, however late."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from calico_k8s.controller.fence import Fence, Writer, check_cluster, claim
from calico_k8s.datastore.factory import open_store
from calico_k8s.datastore.store import ABSENT, Compare, Operation, Put, Revision, Store
from calico_k8s.errors import (
    Deposed,
    StoreConflict,
    StoreForeign,
    StoreUnavailable,
    StoreUncertain,
)

ONE, TWO = Writer("one", "uid", 1), Writer("two", "uid", 2)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(open_store(f"sqlite://{tmp_path}/state.db")) as opened:
        yield opened


def claimed(store: Store, writer: Writer, cluster: str = "cluster") -> Fence:
    return claim(store, cluster, lambda _before: writer)


def test_the_first_may_write_until_the_next_has_claimed(store: Store) -> None:
    one = claimed(store, ONE)
    store.transact([Put("/v1/x", b"1")], one.compares)
    one.check()
    two = claimed(store, TWO)
    with pytest.raises(StoreConflict):
        store.transact([Put("/v1/x", b"late")], one.compares)
    with pytest.raises(Deposed, match="two has taken over"):
        one.check()
    with pytest.raises(Deposed):
        one.renew()
    store.transact([Put("/v1/x", b"2")], two.compares)


def test_who_claims_is_told_of_the_writer_before(store: Store) -> None:
    seen: list[Writer | None] = []

    def next_is(writer: Writer) -> Callable[[Writer | None], Writer]:
        def writer_after(before: Writer | None) -> Writer:
            seen.append(before)
            return writer

        return writer_after

    for writer in (ONE, TWO):
        claim(store, "cluster", next_is(writer))
    assert seen == [None, ONE]


def test_a_transaction_from_before_a_renewal_is_never_done(store: Store) -> None:
    fence = claimed(store, ONE)
    late = fence.compares
    fence.renew()
    with pytest.raises(StoreConflict):
        store.transact([Put("/v1/x", b"late")], late)
    store.transact([Put("/v1/x", b"now")], fence.compares)


def test_a_store_of_another_cluster_is_refused_and_not_touched(store: Store) -> None:
    claimed(store, ONE)
    before = store.read("/v1/")
    with pytest.raises(StoreForeign, match=r"another cluster.*UID cluster, here it is other"):
        claimed(store, TWO, "other")
    assert store.read("/v1/").entries == before.entries
    assert check_cluster(store, "cluster") != ABSENT


def test_a_removed_key_deposes_too(store: Store) -> None:
    fence = claimed(store, ONE)
    store.transact([Put("/v1/leader", b"not one of ours")])
    with pytest.raises(Deposed, match="somebody"):
        fence.check()
    claimed(store, TWO).check()


class Uncertain:
    """A store that loses answers: of some transactions nobody hears whether they were done."""

    def __init__(self, store: Store, lost: Sequence[bool]) -> None:
        self._store = store
        self._lost = iter(lost)  # for each transaction that is lost: whether it is done

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def transact(
        self, operations: Sequence[Operation], compares: Sequence[Compare] = ()
    ) -> Revision:
        is_done = next(self._lost, None)
        if is_done is None:
            return self._store.transact(operations, compares)
        if is_done:
            self._store.transact(operations, compares)
        raise StoreUncertain("the connection broke")


@pytest.mark.parametrize("lost", [[True], [False], [False, True], [True, False, True]])
def test_an_answer_that_is_lost_leaves_the_right_with_one_holder(
    store: Store, lost: list[bool]
) -> None:
    uncertain = Uncertain(store, lost)
    fence = claimed(uncertain, ONE)  # type: ignore[arg-type]  # the rest by __getattr__
    store.transact([Put("/v1/x", b"1")], fence.compares)
    uncertain = Uncertain(store, lost)
    fence = Fence(uncertain, ONE, fence.compares[0].mod_revision)  # type: ignore[arg-type]  # as above
    fence.renew()
    store.transact([Put("/v1/x", b"2")], fence.compares)


def test_a_store_that_never_answers_is_given_up(store: Store) -> None:
    uncertain = Uncertain(store, [False] * 100)
    with pytest.raises(StoreUnavailable):
        claimed(uncertain, ONE)  # type: ignore[arg-type]  # the rest by __getattr__
    fence = claimed(store, ONE)
    with pytest.raises(StoreUnavailable):
        Fence(uncertain, ONE, fence.compares[0].mod_revision).renew()  # type: ignore[arg-type]  # as above
