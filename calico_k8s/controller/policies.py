"""What has become of each policy, read back from the datastore: for ``calico-k8s status``.

In: what the controller stored and told, and what nodes tell.  Out: a row for each policy that is
stored, and for each other object that is not wholly in force.  How far each has come is counted
here, so it holds while no controller runs.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeVar

import msgspec

from calico_k8s.controller.reach import NOTHING, Count, Reach
from calico_k8s.datastore.store import Entry, Revision, Store
from calico_k8s.errors import StoreForbidden
from calico_k8s.model import keys
from calico_k8s.model.names import NodeName
from calico_k8s.model.status import (
    POLICIES_PATH,
    WEBHOOK_PATH,
    PolicySummary,
    StoredStatus,
    TroubledPolicy,
    WebhookStatus,
    decode_status,
)
from calico_k8s.translate.findings import ObjectRef

_T = TypeVar("_T")


class PolicyRow(msgspec.Struct, frozen=True):
    """A policy, or another object that something is wrong with."""

    policy: str
    accepted: bool
    """All of it is understood and in force."""
    resolved: bool
    """All that it names is there."""
    nodes: int
    """On so many it is in force ..."""
    of: int
    """... of these."""
    behind: tuple[NodeName, ...]
    """The first nodes that have not got it."""
    reason: str = ""
    message: str = ""

    @property
    def is_everywhere(self) -> bool:
        """Whether all nodes have it."""
        return self.nodes == self.of

    @property
    def count(self) -> Count:
        """On how many nodes of how many."""
        return Count(self.nodes, self.of, self.behind)


class Policies(NamedTuple):
    """Every row by name, and how many more objects are in trouble than the controller named."""

    rows: tuple[PolicyRow, ...]
    more: int


def read_policies(
    store: Store, entries: Iterable[Entry], nodes: Mapping[NodeName, StoredStatus]
) -> Policies:
    """The policies of these entries, on these nodes.  Raises: StoreError."""
    revisions: dict[ObjectRef, Revision] = {}
    policies: set[ObjectRef] = set()
    counted = {node: Revision(status.revision) for node, status in nodes.items()}
    for entry in entries:
        key = keys.parse_path(entry.key)
        if isinstance(key, keys.EndpointKey):
            counted.setdefault(key.id.node, NOTHING)
        elif isinstance(key, keys.HostEndpointKey):
            counted.setdefault(key.node, NOTHING)
        ref = _ref(key)
        if ref is not None:
            revisions[ref] = entry.mod_revision
            if isinstance(key, keys.PolicyKey):
                policies.add(ref)
    reach = Reach(counted)
    summary = _summary(store)
    troubled = {ObjectRef(each.kind, each.namespace, each.name): each for each in summary.troubled}
    return Policies(
        tuple(
            _row(ref, revisions.get(ref), troubled.get(ref), reach)
            for ref in sorted(policies | troubled.keys())
        ),
        summary.more,
    )


def _row(
    ref: ObjectRef, revision: Revision | None, troubled: TroubledPolicy | None, reach: Reach
) -> PolicyRow:
    is_enforced = revision is not None and (troubled is None or troubled.is_enforced)
    count = reach.of(revision) if revision is not None and is_enforced else reach.of_nothing()
    if troubled is None:
        return PolicyRow(str(ref), True, True, *count)
    return PolicyRow(
        str(ref),
        troubled.is_accepted,
        troubled.is_resolved,
        *count,
        troubled.reason,
        troubled.message,
    )


def _ref(key: keys.Key | None) -> ObjectRef | None:
    """The object that a key was made of; of sets and profiles that none was, a name of nobody."""
    match key:
        case keys.PolicyKey(_, policy):
            return ObjectRef(*policy)
        case keys.TierKey(name):
            return ObjectRef("Tier", "", name)
        case keys.ProfileRulesKey(profile):
            return ObjectRef("Profile", "", profile.removeprefix("profile."))
        case keys.NetsetKey(netset):
            namespace, _, short = netset.rpartition("/")
            return ObjectRef("NetworkSet" if namespace else "GlobalNetworkSet", namespace, short)
        case _:
            return None


def read_webhook(store: Store) -> WebhookStatus | None:
    """What the controller told of the webhook; None where there is none, or this may not be read."""
    return _told(store, WEBHOOK_PATH, WebhookStatus)


def _summary(store: Store) -> PolicySummary:
    """What the controller told; nothing is wrong where it told nothing, or this may not be read."""
    return _told(store, POLICIES_PATH, PolicySummary) or PolicySummary(0)


def _told(store: Store, path: str, kind: type[_T]) -> _T | None:
    try:
        entry = store.get(path)
    except StoreForbidden:
        return None
    return decode_status(entry.value, kind) if entry is not None else None
