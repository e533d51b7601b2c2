"""``lint`` and ``fmt``: what people wrote, checked and put into its canonical form."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import click

import grammar
from calico_k8s.cli.files import show_change
from calico_k8s.cli.kube import KubeOptions, kube_options, open_kube
from calico_k8s.cli.options import option
from calico_k8s.cli.source import (
    manifest_arguments,
    objects_of,
    settings_options,
    tell,
)
from calico_k8s.errors import InputError
from calico_k8s.lint.effects import changed_pods
from calico_k8s.lint.problems import Problem
from calico_k8s.lint.report import FORMATS
from calico_k8s.lint.rules import lint_cluster, lint_manifests
from calico_k8s.lint.view import View, place_finding
from calico_k8s.sources.documents import Manifest
from calico_k8s.sources.manifests import STANDARD_INPUT, SUFFIXES, read_manifests
from calico_k8s.sources.rewrite import PolicyText, policy_texts, replace_texts
from calico_k8s.sources.staging import FileChange
from calico_k8s.translate.findings import Severity
from calico_k8s.translate.namespaces import TranslateSettings


class Formatted(NamedTuple):
    """A file, as it is and as it would be; ``broken`` says that something in it cannot be read."""

    file: str
    before: str
    after: str
    is_broken: bool


def _refuse_datastore(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        raise InputError(
            "this looks at what people wrote, which no datastore has: "
            "give manifests instead of --datastore"
        )


_no_datastore = click.option(
    "--datastore", hidden=True, expose_value=False, callback=_refuse_datastore
)


@click.command("lint")
@manifest_arguments
@settings_options
@option(
    "--format",
    "form",
    type=click.Choice(list(FORMATS)),
    default="text",
    show_default=True,
    help="sarif is for code scanning, github for comments in a pull request.",
)
@option(
    "--notes/--no-notes",
    default=None,
    help="Say also what policy changes: which pods not everybody reaches, and why.  [default: for a"
    " live cluster]",
)
@kube_options
@_no_datastore
@click.pass_context
def lint_command(
    ctx: click.Context,
    *,
    paths: tuple[str, ...],
    kube: KubeOptions,
    settings: TranslateSettings,
    form: str,
    notes: bool | None,
) -> None:
    r"""Tell every mistake with its file and line: exit 1 if there is an error, 0 with warnings alone.

    Of a live cluster it tells first what installing would change: nothing of ours need run there.

    \b
    Examples:
      calico-k8s lint manifests/
      calico-k8s lint manifests/ --format sarif
      calico-k8s lint --kubeconfig
    """
    kube = objects_of(paths, kube)
    if kube.is_given:
        problems, count = _lint_live(kube, settings, notes=notes is not False)
    else:
        problems, count = _lint_paths(paths, settings, notes=bool(notes))
    click.echo(FORMATS[form](problems), nl=False)
    if not problems:
        tell("note", [f"{count} objects, nothing found"])
    ctx.exit(1 if any(each.severity is Severity.ERROR for each in problems) else 0)


def _lint_paths(
    paths: tuple[str, ...], settings: TranslateSettings, *, notes: bool
) -> tuple[tuple[Problem, ...], int]:
    """The problems of manifests, and how many objects they are."""
    _require_existing(paths)
    read = read_manifests(paths)
    tell("note", read.notes)
    problems = lint_manifests(read.manifests, read.errors, settings, notes=notes)
    return problems, len(read.manifests)


def _lint_live(
    kube: KubeOptions, settings: TranslateSettings, *, notes: bool
) -> tuple[tuple[Problem, ...], int]:
    """The problems of a live cluster, and how many objects it has."""
    # Imported here, as the API's client is.
    from calico_k8s.controller.listing import list_cluster

    with open_kube(kube) as api:
        live = list_cluster(api)
    view = View(live.objects, settings)
    unusable = (place_finding(finding, None) for finding in live.findings)
    if notes:
        changed, pods = len(changed_pods(view)), len(view.endpoints)
        tell("note", [f"policy changes who reaches {changed} of {pods} pods"])
    problems = (*unusable, *lint_cluster(view, notes=notes))
    return problems, len(list(live.objects.objects()))


@click.command("fmt")
@click.argument("words", metavar="TEXT...|SOURCE...", nargs=-1, required=True)
@settings_options
@option("--write", "writes", is_flag=True, help="Change the files where they are.")
@option("--check", "checks", is_flag=True, help="Exit 1 if anything would change.")
@_no_datastore
@click.pass_context
def fmt_command(
    ctx: click.Context,
    *,
    words: tuple[str, ...],
    settings: TranslateSettings,
    writes: bool,
    checks: bool,
) -> None:
    r"""Print the canonical form of policies: of a TEXT, or what would change in SOURCE.

    What names a file or folder, or is '-', is SOURCE; anything else is text.

    \b
    Examples:
      calico-k8s fmt 'ALLOW tcp from label access=backend to ports 4001'
      calico-k8s fmt manifests/
      calico-k8s fmt manifests/ --write
    """
    if writes and checks:
        raise InputError("give --write or --check, not both")
    sources = [word for word in words if word == STANDARD_INPUT or _is_path(word)]
    texts = [word for word in words if word not in sources]
    if writes and (texts or STANDARD_INPUT in sources):
        raise InputError("--write changes files: give files or folders")
    changes = _format_texts(texts)
    read = read_manifests(sources)
    tell("note", read.notes)
    tell("error", map(str, read.errors))
    is_broken = bool(read.errors)
    for formatted in _format_files(read.manifests, settings):
        is_broken |= formatted.is_broken
        if formatted.before != formatted.after:
            changes = True
            show_change(
                FileChange(formatted.file, formatted.before, formatted.after),
                "canonical",
                writes=writes,
            )
    if is_broken:
        ctx.exit(2)
    ctx.exit(1 if checks and changes else 0)


def _is_path(word: str) -> bool:
    try:
        return bool(word) and Path(word).exists()
    except OSError:
        return False  # longer than a path can be


def _format_texts(texts: list[str]) -> bool:
    """Print the canonical form of each text; whether any was not in it."""
    # Without quotes around it, a shell hands a text over word by word.
    if texts and not any(blank in text for text in texts for blank in " \t\n;"):
        texts = [" ".join(texts)]
    formatted = [_format_text(text) for text in texts]
    for text in formatted:
        click.echo(text)
    return formatted != [text.rstrip("\n") for text in texts]


def _format_text(text: str) -> str:
    try:
        return grammar.format_policy(text)
    except grammar.PolicyErrors as errors:
        looks_like_path = " " not in text and ("/" in text or Path(text).suffix in SUFFIXES)
        hint = f"\nthere is no file '{text}' either" if looks_like_path else ""
        raise InputError(f"{errors}{hint}") from None


def _require_existing(paths: Iterable[str]) -> None:
    for path in paths:
        if path != STANDARD_INPUT and not Path(path).exists():
            raise InputError("no such file or folder", file=path)


def _format_files(
    manifests: Iterable[Manifest], settings: TranslateSettings
) -> Iterator[Formatted]:
    """Every file that holds manifests; what cannot be read is told."""
    by_file: dict[str, list[Manifest]] = {}
    for manifest in manifests:
        by_file.setdefault(manifest.file, []).append(manifest)
    for file, held in by_file.items():
        yield _format_file(file, held, settings)


def _format_file(file: str, manifests: list[Manifest], settings: TranslateSettings) -> Formatted:
    changes: list[tuple[PolicyText, str]] = []
    before, is_broken = manifests[0].text, False
    for written in policy_texts(manifests, settings.annotation_keys):
        try:
            canonical = _canonical(written.text)
        except grammar.PolicyErrors as errors:
            is_broken = True
            tell("error", (_sentence(written, error) for error in errors.errors))
            continue
        if canonical != written.text:
            changes.append((written, canonical))
    try:
        after = replace_texts(before, changes)
    except InputError as error:
        tell("error", [str(error)])
        return Formatted(file, before, before, is_broken=True)
    return Formatted(file, before, after, is_broken)


def _canonical(text: str) -> str:
    """The canonical form, with the line ends that the text has after its last line."""
    stripped = text.rstrip("\n")
    return grammar.format_policy(text) + text[len(stripped) :] if stripped.strip() else text


def _sentence(written: PolicyText, error: grammar.GrammarError) -> str:
    place = written.place(error.span.start)
    shown = [f"{place}: {error.message}", *str(error).splitlines()[1:]]
    return "\n".join(shown)
