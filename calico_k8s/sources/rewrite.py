"""Policy texts in manifests, and other text in their place.

In: manifests, and new texts for some of their policies.  Out: the text of the file in which only
those differ: indentation, quotes, comments and line ends stay, byte for byte.  A text that cannot
be put there so is refused, never guessed: the new file is read again and compared.
"""

import copy
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from calico_k8s.errors import InputError
from calico_k8s.sources.documents import Manifest, Path, Place, after_properties, read_text
from calico_k8s.sources.nodes import Fields, Scalar, parse_documents, to_builtin
from calico_k8s.sources.replicas import makes_pods, template_path
from calico_k8s.translate.annotations import find_annotation
from calico_k8s.translate.objects import known_kind

_UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff]")
"""What JSON may write as it is and YAML may not, or takes for a line end."""


class PolicyText(NamedTuple):
    """The policy of a pod, or of the pods of a template, as it was written."""

    manifest: Manifest
    path: Path
    text: str

    def place(self, offset: int = 0) -> Place:
        """Where a character of the text was written."""
        return self.manifest.text_place(self.path, offset)


class _Edit(NamedTuple):
    """Characters ``start`` to ``end`` of the file, and what comes in their place."""

    start: int
    end: int
    replacement: str


def policy_texts(manifests: Iterable[Manifest], keys: Sequence[str]) -> Iterator[PolicyText]:
    """The policy text of every pod and template that has one: under the first of the keys."""
    for manifest in manifests:
        prefix: Path = ()
        if makes_pods(manifest.api_version, manifest.kind):
            prefix = template_path(manifest.kind)
        elif manifest.kind != "Pod" or not known_kind(manifest.api_version, manifest.kind):
            continue
        path = (*prefix, "metadata", "annotations")
        annotations = _field(manifest.value, path)
        found = find_annotation(annotations, keys) if isinstance(annotations, dict) else None
        if found is not None and isinstance(found.text, str):
            yield PolicyText(manifest, (*path, found.key), found.text)


def replace_texts(text: str, changes: Sequence[tuple[PolicyText, str]]) -> str:
    """The text of a file with other policy texts; all changes are of manifests in it.

    Raises:
        InputError: one cannot be put in its place without changing anything else.
    """
    edits: dict[int, _Edit] = {}
    for change, value in changes:
        scalar = change.manifest.scalar(change.path)
        replacement = None
        if scalar is not None and change.manifest.text == text:
            start = after_properties(text, scalar)
            replacement = _replacement(text[start : scalar.end], scalar.style, value)
            edits[start] = _Edit(start, scalar.end, replacement or "")
        if replacement is None:
            raise _refusal(change)
    changed = _apply(text, edits)
    if changes and _values(changed) != _expected(text, changes):
        raise _refusal(changes[0][0])
    return changed


def _apply(text: str, edits: Mapping[int, _Edit]) -> str:
    parts: list[str] = []
    at = 0
    for _, edit in sorted(edits.items()):
        parts += [text[at : edit.start], edit.replacement]
        at = edit.end
    return "".join([*parts, text[at:]])


def _refusal(change: PolicyText) -> InputError:
    place = change.place()
    message = "this text cannot be changed where it stands: write its canonical form by hand"
    return InputError(message, file=place.file, line=place.line, column=place.column)


def _replacement(source: str, style: str, value: str) -> str | None:
    """How a value is written in a style, or in quotes where it cannot be; None if neither can."""
    if style in ("|", ">"):
        candidates = [_block(source, value, is_folded=style == ">")]
    else:
        candidates = [_in_style(style, value), _double_quoted(value)]
    return next((each for each in candidates if _reads_as(each, value, source)), None)


def _in_style(style: str, value: str) -> str:
    match style:
        case "'":
            return "'" + value.replace("'", "''") + "'"
        case '"':
            return _double_quoted(value)
        case _:
            return value


def _double_quoted(value: str) -> str:
    quoted = json.dumps(value, ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", quoted)


def _block(source: str, value: str, *, is_folded: bool) -> str:
    """The value as a block under the header of another, as deep, with the same blank lines after.

    The header's own depth, which it has where the block begins with blanks, is taken out: no
    canonical text begins so.
    """
    header, _, content = source.partition("\n")
    line_end = "\r\n" if header.endswith("\r") else "\n"
    lines = [line for line in content.split("\n") if line.strip()]
    depth = min((len(line) - len(line.lstrip(" ")) for line in lines), default=0)
    after = content[len(content.rstrip(" \t\r\n")) :]
    body = value.rstrip("\n")
    if is_folded:
        body = re.sub(r"\n+", r"\g<0>\n", body)
    indented = [f"{' ' * depth}{line}" if line else "" for line in body.split("\n")]
    style, comment, more = header.partition("#")
    return re.sub("[1-9]", "", style) + comment + more + "\n" + line_end.join(indented) + after


def _reads_as(candidate: str, value: str, source: str) -> bool:
    """Whether the candidate says the value wherever the source stood.

    What is between braces may not hold all that a line of its own may.
    """
    is_safe = _read(f"k: {candidate}") == value
    if candidate[:1] in ("|", ">"):
        return is_safe
    was_between_braces = _read(f"{{k: {source}}}") is not None
    return is_safe and (not was_between_braces or _read(f"{{k: {candidate}}}") == value)


def _read(text: str) -> object:
    """The value of the one key in a text; None where the text says anything else."""
    try:
        documents = list(parse_documents(text, ""))
    except InputError:
        return None
    match documents:
        case [Fields(entries)] if entries.keys() == {"k"}:
            node = entries["k"].node
            return node.value if isinstance(node, Scalar) else to_builtin(node)
        case _:
            return None


def _values(text: str) -> list[dict[str, Any]]:  # Any: what JSON can say
    return [manifest.value for manifest in read_text(text, "").manifests]


def _expected(text: str, changes: Sequence[tuple[PolicyText, str]]) -> list[dict[str, Any]]:
    """What the changed file has to say; places tell which manifest of the file is whose."""
    reading = read_text(text, "").manifests
    values = [copy.deepcopy(manifest.value) for manifest in reading]
    index_by_place = {manifest.place()[1:]: index for index, manifest in enumerate(reading)}
    for change, value in changes:
        path = (index_by_place[change.manifest.place()[1:]], *change.path)
        holder: Any = values
        for step in path[:-1]:
            holder = holder[step]
        holder[path[-1]] = value
    return values


def _field(value: object, path: Path) -> object:
    for step in path:
        if not isinstance(value, dict) or step not in value:
            return None
        value = value[step]
    return value
