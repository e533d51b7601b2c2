"""Canonical text: the same for everything that means the same words.

In: policies, statements and selectors.  Out: text that the parsers read back as an equal value.
Keywords are lower-case, ranges have a colon, lists have no blanks and are sorted, ``port`` is
written for one port and for several, the values in a selector stand in single quotes unless they
hold one, and parentheses stand only where the meaning needs them.  Comments are not known here:
see :mod:`grammar.formatting`.
"""

import re
from typing import assert_never

from grammar.nodes import (
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
    Selector,
    SelectorMatch,
    StartsWith,
    Statement,
    canonical_clause,
)
from grammar.selector import LABEL_MAX
from grammar.words import parse_cidr, parse_label, parse_namespace, parse_port

_LABEL = re.compile(rf"[A-Za-z0-9_./-]{{1,{LABEL_MAX}}}")


def print_policy(policy: Policy) -> str:
    """The policy on one line, its statements joined by ``;``.

    Raises:
        ValueError: as :func:`print_statement`.
    """
    return "; ".join(print_statement(statement) for statement in policy.statements)


def print_statement(statement: Statement) -> str:
    """The statement on one line.

    Raises:
        ValueError: it holds a value that cannot be written in the language, so that the text would
            say something else.  No parsed statement does.
    """
    words = [str(statement.action)]
    if statement.protocol is not None:
        words.append(str(statement.protocol))
    if statement.icmp_type is not None:
        words.append(f"type {statement.icmp_type}")
    if statement.icmp_code is not None:
        words.append(f"code {statement.icmp_code}")
    for side, matches in (("from", statement.src), ("to", statement.dst)):
        if matches:
            words += [side, *(_print_match(match) for match in canonical_clause(matches))]
    return " ".join(words)


def _print_match(match: Match) -> str:
    match match:
        case PortsMatch(ports):
            return f"port {','.join(_print_port(port) for port in ports)}"
        case LabelMatch(key, value):
            text = f"{key}={value}"
            return f"label {_verbatim(text, is_same=parse_label(text) == match)}"
        case CidrMatch(cidrs):
            words = [_verbatim(cidr, is_same=parse_cidr(cidr) == cidr) for cidr in cidrs]
            return f"cidr {','.join(words)}"
        case NamespaceMatch(name):
            return f"namespace {parse_namespace(name)}"
        case SelectorMatch(selector):
            text = print_selector(selector)
            is_on_one_line = "\n" not in text  # a line end would end the statement
            return f"selector ({_verbatim(text, is_same=is_on_one_line)})"
        case _:
            assert_never(match)


def _print_port(port: PortRange | str) -> str:
    if isinstance(port, str):
        text = port
    else:
        text = str(port.low) if port.low == port.high else f"{port.low}:{port.high}"
    return _verbatim(text, is_same=parse_port(text) == port)


def _verbatim(text: str, *, is_same: bool) -> str:
    if not is_same:
        raise ValueError(f"{text!r} would be read as something else")
    return text


def print_selector(selector: Selector) -> str:
    """The selector expression on one line; ``all()`` for the empty one.

    Raises:
        ValueError: a label or value that cannot be written: a value with both kinds of quotes.  No
            parsed selector has one.
    """
    parts: list[str] = []
    _add_operand(parts, selector, is_enclosed=False)
    return "".join(parts)


def _add_operand(parts: list[str], selector: Selector, *, is_enclosed: bool) -> None:
    """Adds the text of a selector; ``is_enclosed`` puts parentheses around an And or Or.

    One frame for each level: trees are as deep as parentheses may be.
    """
    match selector:
        case Not(operand):
            parts.append("!")
            _add_operand(parts, operand, is_enclosed=True)
        case And(operands) | Or(operands):
            # "&&" binds closer than "||": an And inside an Or stands without parentheses.
            is_and = isinstance(selector, And)
            parts.append("(" if is_enclosed else "")
            for index, operand in enumerate(operands):
                parts.append((" && " if is_and else " || ") if index else "")
                _add_operand(parts, operand, is_enclosed=is_and)
            parts.append(")" if is_enclosed else "")
        case _:
            parts.append(_print_operation(selector))


def _print_operation(selector: Selector) -> str:  # noqa: C901 - one line for each kind
    match selector:
        case All():
            return "all()"
        case Global():
            return "global()"
        case Has(key):
            return f"has({_label(key)})"
        case Equal(key, value):
            return f"{_label(key)} == {_string(value)}"
        case NotEqual(key, value):
            return f"{_label(key)} != {_string(value)}"
        case Contains(key, value):
            return f"{_label(key)} contains {_string(value)}"
        case StartsWith(key, value):
            return f"{_label(key)} starts with {_string(value)}"
        case EndsWith(key, value):
            return f"{_label(key)} ends with {_string(value)}"
        case In(key, values):
            return f"{_label(key)} in {_set(values)}"
        case NotIn(key, values):
            return f"{_label(key)} not in {_set(values)}"
        case And() | Or() | Not():
            raise AssertionError("print_selector prints these")
        case _:
            assert_never(selector)


def _label(key: str) -> str:
    if not _LABEL.fullmatch(key):
        raise ValueError(f"{key!r} is no label a selector can name")
    return key


def _string(value: str) -> str:
    if "'" not in value:
        return f"'{value}'"
    if '"' not in value:
        return f'"{value}"'
    raise ValueError(f"{value!r} has both kinds of quotes, a selector has no way to write it")


def _set(values: tuple[str, ...]) -> str:
    return f"{{{', '.join(_string(value) for value in sorted(set(values)))}}}"
