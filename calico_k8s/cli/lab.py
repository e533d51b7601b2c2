"""``lab`` and its commands, and ``demo``: virtual clusters on this machine, asked with real packets."""

import functools
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from calico_k8s.cli.kube import KubeOptions, kube_options
from calico_k8s.cli.node import require_root
from calico_k8s.cli.options import DatastoreOptions, option, output_option
from calico_k8s.cli.present import paint, print_data
from calico_k8s.cli.progress import progress_bar
from calico_k8s.cli.source import (
    Loaded,
    Source,
    chosen_services,
    families_option,
    load_source,
    manifest_arguments,
    objects_of,
    settings_options,
)
from calico_k8s.errors import InputError, UnavailableError
from calico_k8s.lab import expectations
from calico_k8s.lab.demo import Stage, run_demo
from calico_k8s.lab.kubeproxy import FelixBackend
from calico_k8s.lab.netns import enter_for_good
from calico_k8s.lab.plan import PodNetwork
from calico_k8s.lab.remote import Request, ask_lab, find_lab, find_spot
from calico_k8s.lab.run import Lab, LabOptions, lab_up
from calico_k8s.lab.session import Session
from calico_k8s.lab.stores import StoreKind
from calico_k8s.model.addresses import Version
from calico_k8s.query.matrix import Matrix
from calico_k8s.query.matrix_text import matrix_lines
from calico_k8s.query.reach import Service
from calico_k8s.sources.expand import ClusterObjects, ExpandOptions, with_places
from calico_k8s.translate.namespaces import TranslateSettings

DEMO_ACT_S = 4.0
"""So that somebody can read along."""

TELLING = ("--denials", "on")
"""What the agents of a lab that stays are told as well: `denials --lab` asks them."""

_COMMAND = "calico_k8s.lab.command"


class _BesideCommand(click.Command):
    """A command whose words after ``--`` are another program's."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keeps what follows ``--`` aside."""
        at = args.index("--") if "--" in args else len(args)
        ctx.meta[_COMMAND] = tuple(args[at + 1 :])
        return super().parse_args(ctx, args[:at])

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Says that a program may follow."""
        return [*super().collect_usage_pieces(ctx), "[-- COMMAND...]"]


class _Wanted(msgspec.Struct, frozen=True):
    """What the command line says of a lab."""

    source: Source
    nodes: int | None
    network: PodNetwork
    backend: FelixBackend
    store: StoreKind

    @property
    def expand(self) -> ExpandOptions:
        """What to assume where SOURCE says nothing."""
        return ExpandOptions(self.nodes, self.source.families)

    def load(self) -> tuple[Loaded, ClusterObjects]:
        """SOURCE, read; what is wrong with it goes to standard error.

        Raises:
            InputError: something cannot be read at all.
        """
        loaded = load_source(self.source, self.nodes)
        assert loaded.objects is not None, "a datastore alone has none"
        if self.source.kube.is_given:
            return loaded, with_places(loaded.objects, self.nodes)
        return loaded, loaded.objects

    def options(self, services: tuple[Service, ...]) -> LabOptions:
        """How the lab is made."""
        return LabOptions(self.network, self.backend, self.store, self.source.settings, services)


def lab_options(command: Callable[..., None]) -> Callable[..., None]:
    """SOURCE and how the lab is made, as the parameter ``wanted``."""

    @functools.wraps(command)
    def with_lab(  # noqa: PLR0913 - one for each option  # Any: the command's other parameters
        *,
        paths: tuple[str, ...],
        settings: TranslateSettings,
        families: tuple[Version, ...] | None,
        kube: KubeOptions,
        nodes: int | None,
        pod_network: str,
        iptables_backend: FelixBackend,
        store: str,
        **others: Any,
    ) -> None:
        require_root()
        source = Source(paths, DatastoreOptions(), settings, families, objects_of(paths, kube))
        kind: StoreKind = "etcd" if store == "etcd" else "sqlite"
        wanted = _Wanted(source, nodes, PodNetwork(pod_network), iptables_backend, kind)
        command(wanted=wanted, **others)

    nodes = option("--nodes", type=click.IntRange(1, 250), help="At least so many nodes.")
    network = option(
        "--pod-network",
        type=click.Choice([str(each) for each in PodNetwork]),
        default=str(PodNetwork.PTP),
        show_default=True,
        help="Pods on routed veths, or on a Linux bridge as with kubenet.",
    )
    backend = option(
        "--iptables-backend",
        type=click.Choice(["nft", "legacy", "nftables"]),
        default="nft",
        show_default=True,
        help="What the nodes' rules go to.",
    )
    store = option(
        "--store",
        type=click.Choice(["sqlite", "etcd"]),
        default="sqlite",
        show_default=True,
        help="The datastore: a file, or a real etcd in the control plane.",
    )
    # Options are listed in the order in which they are added last.
    cluster = kube_options(families_option(network(backend(store(with_lab)))))
    others = settings_options(cluster)
    return manifest_arguments(nodes(others))


port_option = option(
    "--port",
    "ports",
    multiple=True,
    metavar="PORT",
    help="80/tcp, 53/udp, 9899/sctp or icmp; every container port unless given. Repeatable.",
)

run_option = option("--run", metavar="RUN", help="Which lab, where several run.")


@click.group("lab")
def lab_command() -> None:
    """Run any application's manifests in a virtual cluster, with the real controller and Felix."""


@lab_command.command("run", cls=_BesideCommand)
@lab_options
@port_option
@click.pass_context
def run_command(ctx: click.Context, *, wanted: _Wanted, ports: tuple[str, ...]) -> None:
    r"""Bring a virtual cluster up and keep it, until Ctrl-C or the end of COMMAND.

    Its manifests are followed: a change that is saved is in force a moment later. A live cluster is
    built as it is now, and not followed. Other terminals
    enter pods with `lab exec`, kill agents with `lab agent`, and see with `denials --lab --follow` what
    is denied, and by which rule.

    \b
    Examples:
      calico-k8s lab run manifests/
      calico-k8s lab run manifests/ -- ./my-tests.sh
    """
    command: Sequence[str] = ctx.meta[_COMMAND]
    loaded, objects = wanted.load()
    options = wanted.options(chosen_services(ports, loaded))
    with lab_up(objects, msgspec.structs.replace(options, felix=TELLING)) as lab:
        session = Session(lab, wanted.source.paths, wanted.expand, _say)

        def welcome() -> None:
            _say(_welcome(lab))
            if not command:
                _say("Ctrl-C takes everything down.")

        ctx.exit(session.stay(command, welcome))


@lab_command.command("matrix")
@lab_options
@port_option
@output_option
def matrix_command(*, wanted: _Wanted, ports: tuple[str, ...], output: str) -> None:
    r"""Probe every pair of pods with real packets, and print who reached whom.

    \b
    Examples:
      calico-k8s lab matrix manifests/ --port 80/tcp --port 53/udp
      calico-k8s lab matrix --kubeconfig
    """
    loaded, objects = wanted.load()
    services = chosen_services(ports, loaded)
    with lab_up(objects, wanted.options(services)) as lab:
        matrix = _probe(lab, services)
    print_data(matrix, output, lambda: matrix_lines(matrix, paint=paint))


@lab_command.command("test")
@lab_options
@option(
    "--expect",
    "file",
    metavar="FILE",
    required=True,
    help="A YAML list of {from: NS/POD, to: NS/POD, port: 80/tcp, verdict: allow}; globs allowed.",
)
@option("--junit", metavar="FILE", help="Write the outcome as JUnit XML as well.")
@click.pass_context
def test_command(ctx: click.Context, *, wanted: _Wanted, file: str, junit: str | None) -> None:
    r"""Probe with real packets what FILE expects; exit 1 if something turned out otherwise.

    \b
    Example:
      calico-k8s lab test manifests/ --expect expected.yaml --junit report.xml
    """
    expected = expectations.parse_expectations(_read_text(file), file)
    _, objects = wanted.load()
    services = expectations.asked_services(expected)
    with lab_up(objects, wanted.options(services)) as lab:
        outcomes = expectations.check(expected, _probe(lab, services), file)
    for line in expectations.outcome_lines(outcomes):
        click.echo(line)
    if junit is not None:
        _write_text(junit, expectations.junit_xml(outcomes, wanted.source.name))
    if any(outcome.surprises for outcome in outcomes):
        ctx.exit(1)


@lab_command.command("agent")
@click.argument("node")
@click.argument("action", type=click.Choice(["kill", "start"]))
@run_option
def agent_command(*, node: str, action: str, run: str | None) -> None:
    r"""Kill the agent of a running lab's node, or start it again.

    \b
    Example:
      calico-k8s lab agent node-1 kill
    """
    ask_lab(find_lab(run), Request("kill" if action == "kill" else "start", node))


@lab_command.command("exec", cls=_BesideCommand)
@click.argument("place", metavar="POD|NODE")
@run_option
@click.pass_context
def exec_command(ctx: click.Context, *, place: str, run: str | None) -> None:
    r"""Run COMMAND in the network of a running lab's pod (NAMESPACE/NAME) or node.

    \b
    Example:
      calico-k8s lab exec client/web-0 -- curl http://10.128.0.2:80
    """
    command: Sequence[str] = ctx.meta[_COMMAND]
    if not command:
        raise click.UsageError("give the program after --")
    require_root()
    spot = find_spot(find_lab(run), place)
    enter_for_good(spot.namespace)
    if spot.xtables_lockfile:
        os.environ["XTABLES_LOCKFILE"] = spot.xtables_lockfile
    try:
        os.execvp(command[0], list(command))  # noqa: S606 - the user's own words, no shell
    except OSError as error:
        raise UnavailableError(f"{command[0]} cannot be run: {error.strerror}") from error


@click.command("demo")
@click.pass_context
def demo_command(ctx: click.Context) -> None:
    r"""Tell the story of the project with real packets, on this machine, in some 20 seconds.

    Makes network namespaces and removes them; nothing else of the machine is touched.

    \b
    Example:
      sudo calico-k8s demo
    """
    require_root()
    pace_s = DEMO_ACT_S if sys.stdout.isatty() else 0.0
    score = run_demo(Stage(click.echo, paint, pace_s))
    if score.surprises:
        ctx.exit(1)


def _probe(lab: Lab, services: tuple[Service, ...]) -> Matrix:
    """The matrix, with a bar where somebody waits for it."""
    with progress_bar("probing") as advance:
        return lab.matrix(services, advance)


def _welcome(lab: Lab) -> str:
    nodes = ", ".join(sorted(lab.cluster.nodes))
    return (
        f"{len(lab.cluster.pods)} pods on {nodes}, and policy in force;"
        f" datastore {lab.store.url}, run {lab.cluster.directory.name}"
    )


def _say(line: str) -> None:
    click.echo(line, err=True)


def _read_text(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=file) from None
    except UnicodeDecodeError:
        raise InputError("not UTF-8 text", file=file) from None


def _write_text(file: str, text: str) -> None:
    try:
        Path(file).write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror}", file=file) from None
