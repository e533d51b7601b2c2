"""What an ipset asks of an address: an expression, and the ipset's identity made from it.

In: the peer criteria of rules.  Out: expressions, ipsets.  Who meets an expression is
:mod:`.members`' business.

An expression is a tuple of terms, and an address meets it if it meets one of them; it meets a
term if it meets every criterion that the term gives.  A rule's positive criteria are one term.
Its negated ones are a term each, in one set: outside of all of them is outside of the set.
"""

from functools import lru_cache
from hashlib import blake2b
from typing import Literal, NamedTuple

import msgspec

from calico_k8s.calc.deltas import Ipset, IpsetId, IpsetKind, Polarity
from calico_k8s.model.domains import DomainPattern
from calico_k8s.model.names import NetsetName, SelectorText, TagName
from calico_k8s.model.resources import Action, Direction, EntityMatch, Protocol

ID_BYTES = 10
"""Of a hash that names a set or a group: 80 bits, far from a collision among 100,000."""


class Criterion(NamedTuple):
    """Something that is true or false of an endpoint whatever its addresses.

    A port is true of an endpoint that declares a port of this name.
    """

    kind: Literal["tag", "selector", "port"]
    text: str


class Term(NamedTuple):
    """Criteria that must all hold; a term of a negated set has one of them."""

    tag: Criterion | None = None
    selector: Criterion | None = None
    """Of an address whose endpoint has such labels, or that a network set with such labels holds."""
    netset: NetsetName | None = None
    ports: tuple[Criterion, ...] = ()
    """One of them; then members are addresses with their ports."""
    protocol: Protocol | None = None
    """Of the ports."""
    domains: tuple[DomainPattern, ...] = ()
    """Of an address that was learnt for one of them; then nothing else is given."""
    learns: bool = False
    """Whether the selector is true, beside, of what was learnt for network sets' domains; then
    nothing else is given."""

    @property
    def anchors(self) -> tuple[Criterion, ...]:
        """Every endpoint that gives members meets one of these; without any, none does.

        With a selector alone, or with a network set beside it, an address that meets the selector
        only because a network set holds it is among the nets, not among the endpoints' members.
        """
        if self.tag is not None:
            return (self.tag,)
        if self.ports:
            return self.ports
        return () if self.selector is None else (self.selector,)

    @property
    def is_one_criterion(self) -> bool:
        """Whether endpoints give all their addresses for a tag or a selector, and nothing else asks."""
        return (
            self == Term(tag=self.tag) != Term()
            or self._replace(learns=False) == Term(selector=self.selector) != Term()
        )

    @property
    def asks_address(self) -> bool:
        """Whether endpoints that meet all its criteria may still differ by their addresses."""
        is_selected_endpoint = self.selector is not None and (
            self.tag is not None or bool(self.ports)
        )
        return is_selected_endpoint or self.netset is not None


Expression = tuple[Term, ...]


def tag_criterion(tag: TagName) -> Criterion:
    """True of the endpoints with a profile that gives the tag."""
    return Criterion("tag", tag)


def selector_criterion(text: SelectorText) -> Criterion:
    """True of the endpoints and network sets whose labels meet the selector."""
    return Criterion("selector", text)


def port_criterion(name: str) -> Criterion:
    """True of the endpoints that declare a port of this name."""
    return Criterion("port", name)


def criteria_of(expression: Expression) -> set[Criterion]:
    """Every criterion that the expression mentions."""
    return {
        criterion
        for term in expression
        for criterion in (term.tag, term.selector, *term.ports)
        if criterion is not None
    }


def netsets_of(expression: Expression) -> set[NetsetName]:
    """The network sets that the expression names."""
    return {term.netset for term in expression if term.netset is not None}


def positive_expression(
    entity: EntityMatch,
    names: tuple[str, ...],
    protocol: Protocol | None,
    *,
    learns: bool = False,
) -> Expression:
    """What the peer must be, in one term: empty where nothing but nets and numbers are asked.

    ``names`` are the named ports to ask for, none where the rule is asked by number.  ``learns``
    says whether what was learnt of domains counts: of the destination of what egress allows.
    """
    if entity.domains:
        return (Term(domains=entity.domains),)
    if entity.tag is None and entity.selector is None and entity.netset is None and not names:
        return ()
    return (
        Term(
            tag=None if entity.tag is None else tag_criterion(entity.tag),
            selector=None if entity.selector is None else selector_criterion(entity.selector),
            netset=entity.netset,
            ports=_ports(names),
            protocol=protocol if names else None,
            learns=learns and entity.learns,
        ),
    )


def negated_expression(entity: EntityMatch) -> Expression:
    """Whose addresses the peer must not have, ports aside."""
    terms = []
    if entity.not_tag is not None:
        terms.append(Term(tag=tag_criterion(entity.not_tag)))
    if entity.not_selector is not None:
        terms.append(Term(selector=selector_criterion(entity.not_selector)))
    if entity.not_netset is not None:
        terms.append(Term(netset=entity.not_netset))
    return tuple(terms)


def negated_ports_expression(entity: EntityMatch, protocol: Protocol | None) -> Expression:
    """Which of its own named ports the peer must not use."""
    if not entity.not_named_ports:
        return ()
    return (Term(ports=_ports(entity.not_named_ports), protocol=protocol),)


def _ports(names: tuple[str, ...]) -> tuple[Criterion, ...]:
    return tuple(port_criterion(name) for name in sorted(set(names)))


class Asked(NamedTuple):
    """How a rule asks a set: this decides what a new member can do to a verdict."""

    action: Action
    direction: Direction
    is_negated: bool = False

    @property
    def polarity(self) -> Polarity:
        """What adding a member can do."""
        match self.action:
            case Action.ALLOW:
                return Polarity.CLOSES if self.is_negated else Polarity.OPENS
            case Action.DENY:
                return Polarity.OPENS if self.is_negated else Polarity.CLOSES
            case Action.PASS:
                return Polarity.MOVES
            case Action.LOG:
                return Polarity.COUNTS


@lru_cache(maxsize=16384)
def make_ipset(expression: Expression, asked: Asked) -> Ipset:
    """The set that holds who meets the expression; its id depends on nothing else."""
    kind = IpsetKind.ADDRESS_PORT if expression[0].ports else IpsetKind.NET
    identity = (kind, asked.direction, asked.polarity, tuple(map(_identity, expression)))
    return Ipset(IpsetId(short_hash(identity)), kind, asked.polarity, asked.direction)


def _identity(term: Term) -> tuple[object, ...]:
    """A term as it has always been written: what is learnt came later, and most terms ask nothing."""
    learnt = (term.domains, term.learns)
    return term[:5] if learnt == ((), False) else (*term[:5], *learnt)


def short_hash(identity: object) -> str:
    """A name made of plain values, the same after every restart."""
    return blake2b(msgspec.json.encode(identity), digest_size=ID_BYTES).hexdigest()
