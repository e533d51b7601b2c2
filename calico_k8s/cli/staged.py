"""``staged``: what staged policies would do, and then doing it, or not.

In: a SOURCE.  Out: for each staged policy what it opens and closes; and the files or the cluster in
which one is enforced or dismissed.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import click

from calico_k8s.cli.files import show_change
from calico_k8s.cli.kube import open_kube
from calico_k8s.cli.options import DatastoreOptions, open_datastore, option, output_option
from calico_k8s.cli.present import paint, print_data
from calico_k8s.cli.progress import progress_bar
from calico_k8s.cli.source import Source, chosen_services, load_source, source_options, tell
from calico_k8s.errors import InputError
from calico_k8s.lint.view import place_finding
from calico_k8s.model.denial import Denials
from calico_k8s.model.names import PolicyId
from calico_k8s.model.resources import StagedAction
from calico_k8s.model.staging import STAGED_KINDS, target_of
from calico_k8s.query.staged import staged_lines, staged_report, with_counts
from calico_k8s.sources.expand import ClusterObjects
from calico_k8s.sources.manifests import STANDARD_INPUT, read_manifests
from calico_k8s.sources.staging import (
    FileChange,
    enforced_form,
    find_manifests,
    with_enforced,
    without,
)
from calico_k8s.translate.cluster import translate_all
from calico_k8s.translate.findings import Code, ObjectRef
from calico_k8s.translate.objects import object_ref
from calico_k8s.translate.reading import Misread
from calico_k8s.translate.staged_policies import staged_action

if TYPE_CHECKING:
    from calico_k8s.controller.kube import KubeApi
    from calico_k8s.controller.staging import Step

SHOW = "show"
_UNFIT = frozenset({Code.POLICY_INVALID, Code.TIER_UNKNOWN, Code.STAGED_TARGET_UNKNOWN})
"""With one of these, what a staged policy would do is not what was meant."""
_DONE = {"create": "created", "replace": "replaced", "delete": "deleted"}


class _ShowsUnlessTold(click.Group):
    """A group that takes a SOURCE as well: without the name of a command it is ``show``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """The arguments, with the command that they are for."""
        is_command = args[:1] and (args[0] in self.commands or args[0] in ctx.help_option_names)
        return super().parse_args(ctx, args if is_command else [SHOW, *args])


@click.group("staged", cls=_ShowsUnlessTold)
def staged_command() -> None:
    r"""Say what staged policies would open and close; enforce or dismiss them.

    `staged SOURCE` is `staged show SOURCE`.

    \b
    Examples:
      calico-k8s staged manifests/
      calico-k8s staged --kubeconfig
      calico-k8s staged enforce default-deny manifests/ --write
      calico-k8s staged dismiss default-deny --kubeconfig
    """


@staged_command.command(SHOW)
@source_options
@option(
    "--port",
    "ports",
    metavar="PORT[/PROTOCOL]",
    multiple=True,
    help="What to ask for, as in 80/tcp, 53/udp, icmp; all container ports unless given.",
)
@output_option
def show_command(*, source: Source, ports: tuple[str, ...], output: str) -> None:
    r"""Print what each staged policy would open and close, and all of them together.

    \b
    Examples:
      calico-k8s staged manifests/
      calico-k8s staged manifests/ --port 80/tcp --port 53/udp -o json
      calico-k8s staged --datastore sqlite:///state.db
    """
    cluster = load_source(source)
    services = chosen_services(ports, cluster)
    with progress_bar("judging") as advance:
        report = staged_report(cluster.snapshot, services, advance)
    if source.datastore.url is not None:
        report = with_counts(report, _counts(source.datastore))
    print_data(report, output, lambda: staged_lines(report, paint))


def _counts(datastore: DatastoreOptions) -> list[Denials]:
    """What nodes tell of staged policies, and a word where none does."""
    from calico_k8s.cli.denials import StoreReader

    with open_datastore(datastore) as store:
        answers = StoreReader(store).read()
    if not any(answer.is_told for answer in answers):
        message = "no node counts packets: start Felix with --denials on, or store that setting"
        tell("note", [message])
    return answers


def _acting_options(command: Callable[..., None]) -> Callable[..., None]:
    """NAME, and how to write, as the parameters ``name``, ``writes`` and ``dry_run``."""
    command = option("--dry-run", is_flag=True, help="Say what would be written to the cluster.")(
        command
    )
    command = option("--write", "writes", is_flag=True, help="Change the files where they are.")(
        command
    )
    return click.argument("name", metavar="NAME")(source_options(command))


@staged_command.command("enforce")
@_acting_options
def enforce_command(*, source: Source, name: str, writes: bool, dry_run: bool) -> None:
    r"""Make a staged policy the enforced one of its name, or delete that, as it says.

    NAME is the policy's own, with its namespace and kind before it where it needs them. In manifests
    it prints what changes, or changes it with --write; in a cluster it is done at once.

    \b
    Examples:
      calico-k8s staged enforce default-deny manifests/
      calico-k8s staged enforce StagedNetworkPolicy/shop/web manifests/ --write
      calico-k8s staged enforce shop/web --kubeconfig --dry-run
    """
    _check_options(source, writes=writes, dry_run=dry_run)
    cluster = _objects(source)
    ref, action = _find(cluster, name)
    if action is StagedAction.IGNORE:
        raise InputError(f"{ref} is to be ignored: give it another stagedAction, or dismiss it")
    _require_fit(cluster, source, ref)
    assert action is not None, "a policy whose action is not understood does not fit"
    if source.paths:
        manifests = read_manifests(source.paths).checked().manifests
        *_, staged = find_manifests(manifests, ref)
        replaced = list(find_manifests(manifests, _target(ref)))
        if action is StagedAction.DELETE:
            changes = without(manifests, [staged, *replaced])
        else:
            changes = with_enforced(manifests, staged, enforced_form(ref), replaced)
        _change_files(changes, "enforced", writes=writes)
        return
    from calico_k8s.controller.staging import enforcing

    with open_kube(source.kube) as api:
        _take(enforcing(api, ref, action), None if dry_run else api)


@staged_command.command("dismiss")
@_acting_options
def dismiss_command(*, source: Source, name: str, writes: bool, dry_run: bool) -> None:
    r"""Delete a staged policy; what is enforced stays as it is.

    \b
    Examples:
      calico-k8s staged dismiss default-deny manifests/ --write
      calico-k8s staged dismiss StagedNetworkPolicy/shop/web --kubeconfig
    """
    _check_options(source, writes=writes, dry_run=dry_run)
    ref, _ = _find(_objects(source), name)
    if source.paths:
        manifests = read_manifests(source.paths).checked().manifests
        changes = without(manifests, find_manifests(manifests, ref))
        _change_files(changes, "dismissed", writes=writes)
        return
    from calico_k8s.controller.staging import dismissing

    with open_kube(source.kube) as api:
        _take(dismissing(api, ref), None if dry_run else api)


def _check_options(source: Source, *, writes: bool, dry_run: bool) -> None:
    if source.datastore.url is not None:
        raise InputError(
            "a datastore holds what the controller makes of policies: "
            "give manifests or --kubeconfig instead of --datastore"
        )
    if writes and (not source.paths or STANDARD_INPUT in source.paths):
        raise InputError("--write changes files: give files or folders")
    if dry_run and source.paths:
        raise InputError("--dry-run is for a cluster: files are changed only with --write")


def _objects(source: Source) -> ClusterObjects:
    objects = load_source(source).objects
    assert objects is not None, "only a datastore knows no objects"
    return objects


def _find(cluster: ClusterObjects, name: str) -> tuple[ObjectRef, StagedAction | None]:
    """The one staged policy that a name means, and its action; None where that is none.

    Raises:
        InputError: it means none, or several.
    """
    staged = {object_ref(value): value for value in cluster.policies}
    refs = sorted(ref for ref in staged if ref.kind in STAGED_KINDS)
    found = [ref for ref in refs if f"/{ref}".endswith(f"/{name}")]
    if len(found) != 1:
        which = ", ".join(map(str, found or refs)) or "none"
        how_many = "several staged policies are" if found else "no staged policy is"
        raise InputError(f"{how_many} called '{name}': there is {which}")
    spec = staged[found[0]].spec
    try:
        return found[0], staged_action(spec if isinstance(spec, dict) else {})
    except Misread:
        return found[0], None


def _require_fit(cluster: ClusterObjects, source: Source, ref: ObjectRef) -> None:
    """Raise unless what the policy says is understood, and all that it needs is there."""
    for finding in translate_all(cluster.objects(), source.settings).findings:
        if finding.object == ref and finding.code in _UNFIT:
            problem = place_finding(finding, cluster.written.get(ref))
            raise InputError(
                f"{finding.message} ({ref})",
                file=problem.file or None,
                line=problem.line or None,
                column=problem.column or None,
            )


def _target(ref: ObjectRef) -> ObjectRef:
    return ObjectRef(*target_of(PolicyId(*ref)))


def _change_files(changes: Sequence[FileChange], what: str, *, writes: bool) -> None:
    for change in changes:
        show_change(change, what, writes=writes)


def _take(steps: "Sequence[Step]", api: "KubeApi | None") -> None:
    """Write what is to be written, and say it; without a server only that."""
    for step in steps:
        if api is not None:
            step.do(api)
        click.echo(f"{step.ref}: {'would be ' if api is None else ''}{_DONE[step.verb]}")
