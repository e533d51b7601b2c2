"""YAML text to nodes that know where they were written.

In: text, YAML or JSON.  Out: for each document a tree of nodes with line, column and characters,
or an ``InputError`` with file, line and column.  Scalars mean what kubectl takes them for: YAML
1.1 without dates and without base-60 numbers.

The tree is built from libyaml's events, not by its composer: that one calls itself for each level
and ends the process on text nested some 100,000 deep (tried with PyYAML 6.0.3).
"""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol, TypeGuard

import yaml

from calico_k8s.errors import InputError

DEPTH_MAX = 200
"""Levels of a document; the schema of a large CRD has 60."""
_TOO_DEEP = f"nested more than {DEPTH_MAX} levels deep"

_LIBYAML_TOO_DEEP = "exceeded maximum nesting depth"
"""libyaml's own limit, 1,000 levels, since PyYAML 6.0.4: met first where it reads ahead."""

ALIASED_NODES_MAX = 100_000
"""Nodes that aliases may repeat: nine lines of YAML can stand for a billion."""

Builtin = Any  # what JSON can say: None, bool, int, float, str, list, dict


class Position(NamedTuple):
    """A place in the text: line and column from 1, and the characters before it."""

    line: int
    column: int
    offset: int


class _Mark(Protocol):
    """libyaml's idea of a place, counted from 0."""

    @property
    def line(self) -> int: ...
    @property
    def column(self) -> int: ...
    @property
    def index(self) -> int: ...


class Scalar(NamedTuple):
    """A value; ``start`` and ``end`` are its characters in the text, quotes included."""

    value: Builtin
    line: int
    column: int
    start: int
    end: int
    style: str
    """``'``, ``"``, ``|``, ``>``, or empty for a plain scalar."""


class Items(NamedTuple):
    """A sequence."""

    nodes: "list[Node]"
    line: int
    column: int


class Entry(NamedTuple):
    """A key's place, and its value."""

    line: int
    column: int
    node: "Node"


class Fields(NamedTuple):
    """A mapping; keys are text, as in JSON."""

    entries: dict[str, Entry]
    line: int
    column: int


Node = Scalar | Items | Fields


class _Open(NamedTuple):
    """A sequence or mapping whose end has not come yet; a mapping's nodes are keys and values."""

    nodes: list[Node]
    is_mapping: bool
    anchor: str | None
    line: int
    column: int
    size_before: int


_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLS = {
    word: value
    for value, words in ((True, "true yes on"), (False, "false no off"))
    for lower in words.split()
    for word in (lower, lower.capitalize(), lower.upper())
}
_INT = re.compile(r"[-+]?(?:0b[01_]+|0o?[0-7_]+|0x[0-9a-fA-F_]+|[1-9][0-9_]*|0)")
_FLOAT = re.compile(
    r"[-+]?(?:(?:[0-9][0-9_]*)?\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*\.?[eE][-+]?[0-9]+"
    r"|[0-9][0-9_]*\.|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN)"
)
_WORD_TAGS = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float"))
"""Tags of what is read as a plain word would be; a scalar with any other tag is text."""


def parse_documents(text: str, file: str) -> Iterator[Node]:
    """The documents of a text in order, empty ones left out.  Cost: linear, about 1 MB/s.

    Raises:
        InputError: the text is not YAML from here on; documents before have been handed out.
    """
    try:
        yield from _Builder(file).documents(yaml.parse(text, Loader=yaml.CSafeLoader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (None, None)
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        message = _TOO_DEEP if error.problem == _LIBYAML_TOO_DEEP else f"not YAML: {problem}"
        raise InputError(message, file=file, line=line, column=column) from None
    except yaml.reader.ReaderError as error:
        before = text.encode()[: error.position].decode(errors="ignore")
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        raise InputError(f"not YAML: {error.reason}", file=file, line=line, column=column) from None


def to_builtin(node: Node) -> Builtin:
    """The node as JSON would have it."""
    match node:
        case Scalar():
            return node.value
        case Items():
            return [to_builtin(item) for item in node.nodes]
        case Fields():
            return {key: to_builtin(entry.node) for key, entry in node.entries.items()}


class _Builder:
    """Builds the documents of one text; keeps what anchors stand for in the document at hand."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._open: list[_Open] = []
        self._anchors: dict[str, tuple[Node, int]] = {}
        self._size = 0
        self._aliased = 0

    def documents(self, events: Iterator[yaml.Event]) -> Iterator[Node]:
        root: Node | None = None
        for event in events:
            if isinstance(event, yaml.NodeEvent | yaml.CollectionEndEvent):
                node = self._node(event)
                if node is not None and self._open:
                    self._open[-1].nodes.append(node)
                elif node is not None:
                    root = node
            elif isinstance(event, yaml.DocumentStartEvent):
                self._anchors, self._size, self._aliased, root = {}, 0, 0, None
            elif isinstance(event, yaml.DocumentEndEvent) and _has_content(root):
                yield root

    def _node(self, event: yaml.Event) -> Node | None:
        """The node that an event completes; None if it begins one."""
        match event:
            case yaml.ScalarEvent():
                self._size += 1
                node: Node = _scalar(event)
                self._keep(event.anchor, node, 1)
                return node
            case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                self._begin(event)
                return None
            case yaml.AliasEvent():
                return self._alias(event)
            case _:
                return self._end()

    def _begin(self, event: yaml.CollectionStartEvent) -> None:
        start = _position(event.start_mark)
        if len(self._open) >= DEPTH_MAX:
            raise self._error(_TOO_DEEP, start)
        self._anchors.pop(event.anchor or "", None)
        is_mapping = isinstance(event, yaml.MappingStartEvent)
        opened = _Open([], is_mapping, event.anchor, start.line, start.column, self._size)
        self._open.append(opened)

    def _end(self) -> Node:
        opened = self._open.pop()
        self._size += 1
        line, column = opened.line, opened.column
        node: Node = Items(opened.nodes, line, column)
        if opened.is_mapping:
            node = Fields(self._entries(opened.nodes), line, column)
        self._keep(opened.anchor, node, self._size - opened.size_before)
        return node

    def _keep(self, anchor: str | None, node: Node, size: int) -> None:
        if anchor is not None:
            self._anchors[anchor] = (node, size)

    def _alias(self, event: yaml.AliasEvent) -> Node:
        if event.anchor not in self._anchors:
            raise self._error(
                f"the alias *{event.anchor} stands for nothing", _position(event.start_mark)
            )
        node, size = self._anchors[event.anchor]
        self._size += size
        self._aliased += size
        if self._aliased > ALIASED_NODES_MAX:
            raise self._error("aliases stand for too much", _position(event.start_mark))
        return node

    def _entries(self, nodes: list[Node]) -> dict[str, Entry]:
        entries: dict[str, Entry] = {}
        merged: list[Fields] = []
        for key, value in zip(nodes[::2], nodes[1::2], strict=True):
            if not isinstance(key, Scalar):
                raise self._error(
                    "a key is text, not a list or mapping; a template's {{ }} must be rendered first",
                    key,
                )
            if key.value == "<<" and not key.style:
                merged += self._merged(value)
                continue
            text = _key_text(key.value)
            if text in entries:
                raise self._error(f"the key '{text}' is there twice", key)
            entries[text] = Entry(key.line, key.column, value)
        for fields in merged:
            for text, entry in fields.entries.items():
                entries.setdefault(text, entry)
        return entries

    def _merged(self, node: Node) -> list[Fields]:
        parts = node.nodes if isinstance(node, Items) else [node]
        for part in parts:
            if not isinstance(part, Fields):
                raise self._error("'<<' takes a mapping, or a list of them", part)
        return [part for part in parts if isinstance(part, Fields)]

    def _error(self, message: str, at: Node | Position) -> InputError:
        return InputError(message, file=self._file, line=at.line, column=at.column)


def _has_content(root: Node | None) -> TypeGuard[Node]:
    return root is not None and not (isinstance(root, Scalar) and root.value is None)


def _position(mark: _Mark | None) -> Position:
    assert mark is not None, "libyaml gives every event its place"
    return Position(mark.line + 1, mark.column + 1, mark.index)


def _scalar(event: yaml.ScalarEvent) -> Scalar:
    start = _position(event.start_mark)
    is_word = event.tag in _WORD_TAGS if event.tag else not event.style
    value = _plain_value(event.value) if is_word else event.value
    style = event.style or ""
    end = _position(event.end_mark).offset
    return Scalar(value, start.line, start.column, start.offset, end, style)


def _plain_value(text: str) -> Builtin:
    """What an unquoted word means."""
    if text in _NULL:
        return None
    if text in _BOOLS:
        return _BOOLS[text]
    if text[0] in "+-.0123456789":
        if _INT.fullmatch(text):
            return _int(text.replace("_", ""))
        if _FLOAT.fullmatch(text):
            return float(text.replace("_", "").replace(".inf", "inf").replace(".nan", "nan"))
    return text


def _int(text: str) -> int | str:
    sign, digits = ("-", text[1:]) if text[0] == "-" else ("", text.removeprefix("+"))
    if len(digits) > 1 and digits[0] == "0" and digits[1].isdigit():
        digits = f"0o{digits[1:]}"
    try:
        return int(sign + digits, 0)
    except ValueError:
        return text  # 08, 0x_, or more digits than Python converts


def _key_text(value: Builtin) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case _:
            return str(value)
