"""Where each value lives in the datastore: typed keys and their paths.

=====================================================  =========================
path below ``/calico``                                 key
=====================================================  =========================
``/v1/Ready``                                          :class:`ReadyKey`
``/v1/config/NAME``, ``/v1/host/NODE/config/NAME``     :class:`SettingKey`
``/v1/host/NODE/metadata``                             :class:`NodeKey`
``/v1/host/NODE/workload/k8s/NS.POD/endpoint/eth0``    :class:`EndpointKey`
``/v1/host/NODE/endpoint/NAME``                        :class:`HostEndpointKey`
``/v1/policy/profile/PROFILE/rules | tags | labels``   :class:`ProfileRulesKey` …
``/v1/policy/tier/TIER/metadata``                      :class:`TierKey`
``/v1/policy/tier/TIER/policy/KIND.NS.NAME``           :class:`PolicyKey`
``/v1/netset/NAME``                                    :class:`NetsetKey`
=====================================================  =========================

Paths here are without the ``/calico`` that the store's URL chooses.  A path of ours that no key
fits (the leader's, the cluster's and the writing's key, a newer version's) parses to None and is
left alone.

Keys are structs, not named tuples: as tuples a profile's rules, tags and labels would be one key
of a mapping.
"""

import re
from urllib.parse import quote, unquote

import msgspec

from calico_k8s.model.names import (
    EndpointId,
    NamespaceName,
    NetsetName,
    NodeName,
    PolicyId,
    ProfileId,
    TierName,
)

V1 = "/v1/"
"""Everything the controller writes and Felix reads."""
STATUS = "/felix/v2/"
"""Everything Felix writes; all of it leased."""
TOLD = "/controller/v1/"
"""What the controller tells people, and no node reads."""
LEADER_PATH = "/v1/leader"
"""Which controller writes; see :mod:`calico_k8s.controller.fence`."""
CLUSTER_PATH = "/v1/cluster"
"""Which cluster's policy this is."""
WRITTEN_PATH = "/v1/written"
"""When the controller wrote last; see :mod:`calico_k8s.datastore.stamp`."""


class ReadyKey(msgspec.Struct, frozen=True):
    """Whether the first full sync is in."""


class SettingKey(msgspec.Struct, frozen=True):
    """One setting; a node's own goes before the global one (node None)."""

    node: NodeName | None
    name: str


class NodeKey(msgspec.Struct, frozen=True):
    """A node's addresses and labels."""

    node: NodeName


class EndpointKey(msgspec.Struct, frozen=True):
    """A workload endpoint."""

    id: EndpointId


class HostEndpointKey(msgspec.Struct, frozen=True):
    """A host endpoint."""

    node: NodeName
    name: str


class ProfileRulesKey(msgspec.Struct, frozen=True):
    """A profile's rules."""

    profile: ProfileId


class ProfileTagsKey(msgspec.Struct, frozen=True):
    """The tags a profile gives."""

    profile: ProfileId


class ProfileLabelsKey(msgspec.Struct, frozen=True):
    """The labels a profile gives."""

    profile: ProfileId


class TierKey(msgspec.Struct, frozen=True):
    """A tier."""

    tier: TierName


class PolicyKey(msgspec.Struct, frozen=True):
    """A policy in its tier."""

    tier: TierName
    policy: PolicyId


class NetsetKey(msgspec.Struct, frozen=True):
    """A network set."""

    netset: NetsetName


Key = (
    ReadyKey
    | SettingKey
    | NodeKey
    | EndpointKey
    | HostEndpointKey
    | ProfileRulesKey
    | ProfileTagsKey
    | ProfileLabelsKey
    | TierKey
    | PolicyKey
    | NetsetKey
)


def key_path(key: Key) -> str:  # noqa: C901 - one arm for each kind of key
    """The path of a key; each name is percent-encoded where it holds a slash or a space."""
    match key:
        case ReadyKey():
            return "/v1/Ready"
        case SettingKey(None, name):
            return f"/v1/config/{_quote(name)}"
        case SettingKey(node, name):
            return f"/v1/host/{_quote(str(node))}/config/{_quote(name)}"
        case NodeKey(node):
            return f"/v1/host/{_quote(node)}/metadata"
        case EndpointKey(endpoint):
            workload = _quote(f"{endpoint.namespace}.{endpoint.name}")
            return f"/v1/host/{_quote(endpoint.node)}/workload/k8s/{workload}/endpoint/eth0"
        case HostEndpointKey(node, name):
            return f"/v1/host/{_quote(node)}/endpoint/{_quote(name)}"
        case ProfileRulesKey(profile):
            return f"/v1/policy/profile/{_quote(profile)}/rules"
        case ProfileTagsKey(profile):
            return f"/v1/policy/profile/{_quote(profile)}/tags"
        case ProfileLabelsKey(profile):
            return f"/v1/policy/profile/{_quote(profile)}/labels"
        case TierKey(tier):
            return f"/v1/policy/tier/{_quote(tier)}/metadata"
        case PolicyKey(tier, policy):
            return f"/v1/policy/tier/{_quote(tier)}/policy/{_quote('.'.join(policy))}"
        case NetsetKey(netset):
            return f"/v1/netset/{_quote(netset)}"


def parse_path(path: str) -> Key | None:  # noqa: C901 - one arm for each kind of key
    """The inverse of :func:`key_path`; None for a path that no key here fits."""
    parts = path.split("/")
    if "%" in path:
        parts = [unquote(part) for part in parts]
    match parts:
        case ["", "v1", "Ready"]:
            return ReadyKey()
        case ["", "v1", "config", name]:
            return SettingKey(None, name)
        case ["", "v1", "host", node, "config", name]:
            return SettingKey(NodeName(node), name)
        case ["", "v1", "host", node, "metadata"]:
            return NodeKey(NodeName(node))
        case ["", "v1", "host", node, "workload", "k8s", workload, "endpoint", "eth0"]:
            namespace, dot, name = workload.partition(".")
            if not (dot and namespace and name):
                return None
            return EndpointKey(EndpointId(NodeName(node), NamespaceName(namespace), name))
        case ["", "v1", "host", node, "endpoint", name]:
            return HostEndpointKey(NodeName(node), name)
        case ["", "v1", "policy", "profile", profile, "rules"]:
            return ProfileRulesKey(ProfileId(profile))
        case ["", "v1", "policy", "profile", profile, "tags"]:
            return ProfileTagsKey(ProfileId(profile))
        case ["", "v1", "policy", "profile", profile, "labels"]:
            return ProfileLabelsKey(ProfileId(profile))
        case ["", "v1", "policy", "tier", tier, "metadata"]:
            return TierKey(TierName(tier))
        case ["", "v1", "policy", "tier", tier, "policy", policy]:
            return _parse_policy_path(tier, policy)
        case ["", "v1", "netset", name]:
            return NetsetKey(NetsetName(name))
        case _:
            return None


def _parse_policy_path(tier: str, text: str) -> PolicyKey | None:
    parts = text.split(".", 2)
    if len(parts) != 3 or not (parts[0] and parts[2]):
        return None
    return PolicyKey(TierName(tier), PolicyId(*parts))


_SAFE = "._-~:@!$&'()*+,;="
_PLAIN = re.compile(rf"[A-Za-z0-9{re.escape(_SAFE)}]*")
"""Nearly every name: told five times quicker than ``quote`` finds nothing to do."""


def _quote(name: str) -> str:
    return name if _PLAIN.fullmatch(name) else quote(name, safe=_SAFE)
