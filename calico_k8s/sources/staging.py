"""Staged policies in manifests, and the files as they are once one is enforced or dismissed.

In: manifests.  Out: each file that changes, before and after: indentation, comments and all other
objects stay, byte for byte.  What cannot be done so is refused, never guessed: the new file is read
again and compared.
"""

import copy
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from calico_k8s.errors import InputError
from calico_k8s.model.staging import enforced_kind
from calico_k8s.sources.documents import Manifest, read_text
from calico_k8s.translate.findings import ObjectRef
from calico_k8s.translate.objects import KINDS, describe, known_kind
from calico_k8s.translate.staged_policies import FIELD

_SEPARATOR = re.compile(r"^(---|\.\.\.)(?=\s|$)", re.MULTILINE)
_VERSIONS = {
    "networking.k8s.io": "networking.k8s.io/v1",
    "projectcalico.org": "projectcalico.org/v3",
}
_PAIR = rf"[\"']?{FIELD}[\"']?\s*:\s*[\"']?\w+[\"']?"


class FileChange(NamedTuple):
    """The text of a file, and what it is to be."""

    file: str
    before: str
    after: str


class Written(NamedTuple):
    """The kind and version that an object is written with."""

    kind: str
    api_version: str


def enforced_form(ref: ObjectRef) -> Written:
    """How the policy that a staged one becomes is written."""
    kind = enforced_kind(ref.kind)
    info = KINDS[kind]
    return Written(info.written or kind, _VERSIONS[info.group])


def find_manifests(manifests: Iterable[Manifest], ref: ObjectRef) -> Iterator[Manifest]:
    """Every manifest of an object."""
    for manifest in manifests:
        kind = known_kind(manifest.api_version, manifest.kind)
        if kind is not None:
            found = describe(kind, manifest.value)
            is_namespaced = KINDS[kind].is_namespaced
            namespace = (found.namespace or "default") if is_namespaced else ""
            if found._replace(namespace=namespace) == ref:
                yield manifest


def without(manifests: Iterable[Manifest], gone: Iterable[Manifest]) -> list[FileChange]:
    """The files without some of their objects."""
    return _changes(manifests, {id(each): None for each in gone})


def with_enforced(
    manifests: Iterable[Manifest], staged: Manifest, becomes: Written, replaced: Iterable[Manifest]
) -> list[FileChange]:
    """The files with the policy that a staged one becomes in its place, and none of that name."""
    gone: dict[int, Written | None] = {id(each): None for each in replaced}
    return _changes(manifests, gone | {id(staged): becomes})


def _changes(manifests: Iterable[Manifest], fates: dict[int, Written | None]) -> list[FileChange]:
    """``fates`` has those that become something else, or nothing."""
    by_file: dict[str, list[Manifest]] = {}
    for manifest in manifests:
        by_file.setdefault(manifest.file, []).append(manifest)
    changes = []
    for file, inside in by_file.items():
        fated = [each for each in inside if id(each) in fates]
        if not fated:
            continue
        before = after = fated[0].text
        for manifest in reversed(fated):  # from the end, so that places before stay where they are
            becomes = fates[id(manifest)]
            after = (
                _removed(after, manifest) if becomes is None else _turned(manifest, after, becomes)
            )
        wanted = [_value(each, fates) for each in inside]
        said = [manifest.value for manifest in read_text(after, file).manifests]
        if said != [value for value in wanted if value is not None]:
            place = fated[0].place()
            message = "this object cannot be changed where it stands: change it by hand"
            raise InputError(message, file=place.file, line=place.line, column=place.column)
        changes.append(FileChange(file, before, after))
    return changes


def _removed(text: str, manifest: Manifest) -> str:
    """The text without the document, and without the line of dashes before it."""
    at = _offset(text, manifest.place().line)
    starts = [found.start() for found in _SEPARATOR.finditer(text, 0, at)]
    following = _SEPARATOR.search(text, at)
    start, end = (starts[-1] if starts else 0), (following.start() if following else len(text))
    return text[:start] + text[end:]


def _turned(manifest: Manifest, text: str, becomes: Written) -> str:
    """The text with the staged policy as the policy that it becomes."""
    action = manifest.scalar(("spec", FIELD))
    edits = []
    if action is not None:
        start = max(text.rfind(FIELD, 0, action.start), 0)
        edits.append((*_pair(text, start, action.end), ""))
    for field, word in (("kind", becomes.kind), ("apiVersion", becomes.api_version)):
        scalar = manifest.scalar((field,))
        if scalar is not None and scalar.value != word:
            edits.append((scalar.start, scalar.end, f'"{word}"' if scalar.style else word))
    for start, end, replacement in sorted(edits, reverse=True):
        text = text[:start] + replacement + text[end:]
    return text


def _pair(text: str, start: int, end: int) -> tuple[int, int]:
    """All that goes with a field: its line, or the comma on one side of it."""
    while text[start - 1 : start] in ("'", '"'):
        start -= 1
    line_start, line_end = text.rfind("\n", 0, start) + 1, text.find("\n", end)
    line_end = len(text) if line_end < 0 else line_end + 1
    before, after = text[line_start:start], text[end:line_end]
    if not before.strip() and not after.split("#")[0].strip():
        return line_start, line_end
    if found := re.match(r"\s*,\s*", text[end:]):
        return start, end + found.end()
    if found := re.search(r",\s*$", text[:start]):
        return found.start(), end
    return start, end


def _value(manifest: Manifest, fates: dict[int, Written | None]) -> dict[str, Any] | None:
    """What the changed file has to say of an object; None: nothing."""
    if id(manifest) not in fates:
        return manifest.value
    becomes = fates[id(manifest)]
    if becomes is None:
        return None
    value = copy.deepcopy(manifest.value)
    value["kind"], value["apiVersion"] = becomes
    if isinstance(value.get("spec"), dict):
        value["spec"].pop(FIELD, None)
    return value


def _offset(text: str, line: int) -> int:
    at = 0
    for _ in range(line - 1):
        at = text.index("\n", at) + 1
    return at
