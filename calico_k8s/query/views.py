"""What is stored, in rows: the lists that ``get`` and the demo print.

In: a snapshot.  Out: for each kind a list of rows, values that JSON can hold, in a stable order.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Any

from calico_k8s.model.names import ProfileId, TagName
from calico_k8s.model.resources import Labels, Policy, Rules, Tags
from calico_k8s.policy.snapshot import Snapshot, policy_sort_key, tier_sort_key
from calico_k8s.query.describe import describe_rule

Row = dict[str, Any]  # Any: what JSON can hold


def profiles(snapshot: Snapshot) -> Iterator[Row]:
    """Every profile that gives tags, rules or labels, and how many endpoints have it."""
    named = {*snapshot.profile_rules, *snapshot.profile_tags, *snapshot.profile_labels}
    for profile in sorted(named):
        rules = snapshot.rules_of(profile)
        yield {
            "profile": profile,
            "tags": len(snapshot.profile_tags.get(profile, Tags()).tags),
            "ingress": len(rules.ingress),
            "egress": len(rules.egress),
            "labels": len(snapshot.profile_labels.get(profile, Labels()).labels),
            "endpoints": sum(profile in e.profiles for e in snapshot.endpoints.values()),
        }


def tags(snapshot: Snapshot) -> Iterator[Row]:
    """Every tag and the pods that carry it."""
    pods: dict[TagName, list[str]] = {
        tag: [] for given in snapshot.profile_tags.values() for tag in given.tags
    }
    for endpoint in snapshot.endpoints.values():
        for tag in snapshot.tags_of(endpoint):
            pods[tag].append(endpoint.id.pod)
    for tag, carriers in sorted(pods.items()):
        yield {"tag": tag, "endpoints": sorted(carriers)}


def rules(snapshot: Snapshot) -> Iterator[Row]:
    """Every rule of profiles, then of policies in the order of their evaluation, in words."""
    owners: Iterator[tuple[str, Rules | Policy]] = chain(
        sorted(snapshot.profile_rules.items()),
        ((p.id.path, p) for _, policies in snapshot.policies_by_tier for p in policies),
    )
    for owner, holder in owners:
        for direction, listed in (("ingress", holder.ingress), ("egress", holder.egress)):
            for number, rule in enumerate(listed, start=1):
                yield {
                    "of": owner,
                    "direction": direction,
                    "number": number,
                    "rule": describe_rule(rule),
                }


def endpoints(snapshot: Snapshot) -> Iterator[Row]:
    """Every endpoint, where it is, and its profiles in order."""
    for endpoint in sorted(snapshot.endpoints.values(), key=lambda e: (e.id.pod, e.id.node)):
        yield {
            "endpoint": endpoint.id.pod,
            "node": endpoint.id.node,
            "addresses": list(endpoint.addresses),
            "profiles": list(endpoint.profiles),
        }


def tiers(snapshot: Snapshot) -> Iterator[Row]:
    """Tiers in the order of evaluation."""
    for tier in sorted(snapshot.tiers.values(), key=tier_sort_key):
        yield {"tier": tier.name, "order": tier.order, "default_action": str(tier.default_action)}


def policies(snapshot: Snapshot) -> Iterator[Row]:
    """Every policy, those without a tier and staged ones too."""
    for policy in sorted(snapshot.policies.values(), key=lambda p: (p.tier, policy_sort_key(p))):
        yield {
            "policy": policy.id.path,
            "tier": policy.tier,
            "order": policy.order,
            "types": [str(direction) for direction in policy.types],
            "selector": policy.selector,
            "staged": policy.staged is not None,
        }


def netsets(snapshot: Snapshot) -> Iterator[Row]:
    """Every network set."""
    for _, netset in sorted(snapshot.netsets.items()):
        yield {"netset": netset.name, "labels": netset.labels, "nets": list(netset.nets)}


def profiles_of(snapshot: Snapshot, pod: str) -> tuple[ProfileId, ...]:
    """The profiles of a pod, ``namespace/name``; none for a pod that is no endpoint."""
    found = (e.profiles for e in snapshot.endpoints.values() if e.id.pod == pod)
    return next(found, ())


VIEWS: Mapping[str, tuple[str, Callable[[Snapshot], Iterator[Row]]]] = {
    "profiles": ("profile", profiles),
    "tags": ("tag", tags),
    "rules": ("of", rules),
    "endpoints": ("endpoint", endpoints),
    "tiers": ("tier", tiers),
    "policies": ("policy", policies),
    "netsets": ("netset", netsets),
}
"""Each list by its name: the column that a name is looked for in, and its rows."""
