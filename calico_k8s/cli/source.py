"""SOURCE: where a command takes its cluster from, and the reading of it.

In: files, folders, ``-``, a live cluster's API, or a datastore's URL, and what to assume where they
say nothing.  Out: a
:class:`Loaded` cluster.  Notes and warnings go to standard error, each with its file and line.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

import click
import msgspec
from click.core import ParameterSource

from calico_k8s.cli.kube import KubeOptions, kube_options, kubectls_cluster, open_kube
from calico_k8s.cli.options import DatastoreOptions, datastore_options, open_datastore, option
from calico_k8s.config import OPTION_BY_NAME
from calico_k8s.controller.stored import read_items
from calico_k8s.errors import InputError
from calico_k8s.lab.planning import lost_addresses
from calico_k8s.lint.problems import Problem
from calico_k8s.lint.view import place_finding
from calico_k8s.model import keys
from calico_k8s.model.addresses import Version
from calico_k8s.model.dns_servers import DEFAULT_SERVERS, DnsServers, parse_dns_servers
from calico_k8s.model.resources import PROTOCOL_NUMBERS, Ready
from calico_k8s.policy.snapshot import Snapshot
from calico_k8s.query.matrix import default_services, parse_service
from calico_k8s.query.reach import Service
from calico_k8s.sources.backends import declared_ports
from calico_k8s.sources.expand import ClusterObjects, ExpandOptions, expand
from calico_k8s.sources.manifests import read_manifests
from calico_k8s.translate.cluster import Translation, translate_all
from calico_k8s.translate.namespaces import ANNOTATION_KEYS, TranslateSettings

_F = TypeVar("_F", bound=Callable[..., Any])  # Any: a command's function has any parameters

WARNINGS_MAX = 10
"""Warnings that a command shows which is not about them: lint shows all."""

_FAMILIES: dict[str, tuple[Version, ...]] = {"4": (4,), "6": (6,), "4,6": (4, 6), "6,4": (4, 6)}


class Source(msgspec.Struct, frozen=True):
    """What the command line says of a cluster: paths, or ``kube``, or ``datastore`` is given."""

    paths: tuple[str, ...]
    datastore: DatastoreOptions
    settings: TranslateSettings = TranslateSettings()
    families: tuple[Version, ...] | None = None
    kube: KubeOptions = KubeOptions()

    @property
    def name(self) -> str:
        """As the user would call it."""
        return " ".join(self.paths) or self.datastore.url or self.kube.name


class Loaded(NamedTuple):
    """A cluster."""

    snapshot: Snapshot
    services: tuple[Service, ...]
    """What to ask for where nobody says: every container port of the cluster; never empty."""
    objects: ClusterObjects | None
    """None where it comes from a datastore, which knows no objects."""


def manifest_arguments(command: _F) -> _F:
    """SOURCE as files, as the parameter ``paths``."""
    return click.argument("paths", metavar="SOURCE...", nargs=-1)(command)


def settings_options(command: Callable[..., None]) -> Callable[..., None]:
    """What the controller can be told of annotations and flags, as the parameter ``settings``."""

    @functools.wraps(command)
    def with_settings(  # Any: the command's other parameters
        *,
        default_namespace_policy: str,
        annotation_keys: tuple[str, ...],
        auto_host_endpoints: str,
        dns_trusted_servers: DnsServers,
        **others: Any,
    ) -> None:
        settings = TranslateSettings(
            annotation_keys,
            "open" if default_namespace_policy == "open" else "closed",
            auto_host_endpoints == "true",
            dns_trusted_servers,
        )
        command(settings=settings, **others)

    with_settings = option(
        "--auto-host-endpoints",
        type=click.Choice(["true", "false"]),
        default="false",
        show_default=True,
        help="Whether each node has a HostEndpoint made for it, as by the controller's setting.",
    )(with_settings)
    with_settings = option(
        "--dns-trusted-servers",
        metavar="SERVER[,SERVER...]",
        default=DEFAULT_SERVERS,
        show_default=True,
        callback=_parse_servers,
        help="DNS servers whose answers say what addresses the domains of policies have.",
    )(with_settings)
    with_settings = option(
        "--annotation-keys",
        metavar="KEY[,KEY...]",
        default=",".join(ANNOTATION_KEYS),
        show_default=True,
        callback=_parse_keys,
        help="Annotations that hold a pod's policy; the first that a pod has counts.",
    )(with_settings)
    return option(
        "--default-namespace-policy",
        type=click.Choice(["open", "closed"]),
        default="open",
        show_default=True,
        help="What a namespace without a flag is.",
    )(with_settings)


def _parse_servers(_ctx: click.Context, _parameter: click.Parameter, value: str) -> DnsServers:
    return parse_dns_servers(value)


def families_option(command: _F) -> _F:
    """``--families``, as the parameter ``families``."""
    return option(
        "--families",
        metavar="4|6|4,6",
        callback=_parse_families,
        help="Address families to give pods that have no address; IPv4, and IPv6 if SOURCE has any.",
    )(command)


def source_options(command: Callable[..., None]) -> Callable[..., None]:
    """SOURCE and what belongs to it, as the parameter ``source``."""

    @functools.wraps(command)
    def with_source(  # Any: the command's other parameters
        *,
        paths: tuple[str, ...],
        kube: KubeOptions,
        datastore: DatastoreOptions,
        settings: TranslateSettings,
        families: tuple[Version, ...] | None,
        **others: Any,
    ) -> None:
        kube, datastore = _chosen(paths, kube, datastore)
        command(source=Source(paths, datastore, settings, families, kube), **others)

    with_cluster = kube_options(datastore_options(families_option(with_source)))
    return manifest_arguments(settings_options(with_cluster))


def objects_of(paths: Sequence[str], kube: KubeOptions) -> KubeOptions:
    """Whose objects a command takes that wants objects: no cluster's, where manifests are given.

    Raises:
        InputError: neither is given, or both.
    """
    is_said = is_on_command_line("kubeconfig") or is_on_command_line("context")
    if paths and is_said:
        raise InputError("give manifests or --kubeconfig, not both")
    if paths:
        return KubeOptions()
    chosen = kube if kube.is_given else kubectls_cluster()
    if not chosen.is_given:
        raise InputError(
            "give manifests (files, folders, or '-' for standard input) or --kubeconfig"
        )
    return chosen


def load_source(
    source: Source, nodes: int | None = None, before: ClusterObjects | None = None
) -> Loaded:
    """Read a cluster, and tell on standard error what was passed over or is wrong in it.

    With ``before``, what was there keeps its node and addresses.

    Raises:
        InputError: something cannot be read at all.
        StoreError: the datastore cannot be read.
        KubeError: the live cluster cannot be read.
    """
    if source.paths:
        loaded = _load_manifests(source, nodes, before)
    elif source.kube.is_given:
        loaded = _load_live(source)
    else:
        loaded = _load_stored(source)
    tell("warning", lost_addresses(loaded.snapshot))
    return loaded


def chosen_services(ports: Sequence[str], *clusters: Loaded) -> tuple[Service, ...]:
    """What to ask for: the ports that are given, else those of the clusters; sorted.

    Raises:
        InputError: a port that is none.
    """
    if ports:
        return tuple(sorted({parse_service(port) for port in ports}))
    return tuple(sorted({service for cluster in clusters for service in cluster.services}))


def manifest_services(objects: ClusterObjects) -> tuple[Service, ...]:
    """Every container port of the cluster; port 80/tcp where there is none."""
    declared = tuple(Service(*port) for port in declared_ports(objects))
    return declared or (Service(PROTOCOL_NUMBERS["tcp"], 80),)


def tell(kind: str, sentences: Iterable[str]) -> None:
    """Print sentences to standard error, each as a ``note:``, ``warning:`` or the like."""
    for sentence in sentences:
        click.echo(f"{kind}: {sentence}", err=True)


def _chosen(
    paths: Sequence[str], kube: KubeOptions, datastore: DatastoreOptions
) -> tuple[KubeOptions, DatastoreOptions]:
    """The one SOURCE that is meant: what the command line says goes before the environment."""
    if not (paths or kube.is_given or datastore.url):
        kube = kubectls_cluster()
    if not (paths or kube.is_given or datastore.url):
        raise InputError(
            "give a SOURCE: manifest files or folders, '-', --kubeconfig or --datastore URL"
        )
    given = {
        "manifests": bool(paths),
        "--kubeconfig": is_on_command_line("kubeconfig") or is_on_command_line("context"),
        "--datastore": is_on_command_line("datastore"),
    }
    said = [name for name, is_said in given.items() if is_said]
    if len(said) > 1:
        raise InputError(f"give {' or '.join(said)}, not both")
    if paths:
        return KubeOptions(), DatastoreOptions()
    if given["--datastore"] or not kube.is_given:
        return KubeOptions(), datastore
    return kube, DatastoreOptions()


def is_on_command_line(parameter: str) -> bool:
    """Whether an option was given there, and not by the environment."""
    source = click.get_current_context().get_parameter_source(parameter)
    return source is ParameterSource.COMMANDLINE


def _parse_keys(_ctx: click.Context, _parameter: click.Parameter, value: str) -> tuple[str, ...]:
    names: tuple[str, ...] = OPTION_BY_NAME["annotation-keys"].parse(value)
    if not names:
        raise InputError("--annotation-keys: give one key or more")
    return names


def _parse_families(
    _ctx: click.Context, _parameter: click.Parameter, value: str | None
) -> tuple[Version, ...] | None:
    if value is None:
        return None
    families = _FAMILIES.get(value.replace(" ", ""))
    if families is None:
        raise InputError(f"--families '{value}': give 4, 6 or 4,6")
    return families


def _load_manifests(source: Source, nodes: int | None, before: ClusterObjects | None) -> Loaded:
    read = read_manifests(source.paths).checked()
    objects = expand(read.manifests, ExpandOptions(nodes, source.families), before)
    translation = translate_all(objects.objects(), source.settings)
    tell("note", [*read.notes, *objects.notes])
    _tell_findings(objects, translation)
    return Loaded(Snapshot.from_items(translation.items), manifest_services(objects), objects)


def _load_stored(source: Source) -> Loaded:
    with open_datastore(source.datastore) as store:
        found = read_items(store)
    tell("warning", found.problems)
    if found.items.get(keys.ReadyKey()) != Ready(True):
        tell("warning", ["the controller's first sync is not done: this is not the whole cluster"])
    snapshot = Snapshot.from_items(found.items)
    return Loaded(snapshot, default_services(snapshot), None)


def _load_live(source: Source) -> Loaded:
    # Imported here, as the API's client is.
    from calico_k8s.controller.listing import list_cluster

    with open_kube(source.kube) as api:
        live = list_cluster(api)
    translation = translate_all(live.objects.objects(), source.settings)
    tell("warning", [finding.message for finding in live.findings])
    _tell_findings(live.objects, translation)
    snapshot = Snapshot.from_items(translation.items)
    return Loaded(snapshot, manifest_services(live.objects), live.objects)


def _tell_findings(objects: ClusterObjects, translation: Translation) -> None:
    """What is wrong with single objects: each mistake once, though a template makes many pods."""
    placed = [place_finding(each.finding, each.written) for each in objects.findings]
    placed += [place_finding(f, objects.written.get(f.object)) for f in translation.findings]
    placed.sort(key=lambda problem: (problem.file, problem.line, problem.column))
    sentences = list(dict.fromkeys(_sentence(problem) for problem in placed))
    tell("warning", sentences[:WARNINGS_MAX])
    if len(sentences) > WARNINGS_MAX:
        more = len(sentences) - WARNINGS_MAX
        tell("warning", [f"and {more} more: 'calico-k8s lint' lists them all"])


def _sentence(problem: Problem) -> str:
    place = f"{problem.file}:{problem.line}:{problem.column}: " if problem.line else ""
    about = "" if problem.object in problem.message else f" ({problem.object})"
    return f"{place}{problem.message}{about}"
