"""How commands change manifest files: they show what would change, or change it."""

import difflib
from pathlib import Path

import click

from calico_k8s.cli.present import paint
from calico_k8s.cli.source import tell
from calico_k8s.errors import InputError
from calico_k8s.sources.manifests import STANDARD_INPUT
from calico_k8s.sources.staging import FileChange

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def show_change(change: FileChange, what: str, *, writes: bool) -> None:
    """Print what changes in a file, whose new text is ``what``, or change it.

    Raises:
        InputError: the file cannot be written.
    """
    if writes:
        path = Path(change.file)
        try:
            mark = BYTE_ORDER_MARK if path.read_bytes().startswith(BYTE_ORDER_MARK) else b""
            path.write_bytes(mark + change.after.encode())
        except OSError as error:
            message = f"cannot be written: {error.strerror}"
            raise InputError(message, file=change.file) from None
        tell("note", [f"{change.file}: changed"])
        return
    name = "standard input" if change.file == STANDARD_INPUT else change.file
    lines = difflib.unified_diff(
        change.before.splitlines(keepends=True),
        change.after.splitlines(keepends=True),
        name,
        f"{name} ({what})",
    )
    for line in lines:
        text = line.rstrip("\r\n")
        if text[:1] in ("+", "-"):
            text = paint(text, "allow" if text[0] == "+" else "deny")
        click.echo(text)
