"""The local end of a rule, decided for one endpoint.

In: a rule's criteria for its own endpoint (``dst`` of an ingress rule, ``src`` of an egress
rule), and that endpoint.  Out: whether and where the rule speaks for it.  The other end is left to
ipsets.

Nets and port numbers of the local end stay in the rule as they are.  A *question* is what the
kernel should not be asked: tag, selector, network set, named port.  Its answer is part of a
policy group's identity, so it holds no more than it must: of the endpoint's addresses only where
they differ.
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from calico_k8s.calc.labels import compiled
from calico_k8s.calc.netsets import Netsets
from calico_k8s.model.addresses import Address, Net, Version, address_net, address_version
from calico_k8s.model.names import NetsetName, SelectorText, TagName
from calico_k8s.model.resources import EntityMatch, NamedPort, Rule
from calico_k8s.policy.match import in_nets


class LocalMatch(NamedTuple):
    """Where a rule speaks for an endpoint; without anything given, wherever else it matches."""

    ip_version: Version | None = None
    nets: tuple[Net, ...] = ()
    """In place of the rule's nets: the addresses for which it holds."""
    ports: tuple[int, ...] = ()
    """The numbers of the rule's named ports here, sorted."""
    not_ports: tuple[int, ...] = ()


EVERYWHERE = LocalMatch()


def is_question(entity: EntityMatch) -> bool:
    """Whether a local end asks something that has to be decided for each endpoint."""
    return bool(
        entity.tag is not None
        or entity.selector is not None
        or entity.netset is not None
        or entity.named_ports
        or entity.not_tag is not None
        or entity.not_selector is not None
        or entity.not_netset is not None
        or entity.not_named_ports
    )


class LocalEnd:
    """One endpoint, to be asked about the local ends of rules.

    ``depends_on_nets`` says afterwards whether any answer depends on the endpoint's addresses and
    on network sets; else every endpoint of the same traits has the same answers.
    """

    def __init__(
        self,
        labels: Mapping[str, str],
        tags: AbstractSet[TagName],
        named_ports: tuple[NamedPort, ...],
        addresses: tuple[Address, ...],
        netsets: Netsets,
    ) -> None:
        self._labels = labels
        self._tags = tags
        self._named_ports = named_ports
        self._addresses = addresses
        self._netsets = netsets
        self.depends_on_nets = False

    def decide(self, rule: Rule, entity: EntityMatch) -> LocalMatch | None:
        """Where the rule speaks for this endpoint; None: nowhere."""
        if entity.tag is not None and entity.tag not in self._tags:
            return None
        if entity.not_tag is not None and entity.not_tag in self._tags:
            return None
        ports = self._numbers(rule, entity.named_ports)
        if entity.named_ports and not (ports or entity.ports):
            return None
        place = self._place(rule, entity)
        if place is None:
            return None
        return place._replace(ports=ports, not_ports=self._numbers(rule, entity.not_named_ports))

    def _numbers(self, rule: Rule, names: tuple[str, ...]) -> tuple[int, ...]:
        found = {
            named.port
            for named in self._named_ports
            if named.name in names and named.protocol == rule.protocol
        }
        return tuple(sorted(found))

    def _place(self, rule: Rule, entity: EntityMatch) -> LocalMatch | None:
        addresses = [a for a in self._addresses if rule.ip_version in (None, address_version(a))]
        if not addresses:
            return EVERYWHERE if self._holds(entity, None) else None
        holding = [a for a in addresses if self._holds(entity, a)]
        if len(holding) == len(addresses):
            return EVERYWHERE
        if not holding:
            return None
        for version in (4, 6):
            if holding == [a for a in addresses if address_version(a) == version]:
                return LocalMatch(ip_version=version)
        inside = [a for a in holding if not entity.nets or in_nets(entity.nets, a)]
        return LocalMatch(nets=tuple(map(address_net, inside))) if inside else None

    def _holds(self, entity: EntityMatch, address: Address | None) -> bool:
        return (
            (entity.selector is None or self._is_selected(entity.selector, address))
            and (entity.not_selector is None or not self._is_selected(entity.not_selector, address))
            and (entity.netset is None or self._is_in(entity.netset, address))
            and (entity.not_netset is None or not self._is_in(entity.not_netset, address))
        )

    def _is_selected(self, text: SelectorText, address: Address | None) -> bool:
        if compiled(text)(self._labels):
            return True
        self.depends_on_nets = True
        return address is not None and self._netsets.is_selected(text, address)

    def _is_in(self, name: NetsetName, address: Address | None) -> bool:
        self.depends_on_nets = True
        return address is not None and self._netsets.table(name).holds(address)
