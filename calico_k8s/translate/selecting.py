"""Selectors of both worlds to the grammar's: Kubernetes' label selectors, Calico's with scopes.

In: a label selector as a value, or a Calico selector's text.  Out: selectors over the labels that
endpoints and network sets carry here (:mod:`.labels`): a namespace's own labels stand on its pods
behind ``pcns.``, a service account's behind ``pcsa.``.
"""

import re
from collections.abc import Iterable
from typing import Literal

import msgspec

import grammar
from calico_k8s.model.names import SelectorText
from calico_k8s.translate.findings import FieldPath
from calico_k8s.translate.labels import (
    NAME_KEY,
    NAMESPACE_LABEL,
    NAMESPACE_PREFIX,
    ORCHESTRATOR,
    ORCHESTRATOR_LABEL,
    SERVICE_ACCOUNT_PREFIX,
)
from calico_k8s.translate.reading import Misread

IS_POD = grammar.Equal(ORCHESTRATOR_LABEL, ORCHESTRATOR)
"""True of pods alone: network sets and host endpoints carry no such label."""
IN_SOME_NAMESPACE = grammar.Has(NAMESPACE_LABEL)

_KEY = re.compile(r"(?:[A-Za-z0-9.-]{1,253}/)?[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_VALUE = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")


class Requirement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of ``matchExpressions``."""

    key: str
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: tuple[str, ...] | None = None


class LabelSelector(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """A Kubernetes label selector; without any requirement it is true of everything."""

    match_labels: dict[str, str] | None = None
    match_expressions: tuple[Requirement, ...] | None = None


def label_selector(
    selector: LabelSelector, path: FieldPath, prefix: str = ""
) -> tuple[grammar.Selector, ...]:
    """What must hold together; nothing for a selector that is true of everything.

    Source: Kubernetes, apimachinery labels.Requirement: without the label, NotIn and DoesNotExist
    are true, In and Exists are false.

    Raises:
        Misread: a label or value that Kubernetes has not, or an operator with the wrong values.
    """
    parts: list[grammar.Selector] = []
    for key, value in sorted((selector.match_labels or {}).items()):
        _check((*path, "matchLabels", key), key, (value,))
        parts.append(grammar.Equal(prefix + key, value))
    for index, wanted in enumerate(selector.match_expressions or ()):
        at = (*path, "matchExpressions", index)
        values = tuple(sorted(set(wanted.values or ())))
        _check(at, wanted.key, values)
        if (wanted.operator in ("In", "NotIn")) is not bool(values):
            needs = "none" if values else "some"
            raise Misread((*at, "values"), f"{wanted.operator} needs {needs}")
        parts.append(_requirement(wanted, prefix + wanted.key, values))
    return tuple(parts)


def _requirement(wanted: Requirement, key: str, values: tuple[str, ...]) -> grammar.Selector:
    match wanted.operator:
        case "In":
            return grammar.In(key, values) if len(values) > 1 else grammar.Equal(key, values[0])
        case "NotIn":
            return (
                grammar.NotIn(key, values) if len(values) > 1 else grammar.NotEqual(key, values[0])
            )
        case "Exists":
            return grammar.Has(key)
        case "DoesNotExist":
            return grammar.Not(grammar.Has(key))


def _check(path: FieldPath, key: str, values: Iterable[str]) -> None:
    if not _KEY.fullmatch(key):
        raise Misread(path, f"'{key}' is no key of a label")
    for value in values:
        if not _VALUE.fullmatch(value):
            raise Misread(path, f"'{value}' is no value of a label")


def in_namespace(name: str) -> grammar.Selector:
    """True of the pods and network sets of a namespace."""
    return grammar.Equal(NAMESPACE_LABEL, name)


def namespace_terms(selector: LabelSelector, path: FieldPath) -> tuple[grammar.Selector, ...]:
    """What must hold of the namespace of a pod."""
    return label_selector(selector, path, NAMESPACE_PREFIX)


def parse_calico(text: str, path: FieldPath) -> grammar.Selector:
    """A Calico selector.

    Raises:
        Misread: it does not parse, or says ``global()``, which only a namespaceSelector can.
    """
    parsed = _parse(text, path)
    if _mentions_global(parsed):
        raise Misread(path, "says global(), which only a rule's namespaceSelector can")
    return parsed


def parse_namespace_selector(
    text: str, path: FieldPath, *, allows_global: bool
) -> grammar.Selector:
    """A Calico selector of namespaces, as one of what is in them.

    ``all()`` is true of everything in a namespace, ``global()`` of what is in none.
    Source: Calico, libcalico-go/lib/backend/syncersv1/updateprocessors/rules.go.

    Raises:
        Misread: it does not parse, or says ``global()`` where that is not allowed.
    """
    parsed = _parse(text, path) if allows_global else parse_calico(text, path)
    return _prefixed(parsed, NAMESPACE_PREFIX, IN_SOME_NAMESPACE)


def parse_account_selector(text: str, path: FieldPath) -> grammar.Selector:
    """A Calico selector of service accounts, as one of the pods that run as them.

    Raises:
        Misread: it does not parse.
    """
    everyone = grammar.Has(SERVICE_ACCOUNT_PREFIX + NAME_KEY)
    return _prefixed(parse_calico(text, path), SERVICE_ACCOUNT_PREFIX, everyone)


def runs_as(names: Iterable[str]) -> grammar.Selector:
    """True of the pods that run as one of these service accounts, of any namespace."""
    return grammar.In(SERVICE_ACCOUNT_PREFIX + NAME_KEY, tuple(sorted(set(names))))


def conjunction(parts: Iterable[grammar.Selector]) -> SelectorText:
    """The canonical text of what is true where all parts are; ``all()`` without any."""
    flat = list(dict.fromkeys(part for each in parts for part in operands(each)))
    if len(flat) < 2:
        return SelectorText(grammar.print_selector(flat[0] if flat else grammar.All()))
    return SelectorText(grammar.print_selector(grammar.And(tuple(flat))))


def operands(selector: grammar.Selector) -> tuple[grammar.Selector, ...]:
    """The selector as operands of an ``&&``; none for one that is true of everything."""
    match selector:
        case grammar.All() | grammar.Global():
            return ()
        case grammar.And(parts):
            return tuple(part for each in parts for part in operands(each))
        case _:
            return (selector,)


def _parse(text: str, path: FieldPath) -> grammar.Selector:
    try:
        return grammar.parse_selector(text)
    except grammar.GrammarError as error:
        hint = f"; {error.hint}" if error.hint else ""
        raise Misread(path, f"does not parse: {error.message}{hint}") from None


def _prefixed(
    selector: grammar.Selector, prefix: str, everything: grammar.Selector
) -> grammar.Selector:
    """The selector with each label behind the prefix, and its ``all()`` as ``everything``."""
    match selector:
        case grammar.All():
            return everything
        case grammar.Global():
            return grammar.Not(everything)
        case grammar.Not(operand):
            inner = _prefixed(operand, prefix, everything)
            return inner.operand if isinstance(inner, grammar.Not) else grammar.Not(inner)
        case grammar.And(parts):
            return grammar.And(tuple(_prefixed(part, prefix, everything) for part in parts))
        case grammar.Or(parts):
            return grammar.Or(tuple(_prefixed(part, prefix, everything) for part in parts))
        case _:
            return msgspec.structs.replace(selector, key=prefix + selector.key)


def _mentions_global(selector: grammar.Selector) -> bool:
    match selector:
        case grammar.Global():
            return True
        case grammar.Not(operand):
            return _mentions_global(operand)
        case grammar.And(parts) | grammar.Or(parts):
            return any(map(_mentions_global, parts))
        case _:
            return False
