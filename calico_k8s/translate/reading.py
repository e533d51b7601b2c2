"""How policies are read: piece by piece, so that what is not understood closes only what it says.

In: documents, and functions that read one piece of them.  Out: rules, and findings with the place
of each piece that cannot be used.  What is not understood is never left out of a rule:

* of an allow rule nothing is left, so that it matches nothing; nor of a rule that only logs;
* any other rule denies everything, for whom its policy selects, in its direction.

Source: KEP of ClusterNetworkPolicy, section on failing closed; the datastore's codec does the same.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import msgspec

from calico_k8s.errors import InputError
from calico_k8s.model import keys
from calico_k8s.model.addresses import Net, parse_net
from calico_k8s.model.domains import DomainPattern, parse_domain
from calico_k8s.model.names import TierName
from calico_k8s.model.resources import (
    Action,
    Direction,
    NetworkSet,
    Origin,
    Policy,
    Rule,
    Rules,
    Value,
)
from calico_k8s.model.staging import STAGED_KINDS
from calico_k8s.translate.findings import Code, FieldPath, Finding, Name, ObjectRef, make_finding
from calico_k8s.translate.objects import conversion_problem, field_text

_Type = TypeVar("_Type")

Document = Any
"""What JSON can say."""

BOTH = (Direction.INGRESS, Direction.EGRESS)


class Misread(Exception):
    """A piece that cannot be used: where it is, and why; caught in this package, always."""

    def __init__(self, path: FieldPath, problem: str) -> None:
        super().__init__(f"{field_text(path)} {problem}")
        self.path = path


class Reading(msgspec.Struct, frozen=True):
    """What a policy object says; without items it is not enforced at all."""

    items: Mapping[keys.Key, Value]
    findings: tuple[Finding, ...] = ()
    tier: TierName | None = None
    """The tier that a policy stands in."""
    services: frozenset[Name] = frozenset()
    """The services that rules name as peers."""
    node_selectors: frozenset[str] = frozenset()
    """The selectors of nodes that rules name as peers, in canonical text."""
    accounts: frozenset[Name] = frozenset()
    """The service accounts that rules name; of any namespace, where that is empty."""
    deletes: ObjectRef | None = None
    """The policy that a staged one would take away."""

    @property
    def asks_domains(self) -> bool:
        """Whether anything in it is about the addresses of names."""
        return any(map(_asks_domains, self.items.values()))


def _asks_domains(value: Value) -> bool:
    if isinstance(value, NetworkSet):
        return bool(value.domains)
    rules = value.egress if isinstance(value, Policy | Rules) else ()
    return any(rule.dst.domains for rule in rules)


def convert(document: Document, type_: type[_Type], path: FieldPath) -> _Type:
    """A piece of a document as a type.

    Raises:
        Misread: it is not one; a field that the type does not name is a reason.
    """
    try:
        return msgspec.convert(document, type=type_)
    except msgspec.ValidationError as error:
        inner, problem = conversion_problem(document, str(error))
        raise Misread((*path, *inner), problem) from None


def read_nets(texts: Iterable[str] | None, path: FieldPath) -> tuple[Net, ...]:
    """CIDRs, masked; a bare address is its own net.

    Old objects may have leading zeros, which Go's parser of then read as decimal.

    Raises:
        Misread: one is no CIDR.
    """
    nets = []
    for index, text in enumerate(texts or ()):
        try:
            nets.append(parse_net(_without_leading_zeros(text)))
        except InputError as error:
            raise Misread((*path, index), f"is no CIDR: {error}") from None
    return tuple(nets)


def read_domains(texts: Iterable[str] | None, path: FieldPath) -> tuple[DomainPattern, ...]:
    """Domain names, each once.

    Raises:
        Misread: one is none.
    """
    domains = []
    for index, text in enumerate(texts or ()):
        try:
            domains.append(parse_domain(text))
        except InputError as error:
            raise Misread((*path, index), f"cannot be used: {error}") from None
    return tuple(dict.fromkeys(domains))


def _without_leading_zeros(text: str) -> str:
    address, slash, length = text.partition("/")
    if ":" in address:
        return text
    return ".".join(part.lstrip("0") or "0" for part in address.split(".")) + slash + length


class Reader:
    """Reads one policy object and keeps what was found wrong with it."""

    def __init__(self, ref: ObjectRef) -> None:
        self.ref = ref
        self.findings: list[Finding] = []
        self._when = "once it is enforced, " if ref.kind in STAGED_KINDS else ""

    def tell(self, code: Code, message: str, path: FieldPath) -> None:
        """One more finding."""
        self.findings.append(make_finding(code, message, self.ref, path))

    def origin(self, index: int = -1, title: str = "") -> Origin:
        """The place of a rule of this object, and its name if it has one."""
        return Origin(self.ref.kind, self.ref.namespace, self.ref.name, index, title)

    def rules(
        self,
        documents: Document,
        path: FieldPath,
        action_of: Callable[[Document], str],
        read: Callable[[Document, FieldPath, int], Iterable[Rule]],
    ) -> tuple[Rule, ...]:
        """The rules of a list, in order; ``action_of`` tells the action of one, in lower case."""
        if documents is None:
            return ()
        if not isinstance(documents, list | tuple):
            return self._closed(Misread(path, "should be a list"), action_of(None), -1)
        rules: list[Rule] = []
        for index, document in enumerate(documents):
            try:
                rules += tuple(read(document, (*path, index), index))  # all of it, or nothing
            except Misread as error:
                rules += self._closed(error, action_of(document), index)
        return tuple(rules)

    def known_fields(self, spec: Document, known: Iterable[str]) -> bool:
        """Whether a spec has no fields but these; another may narrow what all its rules say."""
        unknown = sorted(spec.keys() - set(known)) if isinstance(spec, dict) else []
        for field in unknown:
            error = Misread(("spec", field), "is no field that is known here")
            self.tell_unusable(error, "the policy allows nothing and what it denies is everything")
        return not unknown

    def policy(
        self,
        policy: Policy,
        services: Iterable[Name] = (),
        node_selectors: Iterable[str] = (),
        accounts: Iterable[Name] = (),
    ) -> Reading:
        """What the object says, where that is a policy."""
        return Reading(
            items={keys.PolicyKey(policy.tier, policy.id): policy},
            findings=tuple(self.findings),
            tier=policy.tier,
            services=frozenset(services),
            node_selectors=frozenset(node_selectors),
            accounts=frozenset(accounts),
        )

    def nothing(self) -> Reading:
        """What an object says that is not enforced."""
        return Reading({}, tuple(self.findings))

    def closed(self, rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
        """What is left of rules where something that may narrow them is not understood."""
        kept = (rule for rule in rules if rule.action not in (Action.ALLOW, Action.LOG))
        return tuple(Rule(Action.DENY, rule.origin) for rule in kept)

    def tell_unusable(self, error: Misread, effect: str) -> None:
        """A piece cannot be used, and what becomes of it."""
        self.tell(Code.POLICY_INVALID, f"{error}, so {self._when}{effect}", error.path)

    def _closed(self, error: Misread, action: str, index: int) -> tuple[Rule, ...]:
        if action in ("allow", "log"):
            self.tell_unusable(error, "it matches nothing")
            return ()
        self.tell_unusable(error, "it denies everything")
        return (Rule(Action.DENY, self.origin(index)),)


def allows(_document: Document) -> str:
    """The action of every rule of a NetworkPolicy."""
    return "allow"


def action_word(document: Document) -> str:
    """The action that a rule says it has, in lower case; empty where it says none."""
    word = document.get("action") if isinstance(document, dict) else None
    return word.lower() if isinstance(word, str) else ""
