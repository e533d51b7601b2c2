"""Every endpoint of the cluster, as far as ipsets can see it.

In: endpoints, and the tags and labels that profiles give.  Out: for each update, the endpoints
that ipsets see differently, before and after.

Pods of one template carry the same labels, profiles and named ports.  Those are one
:class:`Traits`, and what is true of it is found once for all its endpoints: a pod that comes or
goes costs its addresses, not its labels.
"""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import NamedTuple, TypeVar

import msgspec

from calico_k8s.calc.expressions import Criterion, port_criterion, tag_criterion
from calico_k8s.calc.labels import LabelIndex
from calico_k8s.calc.owners import Owners
from calico_k8s.model.addresses import Address
from calico_k8s.model.names import EndpointId, ProfileId, TagName
from calico_k8s.model.resources import Labels, NamedPort, Tags, WorkloadEndpoint

TraitsKey = tuple[frozenset[tuple[str, str]], tuple[ProfileId, ...], tuple[NamedPort, ...]]


class Traits(msgspec.Struct, eq=False):
    """What endpoints of one template have in common; compared by identity, so cheap as a key."""

    own_labels: Mapping[str, str]
    profiles: tuple[ProfileId, ...]
    named_ports: tuple[NamedPort, ...]
    labels: Mapping[str, str]
    """Own labels over the profiles'."""
    tags: frozenset[TagName]
    """The profiles'."""
    endpoints: set[EndpointId]


class View(NamedTuple):
    """What ipsets see of one endpoint."""

    met: AbstractSet[Criterion]
    """The active criteria that are true of it."""
    named_ports: tuple[NamedPort, ...]
    addresses: tuple[Address, ...]
    """Those that it owns."""


class ViewChange(NamedTuple):
    """One endpoint before and after; None where it is not there."""

    before: View | None
    after: View | None


class Peers:
    """All endpoints, their traits, and which active criteria are true of them."""

    def __init__(self) -> None:
        self.index = LabelIndex[Traits]()
        self.owners = Owners()
        self._endpoints: dict[EndpointId, WorkloadEndpoint] = {}
        self._addresses: dict[EndpointId, tuple[Address, ...]] = {}
        self._traits: dict[EndpointId, Traits] = {}
        self._traits_by_key: dict[TraitsKey, Traits] = {}
        self._traits_by_profile: dict[ProfileId, set[Traits]] = {}
        self._profile_tags: dict[ProfileId, Tags] = {}
        self._profile_labels: dict[ProfileId, Labels] = {}

    def __len__(self) -> int:
        """How many endpoints there are."""
        return len(self._endpoints)

    def traits(self, endpoint: EndpointId) -> Traits | None:
        """The traits of an endpoint; None for one that is not there."""
        return self._traits.get(endpoint)

    def addresses(self, endpoint: EndpointId) -> tuple[Address, ...]:
        """The addresses that an endpoint owns, sorted."""
        return self._addresses.get(endpoint, ())

    def claimed(self, endpoint: EndpointId) -> tuple[Address, ...]:
        """The addresses that an endpoint claims, as it was stored."""
        value = self._endpoints.get(endpoint)
        return value.addresses if value is not None else ()

    def has_profile(self, profile: ProfileId) -> bool:
        """Whether the profile gives tags or labels."""
        return profile in self._profile_tags or profile in self._profile_labels

    def with_profile(self, profile: ProfileId) -> AbstractSet[Traits]:
        """The traits that a profile is part of."""
        return self._traits_by_profile.get(profile, frozenset())

    def meeting(self, criteria: Iterable[Criterion]) -> Iterable[View]:
        """A view of each endpoint that one of the active criteria is true of."""
        for traits in {t for criterion in criteria for t in self.index.items_of(criterion)}:
            met = self.index.criteria_of(traits)
            for endpoint in traits.endpoints:
                yield View(met, traits.named_ports, self._addresses[endpoint])

    def update(
        self, endpoint: EndpointId, new: WorkloadEndpoint | None
    ) -> dict[EndpointId, ViewChange]:
        """Replace an endpoint; it, and others with one of its addresses, before and after.

        Cost: the endpoint's addresses, and its labels if no other endpoint has the same traits.
        """
        old = self._endpoints.get(endpoint)
        if old == new:
            return {}
        before = {endpoint: self._view(endpoint)}
        touched = self.owners.update(old, new)
        before |= {other: self._view(other) for other in touched}
        for other in touched:
            self._addresses[other] = self.owners.owned(self._endpoints[other])
        if new is None:
            del self._endpoints[endpoint], self._addresses[endpoint]
        else:
            self._endpoints[endpoint], self._addresses[endpoint] = new, self.owners.owned(new)
        self._assign_traits(endpoint, new)
        return {i: ViewChange(view, self._view(i)) for i, view in before.items()}

    def update_tags(self, profile: ProfileId, tags: Tags | None) -> list[ViewChange]:
        """Replace the tags that a profile gives.  Cost: the traits with it, the endpoints changed."""
        return self._refresh_profile(profile) if put(self._profile_tags, profile, tags) else []

    def update_labels(self, profile: ProfileId, labels: Labels | None) -> list[ViewChange]:
        """Replace the labels that a profile gives.  Cost: as :meth:`update_tags`."""
        is_changed = put(self._profile_labels, profile, labels)
        return self._refresh_profile(profile) if is_changed else []

    def _view(self, endpoint: EndpointId) -> View | None:
        traits = self._traits.get(endpoint)
        if traits is None:
            return None
        addresses = self._addresses[endpoint]
        return View(self.index.criteria_of(traits), traits.named_ports, addresses)

    def _assign_traits(self, endpoint: EndpointId, value: WorkloadEndpoint | None) -> None:
        old = self._traits.pop(endpoint, None)
        new = self._find_or_make_traits(value) if value is not None else None
        if new is not None:
            new.endpoints.add(endpoint)
            self._traits[endpoint] = new
        if old is not None and old is not new:
            old.endpoints.discard(endpoint)
            if not old.endpoints:
                self._drop_traits(old)

    def _find_or_make_traits(self, value: WorkloadEndpoint) -> Traits:
        key = (frozenset(value.labels.items()), value.profiles, value.named_ports)
        traits = self._traits_by_key.get(key)
        if traits is None:
            traits = Traits(
                own_labels=value.labels,
                profiles=value.profiles,
                named_ports=value.named_ports,
                labels={},
                tags=frozenset(),
                endpoints=set(),
            )
            self._traits_by_key[key] = traits
            for profile in set(value.profiles):
                self._traits_by_profile.setdefault(profile, set()).add(traits)
            self._refresh(traits)
        return traits

    def _drop_traits(self, traits: Traits) -> None:
        key = (frozenset(traits.own_labels.items()), traits.profiles, traits.named_ports)
        del self._traits_by_key[key]
        for profile in set(traits.profiles):
            with_profile = self._traits_by_profile[profile]
            with_profile.discard(traits)
            if not with_profile:
                del self._traits_by_profile[profile]
        self.index.remove(traits)

    def _refresh(self, traits: Traits) -> bool:
        """Find labels, tags and met criteria anew; whether any active criterion changed."""
        labels: dict[str, str] = {}
        tags: set[TagName] = set()
        for profile in reversed(traits.profiles):
            if profile in self._profile_labels:
                labels.update(self._profile_labels[profile].labels)
            if profile in self._profile_tags:
                tags.update(self._profile_tags[profile].tags)
        labels.update(traits.own_labels)
        traits.labels, traits.tags = labels, frozenset(tags)
        tokens = {tag_criterion(tag) for tag in tags}
        tokens.update(port_criterion(named.name) for named in traits.named_ports)
        change = self.index.update(traits, labels, tokens)
        return bool(change.gained or change.lost)

    def _refresh_profile(self, profile: ProfileId) -> list[ViewChange]:
        changes: list[ViewChange] = []
        for traits in self.with_profile(profile):
            before = {endpoint: self._view(endpoint) for endpoint in traits.endpoints}
            if self._refresh(traits):
                changes += (ViewChange(view, self._view(i)) for i, view in before.items())
        return changes


_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


def put(stored: dict[_Key, _Value], key: _Key, new: _Value | None) -> bool:
    """Replace, or with None take out, a value; whether that changed anything."""
    if stored.get(key) == new:
        return False
    if new is None:
        del stored[key]
    else:
        stored[key] = new
    return True
