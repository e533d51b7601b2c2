"""Questions about domains: who may reach what a name stands for, whatever its addresses are.

In: a snapshot and a name.  Out: the snapshot in which every node has learnt one address of each
family for the name, and these as a party.  No stored object has such an address, no narrow net holds
it, and it has no other name: what is said of it is what is said of the name.
"""

import ipaddress
from collections.abc import Iterator
from dataclasses import replace

from calico_k8s.calc.nets import prefix_length
from calico_k8s.errors import InputError
from calico_k8s.model.addresses import Address, address_net, net_contains
from calico_k8s.model.domains import WILDCARD, DomainName, parse_domain
from calico_k8s.policy.snapshot import Snapshot
from calico_k8s.policy.verdict import Decision
from calico_k8s.policy.ways import nodes_known
from calico_k8s.query.reach import Party

POOLS = tuple(map(ipaddress.ip_network, ("192.0.2.0/24", "2001:db8::/120")))
"""For documentation: nobody has them.  Source: RFC 5737, RFC 3849."""


def is_domain(text: str) -> bool:
    """Whether somebody who names a party means a domain: a name with a dot, that is no address."""
    last = text.removesuffix(".").rpartition(".")[2]
    return "." in text and "/" not in text and ":" not in text and not last.isdecimal()


def find_domain(snapshot: Snapshot, text: str) -> tuple[Snapshot, Party]:
    """The party that a domain is, and the snapshot in which it is known.

    Raises:
        InputError: it is no domain name, or one with a wildcard.
    """
    name = DomainName(parse_domain(text))
    if WILDCARD in name:
        raise InputError(f"'{text}' stands for many names: ask for one of them")
    addresses = frozenset(_addresses(snapshot))
    known = replace(snapshot, names={node: {name: addresses} for node in nodes_known(snapshot)})
    return known, Party(text, tuple(sorted(map(address_net, addresses))))


def unknown_domains(decision: Decision) -> tuple[str, ...]:
    """The domains of rules that were looked at and could not be known to mean the destination."""
    rules = (step.rule for step in decision.steps if step.rule and step.outcome == "no match")
    return tuple(dict.fromkeys(domain for rule in rules for domain in rule.dst.domains))


def _addresses(snapshot: Snapshot) -> Iterator[Address]:
    """One of each family that no object speaks of by itself."""
    nets = {net for netset in snapshot.netsets.values() for net in netset.nets}
    held = [(each.ingress, each.egress) for each in snapshot.policies.values()]
    held += [(each.ingress, each.egress) for each in snapshot.profile_rules.values()]
    for ingress, egress in held:
        for rule in (*ingress, *egress):
            nets.update(rule.src.nets, rule.src.not_nets, rule.dst.nets, rule.dst.not_nets)
    narrow = [net for net in nets if prefix_length(net)]
    for pool in POOLS:
        free = (Address(str(address)) for address in pool.hosts())
        yield next(a for a in free if not any(net_contains(net, a) for net in narrow))
