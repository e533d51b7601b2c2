"""Policy objects of every kind for random clusters: small pools, so that they meet and collide.

Used decoded, for histories of the translator, and as manifests, for clusters of the lab.  What is
drawn is mostly valid; some of it no packet filter can do, or is of a newer version.
"""

import ipaddress
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, NamedTuple, TypeVar

_Item = TypeVar("_Item")

Object = dict[str, Any]  # Any: what JSON can say


DOMAINS = ("a.io", "*.a.io", "a*.io", "A.io.")
"""One of them is none."""


class Pools(NamedTuple):
    """The names that policies can speak of."""

    namespaces: Sequence[str]
    labels: Sequence[tuple[str, str]]
    namespace_labels: Sequence[tuple[str, str]]
    nets: Sequence[str]
    ports: Sequence[int]
    port_names: Sequence[str] = ("http",)
    accounts: Sequence[str] = ("default", "builder")
    services: Sequence[str] = ("a", "b")
    nodes: Sequence[tuple[str, str]] = ()


class PolicyMaker:
    """Makes objects; each method is one kind."""

    def __init__(self, random: Random, pools: Pools) -> None:
        self._random = random
        self._pools = pools

    def any_policy(self, number: int) -> Object:
        """An object of any kind, named by its number."""
        makers: Sequence[Callable[[int], Object]] = (
            *(self.network_policy,) * 4,
            *(self.cluster_network_policy,) * 2,
            *(self.global_network_policy,) * 2,
            *(self.calico_network_policy,) * 2,
            *(self.staged_policy,) * 2,
            self.tier,
            self.global_network_set,
            self.network_set,
        )
        return self.one(makers)(number)

    def one(self, items: Sequence[_Item]) -> _Item:
        """One of the items."""
        return self._random.choice(items)

    def chance(self, of_ten: int) -> bool:
        """True so many times of ten."""
        return self._random.randrange(10) < of_ten

    def some(self, make: Callable[[], _Item], least: int, most: int) -> list[_Item]:
        """Several, made one by one."""
        return [make() for _ in range(self._random.randint(least, most))]

    # Kubernetes.

    def network_policy(self, number: int) -> Object:
        """``networking.k8s.io/v1/NetworkPolicy``."""
        spec: Object = {"podSelector": self.label_selector()}
        if self.chance(6):
            spec["policyTypes"] = self.one((["Ingress"], ["Egress"], ["Ingress", "Egress"], []))
        if self.chance(8):
            spec["ingress"] = self.some(lambda: self._kube_rule("from"), 0, 2)
        if self.chance(5):
            spec["egress"] = self.some(lambda: self._kube_rule("to"), 0, 2)
        if self.chance(1):
            spec["ingress"] = [{"from": [{"ipBlock": {"cidr": "10.0.0.0/40"}}]}]
        return self._object("networking.k8s.io/v1", "NetworkPolicy", number, spec)

    def label_selector(self, labels: Sequence[tuple[str, str]] | None = None) -> Object:
        """A label selector, often empty."""
        pool = self._pools.labels if labels is None else labels
        key, value = self.one(pool) if pool else ("none", "")
        others = [other for each, other in pool if each == key] or [value]
        return self.one(
            (
                {},
                {"matchLabels": {key: value}},
                {"matchLabels": {key: value}},
                {"matchExpressions": [{"key": key, "operator": "Exists"}]},
                {"matchExpressions": [{"key": key, "operator": "DoesNotExist"}]},
                {"matchExpressions": [{"key": key, "operator": "NotIn", "values": [value]}]},
                {"matchExpressions": [{"key": key, "operator": "In", "values": others}]},
            )
        )

    def _kube_rule(self, peers: str) -> Object:
        rule: Object = {}
        if self.chance(8):
            rule[peers] = self.some(self._kube_peer, 0, 2)
        if self.chance(6):
            rule["ports"] = self.some(self._kube_port, 0, 2)
        return rule

    def _kube_peer(self) -> Object:
        if self.chance(2):
            cidr = self.one(self._pools.nets)
            inside = [net for net in self._pools.nets if _is_inside(net, cidr)]
            block: Object = {"cidr": cidr}
            if inside and self.chance(6):
                block["except"] = [self.one(inside)]
            return {"ipBlock": block}
        peer: Object = {}
        if self.chance(6):
            peer["namespaceSelector"] = self.label_selector(self._pools.namespace_labels)
        if self.chance(6) or not peer:
            peer["podSelector"] = self.label_selector()
        return peer

    def _kube_port(self) -> Object:
        port = self.one(self._pools.ports)
        return self.one(
            (
                {"port": port},
                {"port": port, "protocol": "TCP"},
                {"port": port, "protocol": "UDP"},
                {"port": self.one(self._pools.port_names)},
                {"port": port, "endPort": port + 50},
                {"protocol": self.one(("TCP", "UDP", "SCTP"))},
                {},
            )
        )

    def cluster_network_policy(self, number: int) -> Object:
        """``policy.networking.k8s.io/v1alpha2/ClusterNetworkPolicy``."""
        spec: Object = {
            "tier": self.one(("Admin", "Baseline", "Baseline")),
            "priority": self.one((0, 10, 10, 1000)),
            "subject": self._cluster_pods(),
        }
        if self.chance(8):
            spec["ingress"] = self.some(lambda: self._cluster_rule("from"), 0, 2)
        if self.chance(5):
            spec["egress"] = self.some(lambda: self._cluster_rule("to"), 0, 2)
        kind = "ClusterNetworkPolicy"
        return self._object("policy.networking.k8s.io/v1alpha2", kind, number, spec, scope="")

    def _cluster_pods(self) -> Object:
        namespaces = self.label_selector(self._pools.namespace_labels)
        pods = {"namespaceSelector": namespaces, "podSelector": self.label_selector()}
        return {"pods": pods} if self.chance(5) else {"namespaces": namespaces}

    def _cluster_rule(self, peers: str) -> Object:
        def peer() -> Object:
            if peers == "to" and self.chance(4):
                nodes = {"nodes": self.label_selector(self._pools.nodes)}
                return self.one((nodes, {"networks": [self.one(self._pools.nets)]}))
            return {"someday": {}} if self.chance(1) else self._cluster_pods()

        def protocol() -> Object:
            port = self.one(self._pools.ports)
            return self.one(
                (
                    {"tcp": {"destinationPort": {"number": port}}},
                    {"udp": {"destinationPort": {"range": {"start": port, "end": port + 9}}}},
                    {"destinationNamedPort": self.one(self._pools.port_names)},
                )
            )

        rule: Object = {
            "action": self.one(("Accept", "Deny", "Pass")),
            peers: self.some(peer, 1, 2),
        }
        if self.chance(5):
            rule["protocols"] = self.some(protocol, 1, 2)
        if self.chance(5):
            rule["name"] = "a rule"
        return rule

    # Calico.

    def tier(self, _number: int) -> Object:
        """``projectcalico.org/v3/Tier``, one of three."""
        name = self.one(("security", "platform", "default"))
        spec = self.one(({"order": 10}, {"order": 2_000_000, "defaultAction": "Pass"}, {}))
        return {
            "apiVersion": "projectcalico.org/v3",
            "kind": "Tier",
            "metadata": {"name": name},
            "spec": spec,
        }

    def global_network_policy(self, number: int) -> Object:
        """``projectcalico.org/v3/GlobalNetworkPolicy``."""
        spec = self._calico_spec()
        if self.chance(4):
            spec["namespaceSelector"] = self.calico_selector(self._pools.namespace_labels)
        if self.chance(2):
            spec["serviceAccountSelector"] = self.one(("all()", "has(team)"))
        kind = "GlobalNetworkPolicy"
        return self._object("projectcalico.org/v3", kind, number, spec, scope="")

    def calico_network_policy(self, number: int) -> Object:
        """``projectcalico.org/v3/NetworkPolicy``."""
        return self._object("projectcalico.org/v3", "NetworkPolicy", number, self._calico_spec())

    def staged_policy(self, number: int) -> Object:
        """One of Calico's staged kinds."""
        makers = (self.global_network_policy, self.calico_network_policy, self.network_policy)
        made = self.one(makers)(number)
        is_kubernetes = made["apiVersion"] == "networking.k8s.io/v1"
        action = self.one(("Set", "Set", "Set", "Delete", "Learn", "Ignore", "Someday"))
        if action == "Delete" and self.chance(9):
            made["spec"] = {}
        made["spec"]["stagedAction"] = action
        made["kind"] = f"Staged{'Kubernetes' if is_kubernetes else ''}{made['kind']}"
        made["apiVersion"] = "projectcalico.org/v3"
        return made

    def calico_selector(self, labels: Sequence[tuple[str, str]] | None = None) -> str:
        """A selector expression."""
        key, value = self.one(self._pools.labels if labels is None else labels)
        return self.one(
            (
                "all()",
                f"{key} == '{value}'",
                f"{key} == '{value}'",
                f"{key} != '{value}'",
                f"has({key})",
                f"!has({key})",
                f"{key} in {{'{value}', 'none'}} || !has({key})",
            )
        )

    def _calico_spec(self) -> Object:
        spec: Object = {}
        if self.chance(7):
            spec["tier"] = self.one(("default", "security", "platform", "kube-admin", "none"))
        if self.chance(7):
            spec["order"] = self.one((1, 5.5, 1000, 2000))
        if self.chance(8):
            spec["selector"] = self.calico_selector()
        if self.chance(4):
            spec["types"] = self.one((["Ingress"], ["Egress"], ["Ingress", "Egress"]))
        if self.chance(8):
            spec["ingress"] = self.some(lambda: self._calico_rule("source"), 0, 3)
        if self.chance(5):
            spec["egress"] = self.some(lambda: self._calico_rule("destination"), 0, 3)
        return spec

    def _calico_rule(self, peer: str) -> Object:
        rule: Object = {"action": self.one(("Allow", "Allow", "Deny", "Pass", "Log"))}
        ported = {"protocol": self.one(("TCP", "TCP", "UDP", 6, "SCTP"))}
        icmp = {"protocol": "ICMP", self.one(("icmp", "notICMP")): {"type": self.one((0, 8))}}
        others: Sequence[Object] = (
            *({}, {}, {}, icmp, {"protocol": "ICMPv6", "icmp": {"type": 128, "code": 0}}),
            {"notProtocol": self.one(("TCP", "UDP"))},
            {"ipVersion": self.one((4, 6))},
            self.one(({}, {"http": {"methods": ["GET"]}})),
        )
        has_ports = self.chance(4)
        rule |= ported if has_ports else self.one(others)
        other = "source" if peer == "destination" else "destination"
        if self.chance(1):
            service: Object = {"name": self.one(self._pools.services)}
            service["namespace"] = self.one(self._pools.namespaces)
            rule[peer] = {"services": service}
            return rule
        if peer == "destination" and self.chance(1):
            rule[peer] = {"domains": self.some(lambda: self.one(DOMAINS), 1, 2)}
        elif self.chance(8):
            rule[peer] = self._calico_entity()
        if self.chance(2):
            rule[other] = self._calico_entity()
        if has_ports and self.chance(6):
            to = rule.setdefault("destination", {})
            to[self.one(("ports", "ports", "notPorts"))] = self.some(self._calico_port, 1, 2)
        return rule

    def _calico_port(self) -> int | str:
        port = self.one(self._pools.ports)
        choices: Sequence[int | str] = (
            port,
            str(port),
            f"{port}:{port + 50}",
            self.one(self._pools.port_names),
        )
        return self.one(choices)

    def _calico_entity(self) -> Object:
        entity: Object = {}
        if self.chance(5):
            entity["selector"] = self.calico_selector()
        if self.chance(2):
            entity["notSelector"] = self.calico_selector()
        if self.chance(3):
            where = ("all()", "global()", self.calico_selector(self._pools.namespace_labels))
            entity["namespaceSelector"] = self.one(where)
        if self.chance(2):
            entity["nets"] = self.some(lambda: self.one(self._pools.nets), 1, 2)
        if self.chance(2):
            entity["notNets"] = self.some(lambda: self.one(self._pools.nets), 1, 2)
        if self.chance(1):
            entity["serviceAccounts"] = self.one(
                ({"names": [self.one(self._pools.accounts)]}, {"selector": "all()"})
            )
        return entity

    def global_network_set(self, number: int) -> Object:
        """``projectcalico.org/v3/GlobalNetworkSet``."""
        made = self._set("GlobalNetworkSet", number)
        del made["metadata"]["namespace"]
        return made

    def network_set(self, number: int) -> Object:
        """``projectcalico.org/v3/NetworkSet``."""
        return self._set("NetworkSet", number)

    def _set(self, kind: str, number: int) -> Object:
        nets = self.some(lambda: self.one(self._pools.nets), 0, 2)
        made = self._object("projectcalico.org/v3", kind, number, {"nets": nets})
        made["metadata"]["labels"] = dict([self.one(self._pools.labels)])
        if self.chance(2):
            made["spec"]["allowedEgressDomains"] = self.some(lambda: self.one(DOMAINS), 1, 2)
        return made

    def _object(
        self, version: str, kind: str, number: int, spec: Object, scope: str | None = None
    ) -> Object:
        metadata = {"name": f"x{number}", "resourceVersion": "7", "uid": "u"}
        if scope is None:
            metadata["namespace"] = self.one(self._pools.namespaces)
        return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}


def _is_inside(net: str, around: str) -> bool:
    inner, outer = (ipaddress.ip_network(text, strict=False) for text in (net, around))
    return (
        inner.version == outer.version and inner != outer and inner.subnet_of(outer)  # type: ignore[arg-type]  # one family
    )
