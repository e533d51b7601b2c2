"""Tiers, policies and profile rules, and which of them speak for a local endpoint.

In: tiers, policies, the rules of profiles, and the traits of local endpoints.  Out: for traits
and a direction, what is tried in which order: an outline; and the traits that an update touches.
"""

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from calico_k8s.calc.expressions import selector_criterion
from calico_k8s.calc.labels import LabelIndex
from calico_k8s.calc.peers import Traits, put
from calico_k8s.calc.resolve import Sheet, make_sheet
from calico_k8s.model.keys import Key, PolicyKey, ProfileRulesKey, TierKey
from calico_k8s.model.names import PolicyId, ProfileId, TierName
from calico_k8s.model.resources import (
    EARLY_HOOKS,
    Direction,
    HostHook,
    Origin,
    Policy,
    Rule,
    Rules,
    StagedAction,
    Tier,
)
from calico_k8s.model.staging import target_of
from calico_k8s.policy.snapshot import policy_sort_key, tier_sort_key

Tiers = tuple[tuple[TierName, tuple[PolicyKey, ...]], ...]
"""Tiers in order, each with policies in theirs."""


class Outline(NamedTuple):
    """What is tried for an endpoint in one direction, in order."""

    direction: Direction
    tiers: Tiers
    """Those with a policy that applies; each with these policies."""
    profiles: tuple[ProfileId, ...]
    """Those with rules in this direction."""
    owner: ProfileId | None
    """The profile whose origin is quoted where the end of the profiles denies."""
    rehearsal: Tiers | None = None
    """What ``tiers`` would be if staged policies were enforced; None: the same."""

    def sheets(self) -> Iterator[PolicyKey | ProfileId]:
        """Everything with rules, in the order in which it is tried."""
        for _, policies in self.tiers:
            yield from policies
        yield from self.profiles
        for _, policies in self.rehearsal or ():
            yield from policies

    def sources(self) -> Iterator[Key]:
        """The keys whose values make what a group of this outline holds."""
        for tier, policies in (*self.tiers, *(self.rehearsal or ())):
            yield TierKey(tier)
            yield from policies
        yield from map(ProfileRulesKey, self.profiles)
        if self.owner is not None:
            yield ProfileRulesKey(self.owner)


class _PolicySheets(msgspec.Struct, frozen=True):
    policy: Policy
    sheets: dict[Direction, Sheet]


class _ProfileSheets(msgspec.Struct, frozen=True):
    rules: Rules
    sheets: dict[Direction, Sheet]


class Rulebook:
    """Everything with rules, and the local traits that policies select."""

    def __init__(self) -> None:
        self._index = LabelIndex[Traits]()
        """Local traits by the selectors of policies."""
        self._tiers: dict[TierName, Tier] = {}
        self._policies: dict[PolicyKey, _PolicySheets] = {}
        self._policies_by_selector: dict[str, set[PolicyKey]] = {}
        self._profiles: dict[ProfileId, _ProfileSheets] = {}
        self._acting: Counter[PolicyId] = Counter()
        """The policies that staged ones would set or delete, by how many would."""
        self._local: set[Traits] = set()

    def set_traits(self, traits: Traits) -> None:
        """Follow traits of local endpoints, new or with other labels."""
        self._local.add(traits)
        self._index.update(traits, traits.labels)

    def drop_traits(self, traits: Traits) -> None:
        """Forget traits that no local endpoint has any more."""
        self._local.discard(traits)
        self._index.remove(traits)

    def update_tier(self, name: TierName, new: Tier | None) -> set[Traits]:
        """Replace a tier; the local traits that may be touched."""
        return set(self._local) if put(self._tiers, name, new) else set()

    def update_policy(self, key: PolicyKey, new: Policy | None) -> set[Traits]:
        """Replace a policy; the local traits that it selected or selects."""
        old = self._policies.get(key)
        if (old.policy if old is not None else None) == new:
            return set()
        touched: set[Traits] = set()
        if old is not None:
            touched |= self._selected(old.policy)
            touched |= self._stage(old.policy, -1)
            self._forget_selector(key, old.policy)
            del self._policies[key]
        if new is not None:
            self._policies[key] = _PolicySheets(new, _sheets(new.ingress, new.egress))
            self._policies_by_selector.setdefault(new.selector, set()).add(key)
            self._index.activate(selector_criterion(new.selector))
            touched |= self._selected(new) | self._stage(new, 1)
        return touched

    def update_profile(self, profile: ProfileId, new: Rules | None) -> bool:
        """Replace the rules of a profile; whether that changed anything."""
        old = self._profiles.get(profile)
        if (old.rules if old is not None else None) == new:
            return False
        if new is None:
            del self._profiles[profile]
        else:
            self._profiles[profile] = _ProfileSheets(new, _sheets(new.ingress, new.egress))
        return True

    def tier(self, name: TierName) -> Tier:
        """A tier that is there."""
        return self._tiers[name]

    def has_profile(self, profile: ProfileId) -> bool:
        """Whether rules of the profile are stored."""
        return profile in self._profiles

    def origin(self, profile: ProfileId) -> Origin | None:
        """Whose profile it is."""
        found = self._profiles.get(profile)
        return found.rules.origin if found is not None else None

    def sheet(self, source: PolicyKey | ProfileId, direction: Direction) -> Sheet:
        """The rules of a policy or profile that is there."""
        if isinstance(source, PolicyKey):
            return self._policies[source].sheets[direction]
        return self._profiles[source].sheets[direction]

    def host_outline(self, traits: Traits, direction: Direction, hook: HostHook) -> Outline | None:
        """What is tried at a hook of host endpoints of these local traits; None: nothing.

        Profiles speak only of what the node itself takes or sends.  At the early hooks nothing is
        rehearsed: whoever was let through there would not be asked at the later ones.
        """
        if hook is HostHook.LOCAL:
            return self.outline(traits, direction)
        applying = self._applying(traits, direction, hook)
        is_early = hook in EARLY_HOOKS
        rehearsal = None if is_early else self._rehearsal(traits, direction, applying, hook)
        if applying or rehearsal:
            return Outline(direction, applying, (), None, rehearsal)
        return None

    def outline(self, traits: Traits, direction: Direction) -> Outline:
        """What is tried for endpoints of these local traits."""
        profiles = [profile for profile in traits.profiles if profile in self._profiles]
        applying = self._applying(traits, direction)
        return Outline(
            direction,
            applying,
            tuple(p for p in profiles if self._profiles[p].sheets[direction].rules),
            next((p for p in profiles if self._profiles[p].rules.origin is not None), None),
            self._rehearsal(traits, direction, applying),
        )

    def _rehearsal(
        self,
        traits: Traits,
        direction: Direction,
        applying: Tiers,
        hook: HostHook = HostHook.LOCAL,
    ) -> Tiers | None:
        """What would be tried if staged policies were enforced; None: the same."""
        if not self._acting:
            return None
        rehearsal = self._applying(traits, direction, hook, rehearses=True)
        return rehearsal if rehearsal != applying else None

    def _applying(
        self,
        traits: Traits,
        direction: Direction,
        hook: HostHook = HostHook.LOCAL,
        *,
        rehearses: bool = False,
    ) -> Tiers:
        by_tier: dict[TierName, list[PolicyKey]] = {}
        for criterion in self._index.criteria_of(traits):
            for key in self._policies_by_selector[criterion.text]:
                policy = self._policies[key].policy
                in_force = self._would_stand(policy) if rehearses else policy.staged is None
                is_asked = policy.is_asked_at(hook) and in_force
                if key.tier in self._tiers and direction in policy.types and is_asked:
                    by_tier.setdefault(key.tier, []).append(key)
        tiers = sorted((self._tiers[name] for name in by_tier), key=tier_sort_key)
        return tuple((tier.name, self._in_order(by_tier[tier.name])) for tier in tiers)

    def policy(self, key: PolicyKey) -> Policy:
        """A policy that is there."""
        return self._policies[key].policy

    def _would_stand(self, policy: Policy) -> bool:
        """Whether it would be in force if staged policies were enforced."""
        if policy.staged is None:
            return policy.id not in self._acting
        return policy.staged in (StagedAction.SET, StagedAction.LEARN)

    def _stage(self, policy: Policy, count: int) -> set[Traits]:
        """Count a staged policy in or out; the local traits of the policy that it stands for.

        Cost: O(all policies), for one that is staged.
        """
        if policy.staged in (None, StagedAction.IGNORE):
            return set()
        target = target_of(policy.id)
        self._acting[target] += count
        if not self._acting[target]:
            del self._acting[target]
        targets = (sheets.policy for key, sheets in self._policies.items() if key.policy == target)
        return {traits for each in targets for traits in self._selected(each)}

    def _in_order(self, policies: list[PolicyKey]) -> tuple[PolicyKey, ...]:
        return tuple(sorted(policies, key=lambda key: policy_sort_key(self._policies[key].policy)))

    def _selected(self, policy: Policy) -> set[Traits]:
        return set(self._index.items_of(selector_criterion(policy.selector)))

    def _forget_selector(self, key: PolicyKey, policy: Policy) -> None:
        keys = self._policies_by_selector[policy.selector]
        keys.discard(key)
        if not keys:
            del self._policies_by_selector[policy.selector]
        self._index.deactivate(selector_criterion(policy.selector))


def _sheets(ingress: tuple[Rule, ...], egress: tuple[Rule, ...]) -> dict[Direction, Sheet]:
    return {
        Direction.INGRESS: make_sheet(ingress, Direction.INGRESS),
        Direction.EGRESS: make_sheet(egress, Direction.EGRESS),
    }
