"""What Kubernetes says of a connection under NetworkPolicies, straight from the API's own words.

In: policies as manifests, and who is who.  Out: allowed or not.  It knows nothing of this project:
the definition is held to it.  Written for reading; each function quotes the rule that it is.
"""

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Object = dict[str, Any]  # Any: what JSON can say


class Pod(NamedTuple):
    """A pod: its namespace's labels, its own, its addresses, and its ports by (name, protocol)."""

    namespace: str
    namespace_labels: Mapping[str, str]
    labels: Mapping[str, str]
    addresses: tuple[str, ...]
    named_ports: Mapping[tuple[str, str], int]


class Connection(NamedTuple):
    """A new connection; an end is a pod, or only an address."""

    src: Pod | None
    src_address: str
    dst: Pod | None
    dst_address: str
    protocol: str
    port: int


def is_allowed(policies: Sequence[Object], connection: Connection) -> bool:
    """Egress of the source and ingress of the destination must both allow; a pod reaches itself."""
    if connection.src is not None and connection.src == connection.dst:
        return True
    return _direction(policies, connection, "Egress") and _direction(
        policies, connection, "Ingress"
    )


def _direction(policies: Sequence[Object], connection: Connection, direction: str) -> bool:
    """Not isolated: everything; isolated: what some rule of some applying policy allows."""
    pod = connection.dst if direction == "Ingress" else connection.src
    if pod is None:
        return True
    applying = [
        policy
        for policy in policies
        if policy["metadata"]["namespace"] == pod.namespace
        and _selects(policy["spec"].get("podSelector") or {}, pod.labels)
        and direction in _types(policy["spec"])
    ]
    return not applying or any(
        _rule_matches(rule, policy, connection, direction)
        for policy in applying
        for rule in policy["spec"].get(direction.lower()) or []
    )


def _types(spec: Object) -> list[str]:
    """Absent or empty: Ingress, and Egress if there is an egress rule."""
    written: list[str] = spec.get("policyTypes") or []
    return written or (["Ingress", "Egress"] if spec.get("egress") else ["Ingress"])


def _rule_matches(rule: Object, policy: Object, connection: Connection, direction: str) -> bool:
    """Absent or empty from, to and ports: any; entries ORed; peers and ports ANDed."""
    peers = rule.get("from" if direction == "Ingress" else "to") or []
    ports = rule.get("ports") or []
    if any("cidr" in (p.get("ipBlock") or {}) and not _is_net(p["ipBlock"]["cidr"]) for p in peers):
        return False
    return (not peers or any(_peer(peer, policy, connection, direction) for peer in peers)) and (
        not ports or any(_port(port, connection) for port in ports)
    )


def _peer(peer: Object, policy: Object, connection: Connection, direction: str) -> bool:
    is_ingress = direction == "Ingress"
    pod = connection.src if is_ingress else connection.dst
    if "ipBlock" in peer:
        address = connection.src_address if is_ingress else connection.dst_address
        block = peer["ipBlock"]
        return _in_net(address, block["cidr"]) and not any(
            _in_net(address, net) for net in block.get("except") or []
        )
    if pod is None:
        return False
    if peer.get("namespaceSelector") is None:
        is_there = pod.namespace == policy["metadata"]["namespace"]
    else:
        is_there = _selects(peer["namespaceSelector"], pod.namespace_labels)
    return is_there and _selects(peer.get("podSelector") or {}, pod.labels)


def _port(port: Object, connection: Connection) -> bool:
    """Protocol TCP where none is written; a name is the destination pod's own number for it."""
    if (port.get("protocol") or "TCP") != connection.protocol:
        return False
    wanted = port.get("port")
    if wanted is None:
        return True
    if isinstance(wanted, str):
        named = connection.dst.named_ports if connection.dst is not None else {}
        return named.get((wanted, connection.protocol)) == connection.port
    return bool(wanted <= connection.port <= (port.get("endPort") or wanted))


def _selects(selector: Object, labels: Mapping[str, str]) -> bool:
    """Everything must hold; without the label NotIn and DoesNotExist do, In and Exists do not."""
    wanted = (selector.get("matchLabels") or {}).items()
    return wanted <= labels.items() and all(
        _holds(requirement, labels) for requirement in selector.get("matchExpressions") or []
    )


def _holds(requirement: Object, labels: Mapping[str, str]) -> bool:
    key, values = requirement["key"], requirement.get("values") or []
    match requirement["operator"]:
        case "In":
            return key in labels and labels[key] in values
        case "NotIn":
            return key not in labels or labels[key] not in values
        case "Exists":
            return key in labels
        case _:
            return key not in labels


def _in_net(address: str, net: str) -> bool:
    parsed = ipaddress.ip_network(net, strict=False)
    return ipaddress.ip_address(address) in parsed


def _is_net(net: str) -> bool:
    try:
        ipaddress.ip_network(net, strict=False)
    except ValueError:
        return False
    return True
