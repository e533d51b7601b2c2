"""What policies name and other objects bring: service accounts, and ports by name.

In: which of them pods and service accounts bring, and which each policy names.  Out: which policies
an arrival or departure concerns, and findings for what is named and not there.  Nothing of it changes
what is enforced: a rule that names what nobody has matches nothing, until somebody has it.

Only who sees a whole cluster can say that something is not there; manifests are a part of one.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple, assert_never

from calico_k8s.model.resources import PROTOCOL_NAMES, Policy, Protocol, Value, WorkloadEndpoint
from calico_k8s.translate.findings import Finding, Name, ObjectRef, Severity

ACCOUNT_UNKNOWN = "service-account-unknown"
PORT_UNKNOWN = "port-name-unknown"
"""The codes of its findings: docs/status.md explains them.  The second is lint's, too, which knows
whom a policy selects."""
UNKNOWN = frozenset({ACCOUNT_UNKNOWN, PORT_UNKNOWN})


class Account(NamedTuple):
    """A service account; of any namespace, where that is empty."""

    namespace: str
    name: str


class PortName(NamedTuple):
    """A port by name, of one protocol or, with None, of any."""

    name: str
    protocol: Protocol | None


Thing = Account | PortName


class References:
    """Cost: what a pod brings is O(its named ports), whatever there is beside it."""

    def __init__(self) -> None:
        self._there: Counter[Thing] = Counter()
        self._naming: dict[Thing, set[ObjectRef]] = {}

    def bring(self, things: Iterable[Thing], count: int) -> set[ObjectRef]:
        """So many more of each are there; the policies to which that is news."""
        concerned: set[ObjectRef] = set()
        for thing in things:
            before = self._there[thing]
            self._there[thing] = now = before + count
            if not now:
                del self._there[thing]
            if not (before and now):
                concerned |= self._naming.get(thing, set())
        return concerned

    def name(self, ref: ObjectRef, things: Iterable[Thing], *, is_in: bool) -> None:
        """A policy names these, or does no more."""
        for thing in things:
            refs = self._naming.setdefault(thing, set())
            if is_in:
                refs.add(ref)
            else:
                refs.discard(ref)
            if not refs:
                del self._naming[thing]

    def missing(self, ref: ObjectRef, things: Iterable[Thing]) -> Iterator[Finding]:
        """A finding for each of these that is not there."""
        absent = [thing for thing in things if thing not in self._there]
        for thing in sorted(absent, key=repr):
            yield _finding(ref, thing)


def account_things(account: Name) -> tuple[Thing, ...]:
    """What a service account, or a pod that runs as it, brings."""
    return Account(account.namespace, account.name), Account("", account.name)


def endpoint_things(endpoint: WorkloadEndpoint, account: str) -> tuple[Thing, ...]:
    """What a pod brings."""
    names = {port.name for port in endpoint.named_ports}
    return (
        *account_things(Name(endpoint.id.namespace, account)),
        *(PortName(port.name, port.protocol) for port in endpoint.named_ports),
        *(PortName(name, None) for name in names),
    )


def named_ports_of(items: Iterable[Value]) -> frozenset[PortName]:
    """The ports that rules of policies name; what a rule excludes by name need not be there."""
    return frozenset(
        PortName(name, None if policy.id.kind == "ClusterNetworkPolicy" else rule.protocol)
        for policy in items
        if isinstance(policy, Policy)
        for rule in (*policy.ingress, *policy.egress)
        for end in (rule.src, rule.dst)
        for name in end.named_ports
    )


def _finding(ref: ObjectRef, thing: Thing) -> Finding:
    is_account = isinstance(thing, Account)
    message = f"{_absence(thing)}, so what a rule says of it matches nothing until one does"
    code = ACCOUNT_UNKNOWN if is_account else PORT_UNKNOWN
    return Finding(code, Severity.WARNING, message, ref, ("spec",))


def _absence(thing: Thing) -> str:
    match thing:
        case Account("", name):
            return f"no namespace has a service account '{name}'"
        case Account(namespace, name):
            return f"namespace {namespace} has no service account '{name}'"
        case PortName(name, None):
            return f"no pod has a port named '{name}'"
        case PortName(name, protocol):
            word = PROTOCOL_NAMES.get(protocol or 0, str(protocol))
            return f"no pod has a port of {word} named '{name}'"
    assert_never(thing)
