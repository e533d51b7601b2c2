"""Rules of the model to rules of a policy group.

In: a rule, its direction, and how its local end was decided.  Out: resolved rules, which ask at
most one set positively, and the expressions of the sets that they ask.
"""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import msgspec

from calico_k8s.calc.deltas import Ipset, ResolvedRule
from calico_k8s.calc.expressions import (
    Asked,
    Expression,
    make_ipset,
    negated_expression,
    negated_ports_expression,
    positive_expression,
)
from calico_k8s.calc.local import EVERYWHERE, LocalMatch, is_question
from calico_k8s.model.addresses import Net, Version
from calico_k8s.model.resources import Action, Direction, EntityMatch, PortRange, Rule


class Sheet(NamedTuple):
    """The rules of one policy or profile for one direction."""

    direction: Direction
    rules: tuple[Rule, ...]
    asking: tuple[int, ...]
    """Those whose local end is a question."""


class Resolved(NamedTuple):
    """Resolved rules, in order, and what the sets that they ask are made of."""

    rules: tuple[ResolvedRule, ...]
    expressions: dict[Ipset, Expression]


def make_sheet(rules: tuple[Rule, ...], direction: Direction) -> Sheet:
    """The rules of one direction, with their questions found once."""
    asking = (i for i, rule in enumerate(rules) if is_question(local_entity(rule, direction)))
    return Sheet(direction, rules, tuple(asking))


def local_entity(rule: Rule, direction: Direction) -> EntityMatch:
    """The end of the rule that is the endpoint itself."""
    return rule.dst if direction is Direction.INGRESS else rule.src


def peer_entity(rule: Rule, direction: Direction) -> EntityMatch:
    """The other end."""
    return rule.src if direction is Direction.INGRESS else rule.dst


def resolve_sheet(
    sheet: Sheet,
    answers: Sequence[LocalMatch | None],
    pass_as: Literal[Action.PASS, Action.DENY],
    *,
    decides: bool = True,
) -> Resolved:
    """Resolve all rules of a sheet; ``answers`` are to its questions, in order.

    ``pass_as`` is what a pass rule does: among profiles, where no tier is next, it denies.  The
    sets of rules that do not decide, as those of a staged policy, may change at any moment.
    """
    answer_by_index = dict(zip(sheet.asking, answers, strict=True))
    resolved: list[ResolvedRule] = []
    expressions: dict[Ipset, Expression] = {}
    for index, rule in enumerate(sheet.rules):
        local = answer_by_index.get(index, EVERYWHERE)
        if local is not None and not _asks_domains_in_vain(rule, sheet.direction):
            action = pass_as if rule.action is Action.PASS else rule.action
            resolver = _Resolver(rule, sheet.direction, action, expressions)
            resolver.asks_as = action if decides else Action.LOG
            resolved += resolver.resolve(local)
    return Resolved(tuple(resolved), expressions)


def resolve_host_sheet(
    sheet: Sheet, pass_as: Literal[Action.PASS, Action.DENY], *, decides: bool = True
) -> Resolved:
    """Resolve all rules of a sheet for host endpoints: of both ends the kernel is asked."""
    resolved: list[ResolvedRule] = []
    expressions: dict[Ipset, Expression] = {}
    for rule in sheet.rules:
        if _asks_domains_in_vain(rule, sheet.direction):
            continue
        action = pass_as if rule.action is Action.PASS else rule.action
        resolver = _Resolver(rule, sheet.direction, action, expressions)
        resolver.asks_as = action if decides else Action.LOG
        resolved += resolver.resolve_both_ends()
    return Resolved(tuple(resolved), expressions)


def _asks_domains_in_vain(rule: Rule, direction: Direction) -> bool:
    """Whether it asks domains where they are true of nothing."""
    counts = rule.action is Action.ALLOW and direction is Direction.EGRESS
    return bool(rule.src.domains or (rule.dst.domains and not counts))


class _Ports(NamedTuple):
    """How an end's port is asked: by number, by name, or not at all."""

    numbers: tuple[PortRange, ...]
    names: tuple[str, ...] = ()
    excluded: tuple[PortRange, ...] = ()


class _Resolver:
    """One rule; the sets that it asks are put into ``expressions``."""

    def __init__(
        self,
        rule: Rule,
        direction: Direction,
        action: Action,
        expressions: dict[Ipset, Expression],
    ) -> None:
        self._rule = rule
        self._direction = direction
        self._action = self.asks_as = action
        self._expressions = expressions
        self._peer = peer_entity(rule, direction)
        self._learns = action is Action.ALLOW and direction is Direction.EGRESS

    def resolve(self, local: LocalMatch) -> Iterable[ResolvedRule]:
        versions = {self._rule.ip_version, local.ip_version} - {None}
        if len(versions) > 1:
            return
        ip_version = next(iter(versions), None)
        own = local_entity(self._rule, self._direction)
        own_end = _End(
            local.nets or own.nets,
            own.not_nets,
            _with_numbers(own.ports, local.ports),
            _with_numbers(own.not_ports, local.not_ports),
        )
        for ports in self._ways_to_ask_ports(self._peer):
            yield self._resolve(ip_version, ports, own_end)

    def resolve_both_ends(self) -> Iterable[ResolvedRule]:
        """With the local end asked as the other is: it may be any address."""
        rule, own = self._rule, local_entity(self._rule, self._direction)
        for ports in self._ways_to_ask_ports(self._peer):
            for own_ports in self._ways_to_ask_ports(own):
                resolved = self._resolve(rule.ip_version, ports, _asked_end(own, own_ports))
                yield msgspec.structs.replace(
                    resolved,
                    own_ipset=self._ask(positive_expression(own, own_ports.names, rule.protocol)),
                    own_not_ipsets=self._ask_negated(own),
                )

    def _ways_to_ask_ports(self, entity: EntityMatch) -> Iterable[_Ports]:
        numbers, names = entity.ports, entity.named_ports
        if numbers or not names:
            yield _Ports(numbers)
        if names:
            # A packet that both rules match is logged once; any other action has decided by then.
            excluded = numbers if self._action is Action.LOG else ()
            yield _Ports((), names, excluded)

    def _resolve(self, ip_version: Version | None, ports: _Ports, own_end: "_End") -> ResolvedRule:
        rule, peer = self._rule, self._peer
        peer_end = _asked_end(peer, ports)
        is_ingress = self._direction is Direction.INGRESS
        src, dst = (peer_end, own_end) if is_ingress else (own_end, peer_end)
        return ResolvedRule(
            action=self._action,
            origin=rule.origin,
            ip_version=ip_version,
            protocol=rule.protocol,
            not_protocol=rule.not_protocol,
            icmp=rule.icmp,
            not_icmp=rule.not_icmp,
            peer_ipset=self._ask(
                positive_expression(peer, ports.names, rule.protocol, learns=self._learns)
            ),
            peer_not_ipsets=self._ask_negated(peer),
            src_nets=src.nets,
            src_not_nets=src.not_nets,
            src_ports=src.ports,
            src_not_ports=src.not_ports,
            dst_nets=dst.nets,
            dst_not_nets=dst.not_nets,
            dst_ports=dst.ports,
            dst_not_ports=dst.not_ports,
        )

    def _ask_negated(self, entity: EntityMatch) -> tuple[Ipset, ...]:
        negated = (
            negated_expression(entity),
            negated_ports_expression(entity, self._rule.protocol),
        )
        asked = (self._ask(expression, is_negated=True) for expression in negated)
        return tuple(ipset for ipset in asked if ipset is not None)

    def _ask(self, expression: Expression, *, is_negated: bool = False) -> Ipset | None:
        if not expression:
            return None
        ipset = make_ipset(expression, Asked(self.asks_as, self._direction, is_negated))
        self._expressions[ipset] = expression
        return ipset


class _End(NamedTuple):
    nets: tuple[Net, ...]
    not_nets: tuple[Net, ...]
    ports: tuple[PortRange, ...]
    not_ports: tuple[PortRange, ...]


def _asked_end(entity: EntityMatch, ports: _Ports) -> _End:
    """An end whose address is asked of sets."""
    not_ports = entity.not_ports + ports.excluded
    return _End(entity.nets, entity.not_nets, ports.numbers, not_ports)


def _with_numbers(ranges: tuple[PortRange, ...], numbers: tuple[int, ...]) -> tuple[PortRange, ...]:
    if not numbers:
        return ranges
    return tuple(sorted({*ranges, *(PortRange(number, number) for number in numbers)}))
