"""Host endpoints to the model.

In: objects of ``projectcalico.org/v3`` HostEndpoint.  Out: host endpoints, and findings.  A piece
that cannot be used is told, and opens nothing: a profile or port that cannot be read allows
nothing.  Without a node or an interface there is nothing that it could be enforced on.

Source: Calico, api/pkg/apis/projectcalico/v3/hostendpoint.go.
"""

from typing import Any, TypeVar

import msgspec

from calico_k8s.errors import InputError
from calico_k8s.model import keys
from calico_k8s.model.addresses import Address, parse_address
from calico_k8s.model.names import NodeName, ProfileId
from calico_k8s.model.resources import (
    EVERY_INTERFACE,
    Action,
    HostEndpoint,
    NamedPort,
    Node,
    Origin,
    Protocol,
    Rule,
    Rules,
)
from calico_k8s.translate.calico_rules import read_protocol
from calico_k8s.translate.findings import Code
from calico_k8s.translate.labels import own_labels
from calico_k8s.translate.objects import CalicoHostEndpoint, Port, object_ref
from calico_k8s.translate.reading import Document, Misread, Reader, Reading, convert

INTERFACE_NAME_MAX = 15  # linux/if.h, IFNAMSIZ - 1
_Items = TypeVar("_Items", bound=tuple[Any, ...])  # Any: what the list holds
_FIELDS = ("node", "interfaceName", "expectedIPs", "profiles", "ports")


class _Port(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    port: Port
    protocol: str | int


def profile_id(name: str) -> ProfileId:
    """What the Profile object of that name becomes."""
    return ProfileId(f"{_WRITTEN_PREFIX}{name}")


def profile_name(profile: ProfileId) -> str:
    """The name of the Profile object that became it."""
    return profile.removeprefix(_WRITTEN_PREFIX)


_WRITTEN_PREFIX = "profile."
ALLOW_ALL_NAME = "projectcalico-default-allow"
ALLOW_ALL_PROFILE = profile_id(ALLOW_ALL_NAME)
"""Built in: what no policy speaks of is allowed.  Host endpoints that are made have it.

Source: Calico, libcalico-go/lib/resources/static.go, for this name; the others are
kube-controllers/pkg/controllers/node's.
"""
_CREATED_BY, _CREATOR = "projectcalico.org/created-by", "calico-kube-controllers"


def auto_host_endpoint(node: Node) -> HostEndpoint:
    """The host endpoint of a node for which none is written: all its interfaces, by its labels."""
    return HostEndpoint(
        node=node.name,
        name=f"{node.name}-auto-hep",
        interface=EVERY_INTERFACE,
        expected_ips=node.addresses,
        labels={**own_labels(node.labels), _CREATED_BY: _CREATOR},
        profiles=(ALLOW_ALL_PROFILE,),
    )


def allow_all_rules() -> Rules:
    """What :data:`ALLOW_ALL_PROFILE` holds."""
    origin = Origin("Profile", name=ALLOW_ALL_NAME)
    rules = (Rule(Action.ALLOW, msgspec.structs.replace(origin, index=0)),)
    return Rules(rules, rules, origin)


def read_host_endpoint(value: CalicoHostEndpoint) -> Reading:
    """What a host endpoint says."""
    reader = Reader(object_ref(value))
    spec = value.spec if isinstance(value.spec, dict) else {}
    expected = _expected_ips(reader, spec)
    try:
        node, interface = _place(spec, expected)
    except Misread as error:
        reader.tell_unusable(error, "the host endpoint protects nothing")
        return reader.nothing()
    endpoint = HostEndpoint(
        node=node,
        name=reader.ref.name,
        interface=interface,
        expected_ips=expected,
        labels=own_labels(value.metadata.labels or {}),
        named_ports=_ports(reader, spec),
        profiles=_profiles(reader, spec),
        uid=value.metadata.uid or "",
        created=made.timestamp() if (made := value.metadata.creation_timestamp) else 0.0,
    )
    _tell_unknown(reader, spec)
    key = keys.HostEndpointKey(endpoint.node, endpoint.name)
    return Reading({key: endpoint}, tuple(reader.findings))


def _place(spec: Document, expected: tuple[Address, ...]) -> tuple[NodeName, str]:
    """The node, and the interface or what tells it."""
    node, interface = _text(spec, "node"), _interface(spec)
    if not node:
        raise Misread(("spec", "node"), "is missing")
    if not (interface or expected):
        path = ("spec", "interfaceName")
        raise Misread(path, "is missing, and no expectedIPs tells the interface")
    return NodeName(node), interface


def _text(spec: Document, field: str) -> str:
    text = spec.get(field) or ""
    if not isinstance(text, str):
        raise Misread(("spec", field), "should be text")
    return text


def _interface(spec: Document) -> str:
    name = _text(spec, "interfaceName")
    is_name = len(name) <= INTERFACE_NAME_MAX and not any(c.isspace() or c in "/+" for c in name)
    if not is_name or (EVERY_INTERFACE in name and name != EVERY_INTERFACE):
        raise Misread(
            ("spec", "interfaceName"), f"'{name}' is neither an interface's name, as eth0, nor *"
        )
    return name


def _expected_ips(reader: Reader, spec: Document) -> tuple[Address, ...]:
    found: list[Address] = []
    for index, text in enumerate(_list(reader, spec, "expectedIPs", tuple[str, ...])):
        try:
            found.append(parse_address(text))
        except InputError as error:
            wrong = Misread(("spec", "expectedIPs", index), f"is no address: {error}")
            reader.tell_unusable(wrong, "it is left out")
    return tuple(dict.fromkeys(found))


def _profiles(reader: Reader, spec: Document) -> tuple[ProfileId, ...]:
    names = _list(reader, spec, "profiles", tuple[str, ...])
    return tuple(profile_id(name) for name in dict.fromkeys(names))


def _ports(reader: Reader, spec: Document) -> tuple[NamedPort, ...]:
    found: dict[tuple[str, Protocol], NamedPort] = {}
    for index, port in enumerate(_list(reader, spec, "ports", tuple[_Port, ...])):
        try:
            protocol = read_protocol(port.protocol, ("spec", "ports", index, "protocol"))
        except Misread as error:
            reader.tell_unusable(error, "the port has no name")
            continue
        assert protocol is not None  # it is written, or the list is refused whole
        found.setdefault((port.name, protocol), NamedPort(port.name, protocol, port.port))
    return tuple(sorted(found.values()))


def _list(reader: Reader, spec: Document, field: str, type_: type[_Items]) -> _Items:
    try:
        return convert(spec.get(field) or (), type_, ("spec", field))
    except Misread as error:
        reader.tell_unusable(error, "none of them counts")
        return type_()


def _tell_unknown(reader: Reader, spec: Document) -> None:
    for field in sorted(spec.keys() - set(_FIELDS)):
        error = Misread(("spec", field), "is no field that is known here")
        reader.tell(Code.POLICY_INVALID, f"{error}: it is not looked at", error.path)
