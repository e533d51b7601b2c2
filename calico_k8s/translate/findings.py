"""What was found wrong with an object, as values: for lint, for Events, for logs and metrics.

In: nothing.  Out: :class:`Finding`.  A finding names the object, the field inside it and, where
the field holds a policy text, the characters of the text; files and lines are not known here.
"""

from enum import StrEnum
from typing import NamedTuple

import msgspec

FieldPath = tuple[str | int, ...]
"""A field inside an object, from its root: ``("metadata", "annotations", "policy")``."""


class Severity(StrEnum):
    """Whether something does not do what was written, may not do what was meant, or is as meant."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"
    """Nothing is wrong: it says what something does."""


class Code(StrEnum):
    """What is wrong, in a word that stays the same: docs/lint.md explains each."""

    ADDRESS_INVALID = "address-invalid"
    ANNOTATION_KEYS = "annotation-keys"
    ANNOTATION_SYNTAX = "annotation-syntax"
    FLAG_CONFLICT = "flag-conflict"
    FLAG_VALUE = "flag-value"
    LABEL_RESERVED = "label-reserved"
    OBJECT_DUPLICATE = "object-duplicate"
    OBJECT_INVALID = "object-invalid"
    POLICY_INVALID = "policy-invalid"
    POLICY_SERVICE_UNKNOWN = "policy-service-unknown"
    SERVICE_EXTERNAL_NAME = "service-external-name"
    SERVICE_FLAG_VALUE = "service-flag-value"
    STAGED_TARGET_UNKNOWN = "staged-target-unknown"
    TIER_FIXED = "tier-fixed"
    TIER_UNKNOWN = "tier-unknown"


_WARNINGS = frozenset(
    {
        Code.ANNOTATION_KEYS,
        Code.FLAG_CONFLICT,
        Code.LABEL_RESERVED,
        Code.OBJECT_DUPLICATE,
        Code.POLICY_SERVICE_UNKNOWN,
        Code.STAGED_TARGET_UNKNOWN,
    }
)


class Name(NamedTuple):
    """An object of a namespaced kind."""

    namespace: str
    name: str


class ObjectRef(NamedTuple):
    """A Kubernetes object by name; ``namespace`` is empty for cluster-wide kinds."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return "/".join(part for part in self if part)


class Finding(msgspec.Struct, frozen=True):
    """One thing that is wrong with one object."""

    code: str
    severity: Severity
    message: str
    """One sentence: what is wrong, what becomes of it, what would be right."""
    object: ObjectRef
    path: FieldPath = ()
    span: tuple[int, int] | None = None
    """Characters of the text at ``path``; None where the whole field is meant."""
    excerpt: str = ""
    """The line of the text with a caret under the place, and a hint; empty without a span."""


def make_finding(code: Code, message: str, ref: ObjectRef, path: FieldPath = ()) -> Finding:
    """A finding about a whole field, with its code's severity."""
    return Finding(code, severity_of(code), message, ref, path)


def severity_of(code: Code) -> Severity:
    """How bad findings of this code are."""
    return Severity.WARNING if code in _WARNINGS else Severity.ERROR


def reason_of(finding: Finding) -> str:
    """A finding's code as Kubernetes writes reasons, of Events and of conditions."""
    return "".join(word.capitalize() for word in finding.code.split("-"))


def finding_text(finding: Finding) -> str:
    """What is wrong, and for a text the place in it, its line and a caret below."""
    lines = finding.excerpt.splitlines()[:3]
    if lines:  # the first holds the message again, after the place
        where = f"annotation {finding.path[-1]}, " if finding.path else ""
        lines[0] = f"{where}{lines[0].partition(': ')[0]}:"
    return "\n".join([finding.message, *lines])
