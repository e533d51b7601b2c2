"""Calico's policies, tiers, profiles and network sets to the model.

In: objects of ``projectcalico.org/v3``, as they are written or exported.  Out: tiers, policies,
profile rules and network sets, and findings.

Source: Calico, api/pkg/apis/projectcalico/v3.
"""

import math
import sys
from collections.abc import Callable, Mapping
from typing import Literal, TypeVar

import grammar
from calico_k8s.errors import InputError
from calico_k8s.model import keys
from calico_k8s.model.addresses import parse_net
from calico_k8s.model.domains import parse_domain
from calico_k8s.model.names import NetsetName, PolicyId, SelectorText, TierName
from calico_k8s.model.resources import (
    EARLY_HOOKS,
    Action,
    Direction,
    HostHook,
    Labels,
    NetworkSet,
    Policy,
    Rule,
    Rules,
    Tier,
    Value,
)
from calico_k8s.translate.calico_rules import PortsOf, RuleReader
from calico_k8s.translate.findings import Code, FieldPath
from calico_k8s.translate.host_endpoints import ALLOW_ALL_NAME, profile_id
from calico_k8s.translate.labels import (
    NAMESPACE_LABEL,
    NAMESPACE_PREFIX,
    inherited_labels,
    own_labels,
)
from calico_k8s.translate.objects import (
    CalicoNetworkPolicy,
    CalicoNetworkSet,
    CalicoProfile,
    CalicoTier,
    GlobalNetworkPolicy,
    GlobalNetworkSet,
    StagedGlobalNetworkPolicy,
    StagedNetworkPolicy,
    object_ref,
)
from calico_k8s.translate.reading import (
    BOTH,
    Document,
    Misread,
    Reader,
    Reading,
    action_word,
    convert,
)
from calico_k8s.translate.selecting import (
    IN_SOME_NAMESPACE,
    conjunction,
    in_namespace,
    parse_account_selector,
    parse_calico,
    parse_namespace_selector,
)
from calico_k8s.translate.tiers import BUILT_IN_TIERS, DEFAULT_TIER

FIRST = -sys.float_info.max
"""The order of what cannot be read: nothing before it allows what it may deny."""

_SHARED = (
    *("tier", "order", "selector", "serviceAccountSelector", "types", "ingress", "egress"),
    "performanceHints",
)
_GLOBAL = (*_SHARED, "namespaceSelector", "doNotTrack", "preDNAT", "applyOnForward")
_Item = TypeVar("_Item")

_DIRECTIONS = {"ingress": Direction.INGRESS, "egress": Direction.EGRESS}


def read_calico_policy(
    value: GlobalNetworkPolicy
    | CalicoNetworkPolicy
    | StagedGlobalNetworkPolicy
    | StagedNetworkPolicy,
    ports_of: PortsOf,
) -> Reading:
    """What a policy says.

    One whose endpoints or tier cannot be told denies everything for all that it could select.
    """
    reader = Reader(object_ref(value))
    spec = value.spec if isinstance(value.spec, dict) else {}
    try:
        if not isinstance(value.spec, dict | None):
            raise Misread(("spec",), "should be a mapping")
        tier = tier_name(spec)
        order = _order(spec)
        types = _types(spec)
        hook = _host_hook(spec, types)
        selector = _subject(spec, reader.ref.namespace, hook)
    except Misread as error:
        return _closed(reader, error, spec)
    read = RuleReader(reader, reader.ref.namespace, ports_of)
    ingress = reader.rules(spec.get("ingress"), ("spec", "ingress"), action_word, read.ingress)
    egress = reader.rules(spec.get("egress"), ("spec", "egress"), action_word, read.egress)
    if not reader.known_fields(spec, _SHARED if reader.ref.namespace else _GLOBAL):
        ingress, egress = reader.closed(ingress), reader.closed(egress)
    policy = Policy(
        id=PolicyId(*reader.ref),
        tier=tier,
        selector=selector,
        types=types,
        order=order,
        host_hook=hook,
        ingress=ingress if Direction.INGRESS in types else (),
        egress=egress if Direction.EGRESS in types else (),
    )
    return reader.policy(policy, read.services, accounts=read.accounts)


def read_tier(value: CalicoTier) -> Reading:
    """What a tier says; of a built-in one nothing but what is so anyway."""
    reader = Reader(object_ref(value))
    name = TierName(reader.ref.name)
    spec = value.spec if isinstance(value.spec, dict) else {}
    try:
        order = _order(spec)
        action = _default_action(spec)
    except Misread as error:
        reader.tell_unusable(error, "the tier comes first and denies what it does not decide")
        tier = Tier(name, FIRST)
    else:
        tier = Tier(name, order, action)
    built_in = BUILT_IN_TIERS.get(name)
    if built_in is None:
        return Reading({keys.TierKey(name): tier}, tuple(reader.findings))
    is_other = (spec.get("order") is not None and tier.order != built_in.order) or (
        spec.get("defaultAction") is not None and tier.default_action != built_in.default_action
    )
    if is_other and not reader.findings:
        message = (
            f"the tier {name} is built in, with the order {built_in.order:.0f} and the default "
            f"action {built_in.default_action.capitalize()}: what is given here is not looked at"
        )
        reader.tell(Code.TIER_FIXED, message, ("spec",))
    return Reading({keys.TierKey(name): built_in}, tuple(reader.findings))


def read_profile(value: CalicoProfile, ports_of: PortsOf) -> Reading:
    """What a profile says, for endpoints that name it; the built-in one cannot be written anew."""
    reader = Reader(object_ref(value))
    if reader.ref.name == ALLOW_ALL_NAME:
        message = f"the profile {ALLOW_ALL_NAME} is built in and stays as it is: give yours a name of its own"
        reader.tell(Code.POLICY_INVALID, message, ("metadata", "name"))
        return reader.nothing()
    spec = value.spec if isinstance(value.spec, dict) else {}
    profile = profile_id(reader.ref.name)
    read = RuleReader(reader, "", ports_of)
    ingress = reader.rules(spec.get("ingress"), ("spec", "ingress"), action_word, read.ingress)
    egress = reader.rules(spec.get("egress"), ("spec", "egress"), action_word, read.egress)
    items: dict[keys.Key, Value] = {
        keys.ProfileRulesKey(profile): Rules(ingress, egress, reader.origin())
    }
    try:
        labels = convert(spec.get("labelsToApply") or {}, dict[str, str], ("spec", "labelsToApply"))
    except Misread as error:
        reader.tell_unusable(error, "the profile gives no labels")
    else:
        if labels:
            items[keys.ProfileLabelsKey(profile)] = Labels(labels)
    return Reading(
        items,
        tuple(reader.findings),
        services=frozenset(read.services),
        accounts=frozenset(read.accounts),
    )


def read_network_set(
    value: GlobalNetworkSet | CalicoNetworkSet, namespace_labels: Mapping[str, str]
) -> Reading:
    """What a network set says; one in a namespace inherits the namespace's labels.

    A net or a domain that is none is left out.
    """
    reader = Reader(object_ref(value))
    ref = reader.ref
    labels = own_labels(value.metadata.labels or {})
    name = NetsetName(ref.name)
    if ref.namespace:
        name = NetsetName(f"{ref.namespace}/{ref.name}")
        inherited = inherited_labels(NAMESPACE_PREFIX, ref.namespace, namespace_labels)
        labels = {**inherited, **labels, NAMESPACE_LABEL: ref.namespace}
    spec = value.spec if isinstance(value.spec, dict) else {}
    nets = _each(reader, spec, "nets", "is no CIDR", parse_net)
    domains = _each(reader, spec, "allowedEgressDomains", "cannot be used", parse_domain)
    netset = NetworkSet(name, labels, nets, domains)
    return Reading({keys.NetsetKey(name): netset}, tuple(reader.findings))


def _each(
    reader: Reader, spec: Document, field: str, problem: str, parse: Callable[[str], _Item]
) -> tuple[_Item, ...]:
    """What can be used of a list of texts, each once."""
    path: FieldPath = ("spec", field)
    try:
        texts = convert(spec.get(field) or (), tuple[str, ...], path)
    except Misread as error:
        reader.tell_unusable(error, "the set holds nothing of it")
        return ()
    items: list[_Item] = []
    for index, text in enumerate(texts):
        try:
            items.append(parse(text))
        except InputError as error:
            reader.tell_unusable(Misread((*path, index), f"{problem}: {error}"), "it is left out")
    return tuple(dict.fromkeys(items))


def tier_name(spec: Document) -> TierName:
    """The tier that a policy says it is in.

    Raises:
        Misread: it is no text.
    """
    name = spec.get("tier")
    if name is not None and not isinstance(name, str):
        raise Misread(("spec", "tier"), "should be text")
    return TierName(name or DEFAULT_TIER)


def _given(spec: Document, field: str, absent: _Item) -> _Item:
    """What stands in a field; ``absent`` where nothing does, which ``{}`` or ``[]`` is not."""
    value: _Item | None = spec.get(field)
    return absent if value is None else value


def _order(spec: Document) -> float | None:
    order = spec.get("order")
    is_number = isinstance(order, int | float) and not isinstance(order, bool)
    if order is not None and not (is_number and math.isfinite(order)):
        raise Misread(("spec", "order"), "should be a number")
    return None if order is None else float(order)


def _types(spec: Document) -> tuple[Direction, ...]:
    """The directions that the policy speaks for.  Unlike Kubernetes, egress alone is egress alone."""
    path: FieldPath = ("spec", "types")
    written = convert(_given(spec, "types", ()), tuple[str, ...], path)
    unknown = [word for word in written if word.lower() not in _DIRECTIONS]
    if unknown:
        raise Misread(path, f"'{unknown[0]}' is neither Ingress nor Egress")
    if written:
        words = {word.lower() for word in written}
        return tuple(way for word, way in _DIRECTIONS.items() if word in words)
    if not spec.get("egress"):
        return (Direction.INGRESS,)
    return BOTH if spec.get("ingress") else (Direction.EGRESS,)


def _host_hook(spec: Document, types: tuple[Direction, ...]) -> HostHook:
    """What traffic of host endpoints the policy is about.

    Source: Calico, libcalico-go/lib/validator/v3/validator.go, for what is invalid.
    """
    flags = {}
    for field in ("applyOnForward", "preDNAT", "doNotTrack"):
        flags[field] = _given(spec, field, False)
        if not isinstance(flags[field], bool):
            raise Misread(("spec", field), "should be true or false")
    if flags["preDNAT"] and flags["doNotTrack"]:
        raise Misread(("spec", "doNotTrack"), "cannot stand beside preDNAT")
    early = next((field for field in ("preDNAT", "doNotTrack") if flags[field]), None)
    if early is not None and not flags["applyOnForward"]:
        raise Misread(("spec", early), "needs applyOnForward beside it")
    if flags["preDNAT"]:
        if Direction.EGRESS in types or spec.get("egress"):
            raise Misread(("spec", "preDNAT"), "is for ingress only")
        return HostHook.PRE_DNAT
    if flags["doNotTrack"]:
        return HostHook.UNTRACKED
    return HostHook.FORWARDED if flags["applyOnForward"] else HostHook.LOCAL


def _subject(spec: Document, namespace: str, hook: HostHook) -> SelectorText:
    """Whom the policy selects: early policy no pods, whatever its selector, as the API has it."""
    parts: list[grammar.Selector] = [in_namespace(namespace)] if namespace else []
    if hook in EARLY_HOOKS:
        parts.append(grammar.Not(IN_SOME_NAMESPACE))
    for field in ("selector", "namespaceSelector", "serviceAccountSelector"):
        path: FieldPath = ("spec", field)
        text = _given(spec, field, "")
        if not isinstance(text, str):
            raise Misread(path, "should be text")
        if not text:
            continue
        if field == "namespaceSelector":
            parts.append(parse_namespace_selector(text, path, allows_global=False))
        elif field == "selector":
            parts.append(parse_calico(text, path))
        else:
            parts.append(parse_account_selector(text, path))
    return conjunction(parts)


def _default_action(spec: Document) -> Literal[Action.DENY, Action.PASS]:
    path: FieldPath = ("spec", "defaultAction")
    word = spec.get("defaultAction") or "Deny"
    if not isinstance(word, str) or word.lower() not in ("deny", "pass"):
        raise Misread(path, f"'{word}' is neither Deny nor Pass")
    return Action.PASS if word.lower() == "pass" else Action.DENY


def _closed(reader: Reader, error: Misread, spec: Document) -> Reading:
    """The policy that stands for one that cannot be told whom it selects, or where it stands."""
    namespace = reader.ref.namespace
    whom = f"the namespace {namespace}" if namespace else "every namespace"
    reader.tell_unusable(error, f"everything is denied in {whom}")
    deny = (Rule(Action.DENY, reader.origin()),)
    tier = spec.get("tier")
    policy = Policy(
        id=PolicyId(*reader.ref),
        tier=TierName(tier) if isinstance(tier, str) and tier else DEFAULT_TIER,
        selector=conjunction([in_namespace(namespace)] if namespace else []),
        types=BOTH,
        order=FIRST,
        ingress=deny,
        egress=deny,
    )
    return reader.policy(policy)
