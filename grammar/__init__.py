"""The policy language: what people write about who may talk to a pod, read and written.

In: the text of policy annotations and of selector fields.  Out: values with one canonical form,
canonical text, and errors that show the mistake.  Knows nothing of Kubernetes objects, packets, or
any other package of this project, and touches nothing outside its arguments.

- :func:`parse_policy`, :func:`print_policy`, :func:`format_policy` — statements of an annotation
- :func:`parse_selector`, :func:`print_selector` — selector expressions
- :func:`evaluate`, :func:`compile_selector`, :func:`required_label`, :func:`label_names` — what a
  selector is true of
- :class:`GrammarError`, :class:`PolicyErrors` — a line, a caret, what was expected, a hint
"""

from grammar.errors import GrammarError, PolicyErrors
from grammar.formatting import format_policy
from grammar.lexical import TEXT_MAX
from grammar.matching import compile_selector, evaluate, label_names, required_label
from grammar.nesting import DEPTH_MAX
from grammar.nodes import (
    Action,
    All,
    And,
    CidrMatch,
    Contains,
    EndsWith,
    Equal,
    Global,
    Has,
    In,
    LabelMatch,
    Match,
    NamespaceMatch,
    Not,
    NotEqual,
    NotIn,
    Or,
    Policy,
    PortRange,
    PortsMatch,
    Protocol,
    Selector,
    SelectorMatch,
    Span,
    StartsWith,
    Statement,
    canonical_clause,
)
from grammar.printer import print_policy, print_selector, print_statement
from grammar.selector import parse_selector
from grammar.statement import parse_policy

__all__ = [
    "DEPTH_MAX",
    "TEXT_MAX",
    "Action",
    "All",
    "And",
    "CidrMatch",
    "Contains",
    "EndsWith",
    "Equal",
    "Global",
    "GrammarError",
    "Has",
    "In",
    "LabelMatch",
    "Match",
    "NamespaceMatch",
    "Not",
    "NotEqual",
    "NotIn",
    "Or",
    "Policy",
    "PolicyErrors",
    "PortRange",
    "PortsMatch",
    "Protocol",
    "Selector",
    "SelectorMatch",
    "Span",
    "StartsWith",
    "Statement",
    "canonical_clause",
    "compile_selector",
    "evaluate",
    "format_policy",
    "label_names",
    "parse_policy",
    "parse_selector",
    "print_policy",
    "print_selector",
    "print_statement",
    "required_label",
]
