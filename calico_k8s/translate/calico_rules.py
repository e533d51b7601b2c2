"""A rule of a Calico policy to rules of the model.

In: one rule's document, whose policy it is in, and the ports that services lead to.  Out: rules of
the same place; more than one where it names a service as destination, whose pods may have
different ports.  All criteria of a rule must hold together; entries of one list are alternatives.

Where a rule's selectors look (``selector`` here is any of selector, notSelector, serviceAccounts
and namespaceSelector):

=========================  ===============================  =====================================
                           without namespaceSelector        with it
=========================  ===============================  =====================================
GlobalNetworkPolicy        everywhere, network sets too     in namespaces it is true of;
NetworkPolicy              in its own namespace, as soon    ``global()``: what is in none
                           as there is one of ``selector``
=========================  ===============================  =====================================

Source: Calico, libcalico-go/lib/backend/syncersv1/updateprocessors/rules.go.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, NamedTuple

import msgspec

import grammar
from calico_k8s.model.addresses import Version
from calico_k8s.model.domains import DomainPattern
from calico_k8s.model.names import NetsetName, SelectorText
from calico_k8s.model.resources import (
    ANYTHING,
    ICMP,
    ICMPV6,
    PROTOCOL_NUMBERS,
    PROTOCOLS_WITH_PORTS,
    Action,
    Direction,
    EntityMatch,
    IcmpMatch,
    PortRange,
    Protocol,
    Rule,
)
from calico_k8s.translate.findings import FieldPath, Name
from calico_k8s.translate.network_policies import PORT_MAX, merge_ranges, port_name
from calico_k8s.translate.reading import (
    Document,
    Misread,
    Reader,
    convert,
    read_domains,
    read_nets,
)
from calico_k8s.translate.selecting import (
    conjunction,
    in_namespace,
    parse_account_selector,
    parse_calico,
    parse_namespace_selector,
    runs_as,
)

_ACTIONS = {str(action): action for action in Action}
_FAMILY: dict[Protocol, Version] = {ICMP: 4, ICMPV6: 6}
_RANGE = re.compile(r"(\d{1,5}):(\d{1,5})")
_ICMP_TYPE_MAX, _ICMP_CODE_MAX = 254, 255

StrictPort = int | str


class AccountMatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``serviceAccounts``: both must hold."""

    names: tuple[str, ...] | None = None
    selector: str | None = None


class ServiceMatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``services``: what one service leads to."""

    name: str
    namespace: str | None = None


class IcmpFields(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``icmp`` or ``notICMP``."""

    type: int | None = None
    code: int | None = None


class EntityFields(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """``source`` or ``destination``."""

    nets: tuple[str, ...] | None = None
    not_nets: tuple[str, ...] | None = None
    selector: str | None = None
    not_selector: str | None = None
    namespace_selector: str | None = None
    service_accounts: AccountMatch | None = None
    services: ServiceMatch | None = None
    domains: tuple[str, ...] | None = None
    ports: tuple[StrictPort, ...] | None = None
    not_ports: tuple[StrictPort, ...] | None = None


class RuleFields(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """A rule; ``metadata`` says nothing of packets."""

    action: str
    ip_version: Literal[4, 6] | None = msgspec.field(default=None, name="ipVersion")
    protocol: int | str | None = None
    not_protocol: int | str | None = None
    icmp: IcmpFields | None = None
    not_icmp: IcmpFields | None = msgspec.field(default=None, name="notICMP")
    source: EntityFields | None = None
    destination: EntityFields | None = None
    metadata: Document = None


class ServicePort(NamedTuple):
    """A port that a service's endpoints have."""

    protocol: Protocol
    port: int


PortsOf = Callable[[Name], Iterable[ServicePort]]
"""The ports that a service leads to now, sorted; none where it is not there."""


def service_netset(service: Name, port: ServicePort | None = None) -> NetsetName:
    """The network set of what a service leads to; of one port, where that is given."""
    whole = f"service/{service.namespace}/{service.name}"
    return NetsetName(whole if port is None else f"{whole}/{port.protocol}:{port.port}")


class RuleReader:
    """Reads the rules of one policy; ``namespace`` is empty for a cluster-wide one."""

    def __init__(self, reader: Reader, namespace: str, ports_of: PortsOf) -> None:
        self._reader = reader
        self._namespace = namespace
        self._ports_of = ports_of
        self.services: set[Name] = set()
        self.accounts: set[Name] = set()

    def ingress(self, document: Document, path: FieldPath, index: int) -> Iterator[Rule]:
        """The rules of one of ``ingress``."""
        return self._read(document, path, index, Direction.INGRESS)

    def egress(self, document: Document, path: FieldPath, index: int) -> Iterator[Rule]:
        """The rules of one of ``egress``."""
        return self._read(document, path, index, Direction.EGRESS)

    def _read(
        self, document: Document, path: FieldPath, index: int, direction: Direction
    ) -> Iterator[Rule]:
        _refuse(document, path)
        fields = convert(document, RuleFields, path)
        _check_domains(fields, direction, path)
        action = _ACTIONS.get(fields.action.lower())
        if action is None:
            raise Misread(
                (*path, "action"), f"'{fields.action}' is none of Allow, Deny, Pass and Log"
            )
        protocol = read_protocol(fields.protocol, (*path, "protocol"))
        not_protocol = read_protocol(fields.not_protocol, (*path, "notProtocol"))
        icmp = _icmp(fields.icmp, protocol, (*path, "icmp"))
        not_icmp = _icmp(fields.not_icmp, protocol, (*path, "notICMP"))
        family = _FAMILY.get(protocol or 0)
        if family is not None and fields.ip_version not in (None, family):
            raise Misread(
                (*path, "ipVersion"), f"is {fields.ip_version}, and the protocol's is {family}"
            )
        rule = Rule(
            action,
            self._reader.origin(index),
            ip_version=fields.ip_version,
            protocol=protocol,
            not_protocol=not_protocol,
            icmp=icmp,
            not_icmp=not_icmp,
            src=self._entity(fields.source, protocol, (*path, "source")),
            dst=self._entity(fields.destination, protocol, (*path, "destination")),
        )
        yield from self._with_services(rule, fields, path, direction)

    def _with_services(
        self, rule: Rule, fields: RuleFields, path: FieldPath, direction: Direction
    ) -> Iterator[Rule]:
        """The rule, or what it is where it names a service: one for each of the service's ports."""
        src = self._service(fields.source, (*path, "source"))
        dst = self._service(fields.destination, (*path, "destination"))
        if src is None and dst is None:
            yield rule
            return
        is_ingress = direction is Direction.INGRESS
        if (dst if is_ingress else src) is not None:
            at = (*path, "destination" if is_ingress else "source", "services")
            raise Misread(at, "stands in the source of ingress or the destination of egress only")
        self.services |= {service for service in (src, dst) if service is not None}
        if src is not None:
            netset = EntityMatch(
                netset=service_netset(src),
                ports=rule.src.ports,
                named_ports=rule.src.named_ports,
                not_ports=rule.src.not_ports,
                not_named_ports=rule.src.not_named_ports,
            )
            yield msgspec.structs.replace(rule, src=netset)
        if dst is not None:
            for port in self._ports_of(dst):
                if rule.protocol not in (None, port.protocol):
                    continue
                wanted = (PortRange(port.port, port.port),)
                target = EntityMatch(netset=service_netset(dst, port), ports=wanted)
                yield msgspec.structs.replace(rule, protocol=port.protocol, dst=target)

    def _service(self, fields: EntityFields | None, path: FieldPath) -> Name | None:
        if fields is None or fields.services is None:
            return None
        namespace = fields.services.namespace or self._namespace
        if not namespace:
            raise Misread((*path, "services", "namespace"), "is missing: no namespace is its own")
        others = (
            *(fields.nets, fields.not_nets, fields.selector, fields.not_selector),
            *(fields.namespace_selector, fields.service_accounts),
        )
        is_destination = path[-1] == "destination"
        if any(others) or (is_destination and (fields.ports or fields.not_ports)):
            raise Misread((*path, "services"), "stands beside what it says itself: give it alone")
        return Name(namespace, fields.services.name)

    def _entity(
        self, fields: EntityFields | None, protocol: Protocol | None, path: FieldPath
    ) -> EntityMatch:
        if fields is None:
            return ANYTHING
        ports, names = _ports(fields.ports, protocol, (*path, "ports"))
        not_ports, not_names = _ports(fields.not_ports, protocol, (*path, "notPorts"))
        not_selector = None
        if fields.not_selector:
            parsed = parse_calico(fields.not_selector, (*path, "notSelector"))
            not_selector = SelectorText(grammar.print_selector(parsed))
        return EntityMatch(
            selector=self._selector(fields, path),
            nets=read_nets(fields.nets, (*path, "nets")),
            ports=ports,
            named_ports=names,
            not_selector=not_selector,
            not_nets=read_nets(fields.not_nets, (*path, "notNets")),
            not_ports=not_ports,
            not_named_ports=not_names,
            domains=_domains(fields.domains, names, path),
        )

    def _selector(self, fields: EntityFields, path: FieldPath) -> SelectorText | None:
        """Everything positive that is said of labels; None where nothing is."""
        accounts = fields.service_accounts
        parts: list[grammar.Selector] = []
        if fields.namespace_selector:
            at = (*path, "namespaceSelector")
            parts.append(
                parse_namespace_selector(fields.namespace_selector, at, allows_global=True)
            )
        elif self._namespace and (fields.selector or fields.not_selector or accounts):
            parts.append(in_namespace(self._namespace))
        if accounts is not None and accounts.names:
            parts.append(runs_as(accounts.names))
            where = "" if fields.namespace_selector else self._namespace
            self.accounts |= {Name(where, name) for name in accounts.names}
        if accounts is not None and accounts.selector:
            at = (*path, "serviceAccounts", "selector")
            parts.append(parse_account_selector(accounts.selector, at))
        if fields.selector:
            parts.append(parse_calico(fields.selector, (*path, "selector")))
        return conjunction(parts) if parts else None


def _refuse(document: Document, path: FieldPath) -> None:
    """What is known and cannot be done."""
    if not isinstance(document, dict):
        return
    if document.get("http") is not None:
        raise Misread(
            (*path, "http"), "needs a proxy that reads requests: packets do not show them"
        )


def _check_domains(fields: RuleFields, direction: Direction, path: FieldPath) -> None:
    """Domains stand in the destination of egress rules that allow, beside ports and ``not`` nets.

    Source: Calico, api/pkg/apis/projectcalico/v3/policy_common.go: the enterprise edition's.
    """
    if fields.source is not None and fields.source.domains:
        raise Misread((*path, "source", "domains"), "stands in the destination of egress only")
    to, at = fields.destination, (*path, "destination", "domains")
    if to is None or not to.domains:
        return
    if direction is not Direction.EGRESS:
        raise Misread(at, "stands in the destination of egress only")
    if fields.action.lower() != "allow":
        raise Misread(at, "stands in rules that allow only: names are learnt to open, not to close")
    others = (to.nets, to.selector, to.namespace_selector, to.service_accounts, to.services)
    if any(others):
        raise Misread(at, "stands beside what else says who it is: give it alone, with ports")


def _domains(
    written: tuple[str, ...] | None, port_names: tuple[str, ...], path: FieldPath
) -> tuple[DomainPattern, ...]:
    if written and port_names:
        raise Misread((*path, "ports"), f"names a port, '{port_names[0]}', which only pods have")
    return read_domains(written, (*path, "domains"))


def read_protocol(written: int | str | None, path: FieldPath) -> Protocol | None:
    """A protocol by name or number; None where none is written.

    Raises:
        Misread: it is no protocol.
    """
    if written is None:
        return None
    number = PROTOCOL_NUMBERS.get(written.lower()) if isinstance(written, str) else written
    if number is None and isinstance(written, str) and written.isdecimal():
        number = int(written)
    if number is None or not 1 <= number <= 255:
        known = "TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite or 1 to 255"
        raise Misread(path, f"'{written}' is no protocol: give {known}")
    return number


def _icmp(
    fields: IcmpFields | None, protocol: Protocol | None, path: FieldPath
) -> IcmpMatch | None:
    if fields is None or (fields.type is None and fields.code is None):
        return None
    if protocol not in _FAMILY:
        raise Misread(path, "needs the protocol ICMP or ICMPv6 beside it")
    if fields.type is None:
        raise Misread((*path, "code"), "needs a type beside it")
    if not 0 <= fields.type <= _ICMP_TYPE_MAX or not 0 <= (fields.code or 0) <= _ICMP_CODE_MAX:
        raise Misread(path, f"has a type over {_ICMP_TYPE_MAX} or a code over {_ICMP_CODE_MAX}")
    return IcmpMatch(fields.type, fields.code)


def _ports(
    written: tuple[StrictPort, ...] | None, protocol: Protocol | None, path: FieldPath
) -> tuple[tuple[PortRange, ...], tuple[str, ...]]:
    if not written:
        return (), ()
    if protocol not in PROTOCOLS_WITH_PORTS:
        raise Misread(path, "needs the protocol TCP, UDP or SCTP beside it")
    read = [_port(port, (*path, index)) for index, port in enumerate(written)]
    names = {port for port in read if isinstance(port, str)}
    return merge_ranges(p for p in read if isinstance(p, PortRange)), tuple(sorted(names))


def _port(written: StrictPort, path: FieldPath) -> PortRange | str:
    if isinstance(written, str) and written.isdecimal():
        written = int(written)
    if isinstance(written, int):
        low = high = written
    elif found := _RANGE.fullmatch(written):
        low, high = int(found[1]), int(found[2])
    else:
        return port_name(written, path)
    if not 0 <= low <= high <= PORT_MAX:
        raise Misread(path, f"'{written}' is no port: give 1 to {PORT_MAX}, or LOW:HIGH")
    return PortRange(low, high)
