"""What smallest change would turn a verdict: of one rule that all but matched, or one rule more.

In: a snapshot and a judged flow, by pods' policy or a host endpoint's.  Out: a :class:`Turn`, in words.  Each change that is told has been
tried: the definition, asked of the snapshot with it, gives the other verdict.

For a denied flow, in this order: the rule that denies is left out; an allow rule that was looked
at and that one criterion kept from matching is true of it (who the peer is, or which port it is);
one rule more, where the end denied.  Where something else denies then (a later tier, the other
direction), a change of that follows.  For an allowed one: the rule that allows is left out.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

import msgspec

import grammar
from calico_k8s.model import keys
from calico_k8s.model.addresses import Address, address_net
from calico_k8s.model.names import EndpointId, ProfileId, SelectorText
from calico_k8s.model.resources import (
    ANYTHING,
    PROTOCOLS_WITH_PORTS,
    Action,
    Direction,
    EntityMatch,
    HostHook,
    Origin,
    PortRange,
    Rule,
)
from calico_k8s.policy.match import Flow, rule_matches
from calico_k8s.policy.snapshot import Snapshot, selector
from calico_k8s.policy.verdict import Decision, applies, names_for
from calico_k8s.policy.ways import Judged, Ways
from calico_k8s.query.describe import describe_origin, describe_service
from calico_k8s.translate.labels import NAMESPACE_LABEL, NAMESPACE_PREFIX, SERVICE_ACCOUNT_PREFIX

CHANGES_MAX = 3
"""Changes that are told together; more are no help to anybody."""

TRIES_MAX = 200
"""Changes that are tried: each costs a look at the whole snapshot."""

Owner = keys.PolicyKey | ProfileId
"""What holds rules."""


class Turn(NamedTuple):
    """Changes that together turn the verdict, each in words; mostly one."""

    changes: tuple[str, ...]


class _Change(NamedTuple):
    words: str
    snapshot: Snapshot


def turn(snapshot: Snapshot, judged: Judged) -> Turn | None:
    """The smallest change that turns the verdict; None where no policy gave it, or none was found."""
    ways, tries = Ways(snapshot), iter(range(TRIES_MAX))
    for most in range(1, CHANGES_MAX + 1):
        found = _search(ways, snapshot, judged, most, tries)
        if found:
            return Turn(found)
    return None


def _search(
    ways: Ways, snapshot: Snapshot, judged: Judged, most: int, tries: Iterator[int]
) -> tuple[str, ...]:
    """So many changes at most, each to what decides after the one before; empty if none turn it.

    Ends with the tries, too.
    """
    decision = judged.deciding
    is_settled_by_policy = judged.verdict.reason == "policy" or judged.deciding_step is not None
    if not is_settled_by_policy or decision is None:
        return ()
    for change, _ in zip(_changes(snapshot, judged.flow, decision), tries, strict=False):
        after = ways.again(change.snapshot, judged)
        if after.allowed is not judged.allowed:
            return (change.words,)
        is_next = after.deciding is not None and _place(after.deciding) != _place(decision)
        if most > 1 and is_next:
            rest = _search(ways, change.snapshot, after, most - 1, tries)
            if rest:
                return (change.words, *rest)
    return ()


def _place(decision: Decision) -> tuple[EndpointId, HostHook, Direction, Origin]:
    return decision.endpoint.id, decision.hook, decision.direction, decision.deciding


def _changes(snapshot: Snapshot, flow: Flow, decision: Decision) -> Iterator[_Change]:
    """Changes to what one direction of one endpoint says, the smallest first."""
    names = names_for(snapshot, decision.endpoint, decision.direction, flow)
    holders = sorted(
        _holders(snapshot, decision), key=lambda holder: not _is_of_end(holder[0], decision)
    )
    for owner, rules in holders:
        for index, rule in enumerate(rules):
            if rule.origin == decision.deciding and rule_matches(snapshot, rule, flow, names):
                where = describe_origin(rule.origin, decision.endpoint.id)
                without = tuple(
                    r for r in rules if r.origin != rule.origin or r.action is not rule.action
                )
                yield _Change(f"{where} left out", _with(snapshot, owner, decision, without))
                break
            if decision.action is Action.DENY and rule.action is Action.ALLOW:
                for words, relaxed in _relaxed(snapshot, rule, flow, decision):
                    changed = (*rules[:index], relaxed, *rules[index + 1 :])
                    yield _Change(words, _with(snapshot, owner, decision, changed))
    if decision.action is Action.DENY and decision.deciding.index < 0:
        yield from _one_more(snapshot, flow, decision, holders)


def _is_of_end(owner: Owner, decision: Decision) -> bool:
    """Whether what holds rules is in the tier whose end decided."""
    end = decision.deciding
    return end.kind == "Tier" and isinstance(owner, keys.PolicyKey) and owner.tier == end.name


def _holders(snapshot: Snapshot, decision: Decision) -> Iterator[tuple[Owner, tuple[Rule, ...]]]:
    """Everything with rules for the endpoint in this direction, in the order of evaluation."""
    endpoint, direction = decision.endpoint, decision.direction
    is_ingress = direction is Direction.INGRESS
    for tier, policies in snapshot.policies_by_tier:
        for policy in policies:
            if applies(snapshot, policy, endpoint, direction, decision.hook):
                key = keys.PolicyKey(tier.name, policy.id)
                yield key, policy.ingress if is_ingress else policy.egress
    for profile in endpoint.profiles if decision.hook is HostHook.LOCAL else ():
        rules = snapshot.rules_of(profile)
        if rules.origin is not None or rules.ingress or rules.egress:
            yield profile, rules.ingress if is_ingress else rules.egress


def _with(
    snapshot: Snapshot, owner: Owner, decision: Decision, rules: tuple[Rule, ...]
) -> Snapshot:
    """The snapshot with other rules in one place."""
    field = str(decision.direction)
    if isinstance(owner, keys.PolicyKey):
        policy = msgspec.structs.replace(snapshot.policies[owner], **{field: rules})
        return replace(snapshot, policies={**snapshot.policies, owner: policy})
    held = msgspec.structs.replace(snapshot.rules_of(owner), **{field: rules})
    return replace(snapshot, profile_rules={**snapshot.profile_rules, owner: held})


def _relaxed(
    snapshot: Snapshot, rule: Rule, flow: Flow, decision: Decision
) -> Iterator[tuple[str, Rule]]:
    """The rule without the one criterion that kept it from matching, and what would meet that."""
    where = describe_origin(rule.origin, decision.endpoint.id)
    is_ingress = decision.direction is Direction.INGRESS
    peer, address = (rule.src, flow.src) if is_ingress else (rule.dst, flow.dst)
    anybody = EntityMatch(
        ports=peer.ports,
        named_ports=peer.named_ports,
        not_ports=peer.not_ports,
        not_named_ports=peer.not_named_ports,
    )
    for_anybody = msgspec.structs.replace(rule, **{"src" if is_ingress else "dst": anybody})
    if rule_matches(snapshot, for_anybody, flow):
        yield f"{_missing(snapshot, peer, address)}, for {where}", for_anybody
    for_any_port = msgspec.structs.replace(
        rule,
        protocol=flow.protocol,
        not_protocol=None,
        icmp=None,
        not_icmp=None,
        src=_without_ports(rule.src),
        dst=_with_port(rule.dst, flow),
    )
    names = names_for(snapshot, decision.endpoint, decision.direction, flow)
    if rule_matches(snapshot, for_any_port, flow, names):
        yield f"{describe_service(flow)} beside what {where} allows", for_any_port


def _without_ports(entity: EntityMatch) -> EntityMatch:
    return msgspec.structs.replace(
        entity, ports=(), named_ports=(), not_ports=(), not_named_ports=()
    )


def _with_port(entity: EntityMatch, flow: Flow) -> EntityMatch:
    plain = _without_ports(entity)
    if flow.protocol not in PROTOCOLS_WITH_PORTS:
        return plain
    return msgspec.structs.replace(plain, ports=(PortRange(flow.dst_port, flow.dst_port),))


def _missing(snapshot: Snapshot, peer: EntityMatch, address: Address) -> str:
    """What the peer would have to be, as labels where labels would do."""
    owner = snapshot.owner_by_address.get(address)
    if owner is None or peer.selector is None or peer.nets or peer.not_nets or peer.not_selector:
        return f"{owner.id.pod if owner else address} among its peers"
    labels = snapshot.labels_of(owner)
    parsed = selector(peer.selector)
    parts = parsed.operands if isinstance(parsed, grammar.And) else (parsed,)
    lacking = [part for part in parts if not grammar.evaluate(part, labels)]
    if any(NAMESPACE_LABEL in grammar.label_names(part) for part in lacking):
        return f"{owner.id.pod} among its peers"
    return " and ".join(_lacking(part, owner.id.pod) for part in lacking)


def _lacking(part: grammar.Selector, pod: str) -> str:
    text = SelectorText(grammar.print_selector(part))
    for prefix, holder in (
        (NAMESPACE_PREFIX, f"the namespace of {pod}"),
        (SERVICE_ACCOUNT_PREFIX, f"the service account of {pod}"),
    ):
        if prefix in text:
            return f"labels of {holder} with {text.replace(prefix, '')}"
    return f"labels of {pod} with {text}"


def _one_more(
    snapshot: Snapshot,
    flow: Flow,
    decision: Decision,
    holders: Iterable[tuple[Owner, tuple[Rule, ...]]],
) -> Iterator[_Change]:
    """A rule for just this flow, last in something that was looked at and can hold one."""
    is_ingress = decision.direction is Direction.INGRESS
    src = EntityMatch(nets=(address_net(flow.src),)) if is_ingress else ANYTHING
    dst = ANYTHING if is_ingress else EntityMatch(nets=(address_net(flow.dst),))
    rule = Rule(
        Action.ALLOW,
        Origin(kind="Change"),
        protocol=flow.protocol,
        src=src,
        dst=_with_port(dst, flow),
    )
    other = _name(snapshot, flow.src if is_ingress else flow.dst)
    words = f"{'from' if is_ingress else 'to'} {other}, {describe_service(flow)}"
    for owner, rules in holders:
        changed = _with(snapshot, owner, decision, (*rules, rule))
        yield _Change(f"a rule more in {_owner_words(snapshot, owner, decision)}: {words}", changed)


def _owner_words(snapshot: Snapshot, owner: Owner, decision: Decision) -> str:
    if isinstance(owner, keys.PolicyKey):
        kind, namespace, name = owner.policy
        return describe_origin(Origin(kind, namespace, name))
    origin = snapshot.rules_of(owner).origin
    return describe_origin(origin, decision.endpoint.id) if origin is not None else owner


def _name(snapshot: Snapshot, address: Address) -> str:
    owner = snapshot.owner_by_address.get(address)
    return owner.id.pod if owner is not None else address
