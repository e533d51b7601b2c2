"""Kubernetes objects as they were written, each field with its place.

In: text.  Out: objects with their kind, their fields as JSON would have them, and
``file:line:column`` for any field of them and for any character of a text in one.  What the
fields mean is not known here, nor which kinds are of use.
"""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from calico_k8s.errors import InputError
from calico_k8s.sources.nodes import Fields, Items, Node, Scalar, parse_documents, to_builtin

Path = tuple[str | int, ...]

_SURROGATES = re.compile(r"\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})")
_ESCAPE_LENGTHS = {"x": 4, "u": 6, "U": 10}
_BLANKS = " \t\r\n"
_PROPERTIES = re.compile(r"(?:[&!]\S*\s+(?:#[^\n]*\n\s*)*)*")
"""An anchor or tag before a scalar; a plain one begins with neither character."""


class Place(NamedTuple):
    """Where something was written; line and column from 1, in characters."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class Manifest(msgspec.Struct, frozen=True, eq=False):
    """One object as it was written."""

    kind: str
    api_version: str
    value: dict[str, Any]  # Any: what JSON can say
    root: Node
    file: str
    text: str
    """The whole text of the file."""

    def place(self, path: Path = ()) -> Place:
        """Where a field was written: a value where it begins, anything larger at its key.

        A field that is not there has the place of the innermost field around it.
        """
        return Place(self.file, *_find(self.root, path)[1])

    def scalar(self, path: Path) -> Scalar | None:
        """The text in a field as it was written; None where the field is not there or no text.

        Where an alias stands for it, it is what the alias stands for.
        """
        node = _find(self.root, path)[0]
        if isinstance(node, Scalar) and isinstance(node.value, str) and _has(self.value, path):
            return node
        return None

    def text_place(self, path: Path, offset: int) -> Place:
        """Where a character of the text in a field was written; its end is a place too."""
        node = _find(self.root, path)[0]
        if not isinstance(node, Scalar) or not isinstance(node.value, str):
            return self.place(path)
        at = _source_offset(self.text, node, offset)
        line = node.line + self.text.count("\n", node.start, at)
        line_start = self.text.rfind("\n", 0, at) + 1
        return Place(self.file, line, at - line_start + 1)


class Reading(NamedTuple):
    """What a text holds: objects, notes on what was passed over, and what is wrong with it."""

    manifests: tuple[Manifest, ...]
    notes: tuple[str, ...]
    errors: tuple[InputError, ...]


def read_text(text: str, file: str) -> Reading:
    """The objects of a text, those inside lists too; never raises.

    What stands before a mistake is read; what follows it in the same text is not.
    """
    manifests: list[Manifest] = []
    notes: list[str] = []
    errors: list[InputError] = []
    # JSON may write one character as two escapes, which YAML refuses.
    source = _SURROGATES.sub(_one_escape, text) if text.lstrip()[:1] in ("{", "[") else text
    try:
        for root in parse_documents(source, file):
            _collect(root, file, source, manifests, notes)
    except InputError as error:
        errors.append(error)
    return Reading(tuple(manifests), tuple(notes), tuple(errors))


def _one_escape(found: re.Match[str]) -> str:
    high, low = int(found[1], 16), int(found[2], 16)
    return f"\\U{0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00):08x}"


def _collect(root: Node, file: str, text: str, manifests: list[Manifest], notes: list[str]) -> None:
    for node, item_kind, item_version in _objects(root):
        value = to_builtin(node)
        kind = value.get("kind", item_kind) if isinstance(value, dict) else None
        if not isinstance(kind, str) or not kind:
            what = "no 'kind'" if isinstance(node, Fields) else "no Kubernetes object"
            notes.append(f"{Place(file, node.line, node.column)}: {what}, skipped")
            continue
        version = value.get("apiVersion", item_version)
        api_version = version if isinstance(version, str) else ""
        manifests.append(Manifest(kind, api_version, value, node, file, text))


def _objects(root: Node) -> Iterator[tuple[Node, str, str]]:
    """The objects of a document, with the kind and version a typed list gives its items."""
    kind, version = _word(root, "kind"), _word(root, "apiVersion")
    items = (
        root.entries["items"].node if isinstance(root, Fields) and "items" in root.entries else None
    )
    if not kind.endswith("List") or not isinstance(items, Items):
        yield root, "", ""
        return
    item_kind = kind.removesuffix("List")
    for item in items.nodes:
        if item_kind:
            yield item, item_kind, version
        else:
            yield from _objects(item)


def _word(node: Node, key: str) -> str:
    if not isinstance(node, Fields) or key not in node.entries:
        return ""
    value = node.entries[key].node
    return value.value if isinstance(value, Scalar) and isinstance(value.value, str) else ""


def _find(root: Node, path: Path) -> tuple[Node, tuple[int, int]]:
    """The innermost node along a path, and its place."""
    node, place = root, (root.line, root.column)
    for step in path:
        if isinstance(node, Fields) and isinstance(step, str) and step in node.entries:
            line, column, node = node.entries[step]
            place = (node.line, node.column) if isinstance(node, Scalar) else (line, column)
        elif isinstance(node, Items) and isinstance(step, int) and step < len(node.nodes):
            node = node.nodes[step]
            place = (node.line, node.column)
        else:
            break
    return node, place


def _has(value: Any, path: Path) -> bool:  # Any: what JSON can say
    for step in path:
        is_key = isinstance(value, dict) and step in value
        if not is_key and not (isinstance(value, list) and step in range(len(value))):
            return False
        value = value[step]
    return True


def _source_offset(text: str, node: Scalar, offset: int) -> int:
    """The place in the text of the character at ``offset`` of a scalar's value.

    Value and text are walked side by side: what differs is blanks that were folded or indented,
    and escapes.
    """
    at = _content_start(text, node)
    value: str = node.value
    for index, character in enumerate(value):
        if node.style == '"':
            at = _skip_continuations(text, at, node.end)
        is_escape = node.style == '"' and text[at] == "\\"
        if not is_escape and character not in _BLANKS:
            while at < node.end and text[at] in _BLANKS and text[at] != character:
                at += 1
            if node.style == '"':
                at = _skip_continuations(text, at, node.end)
                is_escape = text[at] == "\\"
        if index == offset:
            return at
        at += _width(text, at, character, node.style, is_escape=is_escape)
    return min(at, node.end)


def after_properties(text: str, node: Scalar) -> int:
    """The place in the text where the scalar itself begins, its anchor and tag left out."""
    found = _PROPERTIES.match(text, node.start, node.end)
    return found.end() if found else node.start


def _content_start(text: str, node: Scalar) -> int:
    start = after_properties(text, node)
    if node.style in ("'", '"'):
        return start + 1
    if node.style in ("|", ">"):
        return text.find("\n", start) + 1
    return start


def _width(text: str, at: int, character: str, style: str, *, is_escape: bool) -> int:
    """How many characters of the text the value's character takes."""
    if is_escape:
        return _ESCAPE_LENGTHS.get(text[at + 1], 2)
    if style == "'" and character == "'":
        return 2
    if character in _BLANKS and text[at : at + 1] not in tuple(_BLANKS):
        return 0  # a line end that the block's end stands for
    return 1


def _skip_continuations(text: str, at: int, end: int) -> int:
    """Past line ends that a backslash takes away, and the blanks that follow them."""
    while text.startswith(("\\\n", "\\\r\n"), at):
        at = text.find("\n", at) + 1
        while at < end and text[at] in " \t":
            at += 1
    return at
