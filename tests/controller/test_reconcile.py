"""What is written, what is left alone, and in which order."""

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from calico_k8s.controller.reconcile import (
    MASS_DELETION_MIN,
    VALUE_BYTES_MAX,
    Reconciler,
    Written,
)
from calico_k8s.datastore.factory import open_store
from calico_k8s.datastore.stamp import decode_stamp
from calico_k8s.datastore.store import Compare, Delete, Operation, Put, Revision, Store
from calico_k8s.errors import StoreConflict
from calico_k8s.model import codec, keys
from calico_k8s.model.addresses import parse_address
from calico_k8s.model.names import EndpointId, NamespaceName, NodeName, ProfileId, TierName
from calico_k8s.model.resources import (
    HostEndpoint,
    Labels,
    Ready,
    Rules,
    Setting,
    Tier,
    Value,
    WorkloadEndpoint,
)

Items = dict[keys.Key, Value]
PROFILE = ProfileId("namespace.shop")
RULES = keys.ProfileRulesKey(PROFILE)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(open_store(f"sqlite://{tmp_path}/state.db")) as opened:
        yield opened


def endpoints(count: int) -> Items:
    found: Items = {RULES: Rules()}
    for number in range(count):
        endpoint = EndpointId(NodeName("node-1"), NamespaceName("shop"), f"web-{number}")
        address = parse_address(f"10.0.{number // 256}.{number % 256}")
        found[keys.EndpointKey(endpoint)] = WorkloadEndpoint(
            endpoint, (address,), profiles=(PROFILE,)
        )
    return found


def stored(store: Store) -> Items:
    found: Items = {}
    for entry in store.read(keys.V1).entries:
        if entry.key == keys.WRITTEN_PATH:
            continue
        key = keys.parse_path(entry.key)
        assert key is not None
        value = codec.decode(key, entry.value).value
        assert value is not None
        found[key] = value
    return found


def test_a_sync_writes_what_differs_says_ready_and_nothing_twice(store: Store) -> None:
    reconciler = Reconciler(store)
    wanted = endpoints(3)
    assert reconciler.sync(wanted).put == 5
    assert stored(store) == {**wanted, keys.ReadyKey(): Ready(True)}
    again = Reconciler(store).sync(wanted)
    assert (again.put, again.deleted, again.revision) == (0, 0, None)


def test_a_sync_removes_what_is_not_wanted_but_no_setting_and_nothing_unknown(
    store: Store,
) -> None:
    setting = keys.SettingKey(None, "log-denied")
    store.transact(
        [
            Put(keys.key_path(setting), codec.encode(Setting("true"))),
            Put("/v1/leader", b"{}"),
            Put("/v1/newer/thing", b"{}"),
        ]
    )
    reconciler = Reconciler(store)
    reconciler.sync(endpoints(3))
    assert reconciler.sync(endpoints(1)).deleted == 2
    left = {entry.key for entry in store.read(keys.V1).entries}
    assert {keys.key_path(setting), "/v1/leader", "/v1/newer/thing"} <= left


class Watched:
    """A store that keeps the order of what is done."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.done: list[Operation] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def transact(
        self, operations: Sequence[Operation], compares: Sequence[Compare] = ()
    ) -> Revision:
        self.done += operations
        return self._store.transact(operations, compares)


def test_what_is_referred_to_is_written_first_and_deleted_last(store: Store) -> None:
    watched = Watched(store)
    reconciler = Reconciler(watched)  # type: ignore[arg-type]  # the rest by __getattr__
    reconciler.sync(endpoints(2))
    reconciler.sync({})
    done = [
        (type(each), keys.parse_path(each.key))
        for each in watched.done
        if each.key != keys.WRITTEN_PATH
    ]
    assert [kind for kind, _ in done] == [Put] * 4 + [Delete] * 3
    assert done[0][1] == RULES
    assert done[-1][1] == RULES
    assert done[3][1] == keys.ReadyKey()


def test_a_write_under_a_fence_that_another_changed_writes_nothing(store: Store) -> None:
    revision = store.transact([Put("/v1/leader", b"me")])
    reconciler = Reconciler(store, (Compare("/v1/leader", revision),))
    reconciler.sync(endpoints(1))
    store.transact([Put("/v1/leader", b"another")])
    with pytest.raises(StoreConflict):
        reconciler.write(endpoints(2), set())
    left = {entry.key for entry in store.read(keys.V1).entries}
    assert len(left - {"/v1/leader", keys.WRITTEN_PATH}) == len(endpoints(1)) + 1


def test_a_value_that_no_store_takes_closes_its_own_and_lets_the_others_through(
    store: Store,
) -> None:
    labels = keys.ProfileLabelsKey(PROFILE)
    reconciler = Reconciler(store)
    reconciler.sync({labels: Labels({"a": "b"})})
    huge: Items = {labels: Labels({"a": "b" * VALUE_BYTES_MAX}), **endpoints(2)}
    written = reconciler.write(huge, set())
    assert written.too_large == (labels,)
    assert labels not in stored(store), "the older value must not go on speaking"
    assert stored(store).items() >= endpoints(2).items()
    assert reconciler.write({labels: Labels({"a": "c"})}, set()).too_large == ()
    assert stored(store)[labels] == Labels({"a": "c"})


def test_the_revision_that_has_a_policy_is_known_to_its_writer_and_to_the_next(
    store: Store,
) -> None:
    tier, other = keys.TierKey(TierName("a")), keys.TierKey(TierName("b"))
    first = Reconciler(store)
    written = first.sync({tier: Tier(TierName("a"))})
    assert first.revision([tier]) == written.revision
    assert first.revision([tier, other]) is None, "one is not stored"
    later = first.write({other: Tier(TierName("b"))}, set()).revision
    assert (first.revision([tier]), first.revision([tier, other])) == (written.revision, later)
    first.write({other: Tier(TierName("b"))}, set())
    assert first.revision([tier, other]) == later, "nothing differed"
    second = Reconciler(store)
    second.sync({tier: Tier(TierName("a")), other: Tier(TierName("b"))})
    assert (second.revision([tier]), second.revision([other])) == (written.revision, later)
    second.write({}, {other})
    assert second.revision([other]) is None
    assert second.revision([]) is None


@pytest.mark.parametrize(
    ("before", "after", "is_asked"),
    [
        (MASS_DELETION_MIN, MASS_DELETION_MIN // 2 - 1, True),
        (MASS_DELETION_MIN, MASS_DELETION_MIN // 2, False),
        (MASS_DELETION_MIN - 1, 0, False),
        (MASS_DELETION_MIN, 2 * MASS_DELETION_MIN, False),
    ],
)
def test_only_most_of_many_endpoints_are_looked_at_twice(
    store: Store, before: int, after: int, is_asked: bool
) -> None:
    reconciler = Reconciler(store)
    reconciler.sync(endpoints(before))
    asked = []

    def confirm() -> Items:
        asked.append(True)
        return endpoints(after)

    reconciler.sync(endpoints(after), confirm)
    assert bool(asked) is is_asked
    assert stored(store).keys() - {keys.ReadyKey()} == endpoints(after).keys()


def test_most_endpoints_stay_where_the_second_look_still_has_them(store: Store) -> None:
    reconciler = Reconciler(store)
    reconciler.sync(endpoints(200))
    assert reconciler.sync({}, lambda: endpoints(200)).deleted == 0
    reconciler.sync(endpoints(10), lambda: endpoints(20))
    assert stored(store).keys() - {keys.ReadyKey()} == endpoints(20).keys()


def test_a_write_that_would_take_most_endpoints_is_known_beforehand(store: Store) -> None:
    reconciler = Reconciler(store)
    reconciler.sync(endpoints(200))
    names = {key for key in endpoints(200) if isinstance(key, keys.EndpointKey)}
    some = set(sorted(names, key=keys.key_path)[:100])
    assert not reconciler.is_mass_deletion(some)
    assert reconciler.is_mass_deletion(names)
    assert not Reconciler(store).is_mass_deletion(names), "what has read nothing knows nothing"


def test_nothing_that_differs_is_no_transaction(store: Store) -> None:
    reconciler = Reconciler(store)
    reconciler.sync(endpoints(1))
    before = store.read(keys.V1)
    assert reconciler.write(endpoints(1), {keys.NodeKey(NodeName("gone"))}) == Written(0, 0)
    assert store.read(keys.V1) == before


def test_when_it_was_written_is_part_of_the_write(store: Store) -> None:
    reconciler, before = Reconciler(store), time.time()
    reconciler.sync(endpoints(1))
    entry = store.get(keys.WRITTEN_PATH)
    assert entry is not None
    found = decode_stamp(entry.value)
    assert found is not None
    assert (before <= found.written <= time.time(), found.changed) == (True, None)
    with closing(store.watch(keys.V1, store.read(keys.V1).revision)) as watcher:
        revision = reconciler.write(endpoints(2), set(), changed_at=before).revision
        batch = next(batch for batch in watcher if batch.changes)
    assert batch.revision == revision, "one transaction"
    assert len(batch.changes) == 2
    stamp = decode_stamp(batch.changes[-1].value)
    assert stamp is not None
    assert stamp.changed == before
    assert stamp.written >= found.written


def test_a_host_endpoint_comes_after_what_it_allows_and_goes_before(store: Store) -> None:
    watched = Watched(store)
    reconciler = Reconciler(watched)  # type: ignore[arg-type]  # the rest by __getattr__
    host = keys.HostEndpointKey(NodeName("node-1"), "uplink")
    reconciler.write(
        {host: HostEndpoint(NodeName("node-1"), "uplink", "eth0"), RULES: Rules()}, set()
    )
    reconciler.write({}, {RULES, host})
    done = [keys.parse_path(each.key) for each in watched.done if each.key != keys.WRITTEN_PATH]
    assert done == [RULES, host, host, RULES]
