"""Values to and from the JSON that the datastore holds; the v1 words live here and nowhere else.

In: a key and a value, or a key and bytes.  Out: bytes, or a value with the problems that were
met.  Nothing past :func:`decode` is invalid, and nothing invalid opens anything:

* a rule that is not understood (unknown field, action or match: written by a newer version or
  by hand): an allow matches nothing, a log is left out, any other denies everything;
* a policy or tier that cannot be read denies, for as much as its key tells of whom it is for;
* any other unreadable value counts as absent, which for an endpoint or a profile's rules is
  closed.

v1 words: ``inbound_rules`` and ``outbound_rules`` are ingress and egress, ``next-tier`` is pass,
``!`` before a field's name negates it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import msgspec

from calico_k8s.errors import CodecError, InputError
from calico_k8s.model import keys
from calico_k8s.model.addresses import Address, Net, parse_address, parse_net
from calico_k8s.model.domains import parse_domain
from calico_k8s.model.names import NamespaceName, ProfileId, SelectorText, TagName
from calico_k8s.model.resources import (
    Action,
    Direction,
    HostEndpoint,
    HostHook,
    Labels,
    NamedPort,
    NetworkSet,
    Node,
    Origin,
    Policy,
    Ready,
    Rule,
    Rules,
    Setting,
    StagedAction,
    Tags,
    Tier,
    Value,
    WorkloadEndpoint,
)
from calico_k8s.model.rule_codec import (
    StoredRule,
    decode_rule,
    decode_selector,
    encode_rule,
    protocol_number,
    protocol_text,
)

_T = TypeVar("_T")


class Decoded(NamedTuple):
    """A value, None where there is none to use, and what was wrong: one sentence each."""

    value: Value | None
    problems: tuple[str, ...] = ()


class StoredEndpoint(msgspec.Struct, omit_defaults=True):
    """``/host/NODE/workload/k8s/NS.POD/endpoint/eth0``; unknown fields are ignored."""

    addresses: list[str] = []
    labels: dict[str, str] = {}
    named_ports: list[tuple[str, str | int, int]] = []
    profile_ids: tuple[ProfileId, ...] = ()
    uid: str = ""
    created: float = 0.0


class StoredHostEndpoint(msgspec.Struct, omit_defaults=True):
    """``/host/NODE/endpoint/NAME``; unknown fields are ignored."""

    interface: str = ""
    expected_ips: list[str] = []
    labels: dict[str, str] = {}
    named_ports: list[tuple[str, str | int, int]] = []
    profile_ids: list[str] = []
    uid: str = ""
    created: float = 0.0


class StoredRules(msgspec.Struct, omit_defaults=True):
    """``/policy/profile/PROFILE/rules``."""

    inbound_rules: list[msgspec.Raw] = []
    outbound_rules: list[msgspec.Raw] = []
    origin: Origin | None = None


class StoredPolicy(msgspec.Struct, omit_defaults=True):
    """``/policy/tier/TIER/policy/KIND.NS.NAME``."""

    selector: str
    types: list[Direction]
    order: float | None = None
    inbound_rules: list[msgspec.Raw] = []
    outbound_rules: list[msgspec.Raw] = []
    staged: bool = False
    staged_action: str = ""
    """Empty: set, as a policy is that was staged before there were others."""
    host_hook: HostHook = HostHook.LOCAL


class StoredTier(msgspec.Struct, omit_defaults=True):
    """``/policy/tier/TIER/metadata``."""

    order: float | None = None
    default_action: str = "deny"


class StoredNode(msgspec.Struct, omit_defaults=True):
    """``/host/NODE/metadata``."""

    addresses: list[str] = []
    labels: dict[str, str] = {}
    pod_cidrs: list[str] = []


class StoredNetset(msgspec.Struct, omit_defaults=True):
    """``/netset/NAME``."""

    labels: dict[str, str] | None = {}
    nets: list[str] = []
    domains: list[str] = []


def encode(value: Value) -> bytes:
    """The stored form of a value: one line of JSON."""
    return msgspec.json.encode(_to_stored(value), order="deterministic")


def decode(key: keys.Key, raw: bytes) -> Decoded:
    """The value a key holds, with what could not be understood of it; never raises."""
    problems: list[str] = []
    try:
        value = _DECODERS[type(key)](key, raw, problems)
    except InputError as error:
        return Decoded(_closed(key), (*problems, f"{keys.key_path(key)}: {error}"))
    return Decoded(value, tuple(f"{keys.key_path(key)}: {problem}" for problem in problems))


def _closed(key: keys.Key) -> Value | None:
    """What stands for a value that cannot be read."""
    match key:
        case keys.PolicyKey(tier, policy):
            return Policy(
                id=policy,
                tier=tier,
                selector=_everything_in(NamespaceName(policy.namespace)),
                types=(Direction.INGRESS, Direction.EGRESS),
                order=float("-inf"),
            )
        case keys.TierKey(tier):
            return Tier(name=tier, order=float("-inf"))
        case _:
            return None


def _everything_in(namespace: NamespaceName) -> SelectorText:
    if not namespace:
        return SelectorText("all()")
    return SelectorText(f'projectcalico.org/namespace == "{namespace}"')


# Any: one of the stored structs, or a plain list or dict.  One arm for each kind of value.
def _to_stored(value: Value) -> Any:  # noqa: C901
    match value:
        case WorkloadEndpoint():
            return StoredEndpoint(
                addresses=list(value.addresses),
                labels=value.labels,
                named_ports=[(n, protocol_text(p), port) for n, p, port in value.named_ports],
                profile_ids=value.profiles,
                uid=value.uid,
                created=value.created,
            )
        case HostEndpoint():
            return StoredHostEndpoint(
                interface=value.interface,
                expected_ips=list(value.expected_ips),
                labels=value.labels,
                named_ports=[(n, protocol_text(p), port) for n, p, port in value.named_ports],
                profile_ids=list(value.profiles),
                uid=value.uid,
                created=value.created,
            )
        case Rules():
            return StoredRules(_raw_rules(value.ingress), _raw_rules(value.egress), value.origin)
        case Policy():
            return StoredPolicy(
                selector=value.selector,
                types=list(value.types),
                order=value.order,
                inbound_rules=_raw_rules(value.ingress),
                outbound_rules=_raw_rules(value.egress),
                staged=value.staged is not None,
                staged_action=_staged_text(value.staged),
                host_hook=value.host_hook,
            )
        case Tier():
            action = "next-tier" if value.default_action is Action.PASS else "deny"
            return StoredTier(order=value.order, default_action=action)
        case Tags():
            return value.tags
        case Labels():
            return value.labels
        case Node():
            return StoredNode(list(value.addresses), value.labels, list(value.pod_cidrs))
        case NetworkSet():
            return StoredNetset(value.labels, list(value.nets), list(value.domains))
        case Setting() | Ready():
            return value.value


def _raw_rules(rules: tuple[Rule, ...]) -> list[msgspec.Raw]:
    return [msgspec.Raw(msgspec.json.encode(encode_rule(rule))) for rule in rules]


def _parse(raw: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CodecError(f"not readable: {error}") from None


def _decode_endpoint(key: keys.EndpointKey, raw: bytes, problems: list[str]) -> Value:
    stored = _parse(raw, StoredEndpoint)
    return WorkloadEndpoint(
        id=key.id,
        addresses=_each(parse_address, stored.addresses, problems),
        labels=stored.labels,
        named_ports=_each(_named_port, stored.named_ports, problems),
        profiles=stored.profile_ids,
        uid=stored.uid,
        created=stored.created,
    )


def _decode_host_endpoint(key: keys.HostEndpointKey, raw: bytes, problems: list[str]) -> Value:
    stored = _parse(raw, StoredHostEndpoint)
    return HostEndpoint(
        node=key.node,
        name=key.name,
        interface=stored.interface,
        expected_ips=_each(parse_address, stored.expected_ips, problems),
        labels=stored.labels,
        named_ports=_each(_named_port, stored.named_ports, problems),
        profiles=tuple(ProfileId(profile) for profile in stored.profile_ids),
        uid=stored.uid,
        created=stored.created,
    )


def _named_port(stored: tuple[str, str | int, int]) -> NamedPort:
    name, protocol, port = stored
    if not 0 < port < 65536:
        raise CodecError(f"named port '{name}' has the number {port}: give 1 to 65535")
    return NamedPort(name, protocol_number(protocol), port)


def _each(
    parse: Callable[[Any], _T], items: list[Any], problems: list[str]
) -> tuple[_T, ...]:  # Any: what the stored list holds
    """The items that parse; of the others, the problem."""
    parsed = []
    for item in items:
        try:
            parsed.append(parse(item))
        except InputError as error:
            problems.append(str(error))
    return tuple(parsed)


def _decode_rules(_key: keys.ProfileRulesKey, raw: bytes, problems: list[str]) -> Value:
    stored = _parse(raw, StoredRules)
    return Rules(
        ingress=_rules(stored.inbound_rules, problems),
        egress=_rules(stored.outbound_rules, problems),
        origin=stored.origin,
    )


def _rules(raw_rules: list[msgspec.Raw], problems: list[str]) -> tuple[Rule, ...]:
    rules = (_rule(raw, problems) for raw in raw_rules)
    return tuple(rule for rule in rules if rule is not None)


def _rule(raw: msgspec.Raw, problems: list[str]) -> Rule | None:
    try:
        return decode_rule(_parse(bytes(raw), StoredRule))
    except InputError as error:
        action = _action_of(raw)
        matches_nothing = action in ("allow", "log")
        effect = "matches nothing" if matches_nothing else "denies everything"
        problems.append(f"rule not understood, so it {effect}: {error}")
        return None if matches_nothing else Rule(Action.DENY, Origin(kind="NotUnderstood"))


def _action_of(raw: msgspec.Raw) -> object:
    document = msgspec.json.decode(raw)
    return document.get("action") if isinstance(document, dict) else None


def _decode_policy(key: keys.PolicyKey, raw: bytes, problems: list[str]) -> Value:
    stored = _parse(raw, StoredPolicy)
    return Policy(
        id=key.policy,
        tier=key.tier,
        selector=decode_selector(stored.selector),
        types=tuple(stored.types),
        order=stored.order,
        ingress=_rules(stored.inbound_rules, problems),
        egress=_rules(stored.outbound_rules, problems),
        staged=_staged(stored, problems),
        host_hook=stored.host_hook,
    )


def _staged_text(action: StagedAction | None) -> str:
    return "" if action in (None, StagedAction.SET) else str(action)


def _staged(stored: StoredPolicy, problems: list[str]) -> StagedAction | None:
    """What is not understood of a staged policy decides nothing, as all of it."""
    if not stored.staged:
        return None
    try:
        return StagedAction(stored.staged_action or StagedAction.SET)
    except ValueError:
        problems.append(f"staged action '{stored.staged_action}' not understood, so it is ignored")
        return StagedAction.IGNORE


def _decode_tier(key: keys.TierKey, raw: bytes, _problems: list[str]) -> Value:
    stored = _parse(raw, StoredTier)
    if stored.default_action not in ("deny", "next-tier"):
        raise CodecError(f"default_action '{stored.default_action}' is neither deny nor next-tier")
    passes = stored.default_action == "next-tier"
    return Tier(key.tier, stored.order, Action.PASS if passes else Action.DENY)


def _decode_tags(_key: keys.ProfileTagsKey, raw: bytes, _problems: list[str]) -> Value:
    return Tags(tuple(sorted(TagName(tag) for tag in _parse(raw, list[str]))))


def _decode_labels(_key: keys.ProfileLabelsKey, raw: bytes, _problems: list[str]) -> Value:
    return Labels(_parse(raw, dict[str, str]))


def _decode_node(key: keys.NodeKey, raw: bytes, problems: list[str]) -> Value:
    stored = _parse(raw, StoredNode)
    addresses: tuple[Address, ...] = _each(parse_address, stored.addresses, problems)
    pod_cidrs: tuple[Net, ...] = _each(parse_net, stored.pod_cidrs, problems)
    return Node(key.node, addresses, stored.labels, pod_cidrs)


def _decode_netset(key: keys.NetsetKey, raw: bytes, problems: list[str]) -> Value:
    stored = _parse(raw, StoredNetset)
    nets = _each(parse_net, stored.nets, problems)
    domains = _each(parse_domain, stored.domains, problems)
    return NetworkSet(key.netset, stored.labels, nets, domains)


def _decode_setting(_key: keys.SettingKey, raw: bytes, _problems: list[str]) -> Value:
    return Setting(_parse(raw, str))


def _decode_ready(_key: keys.ReadyKey, raw: bytes, _problems: list[str]) -> Value:
    return Ready(_parse(raw, bool))


_Decoder = Callable[[Any, bytes, list[str]], Value]  # Any: the key type the decoder is listed under

_DECODERS: dict[type, _Decoder] = {
    keys.EndpointKey: _decode_endpoint,
    keys.HostEndpointKey: _decode_host_endpoint,
    keys.ProfileRulesKey: _decode_rules,
    keys.ProfileTagsKey: _decode_tags,
    keys.ProfileLabelsKey: _decode_labels,
    keys.PolicyKey: _decode_policy,
    keys.TierKey: _decode_tier,
    keys.NodeKey: _decode_node,
    keys.NetsetKey: _decode_netset,
    keys.SettingKey: _decode_setting,
    keys.ReadyKey: _decode_ready,
}
