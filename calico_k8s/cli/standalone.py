"""``standalone``: controller and Felix in one process, on a directory of manifests."""

import platform
from contextlib import closing
from pathlib import Path

import click

from calico_k8s.cli.logging import LogOptions, log_options, logging_of
from calico_k8s.cli.node import (
    DEFAULT_STATE,
    FELIX_METRICS_PORT,
    denials_socket_option,
    felix_settings,
    require_root,
    setting_layers,
)
from calico_k8s.cli.options import (
    DatastoreOptions,
    metrics_port_option,
    open_datastore,
    option,
)
from calico_k8s.cli.source import settings_options
from calico_k8s.datastore.location import Access
from calico_k8s.translate.namespaces import TranslateSettings

DEFAULT_STORE = "sqlite:///var/lib/calico-k8s/standalone.db"


@click.command("standalone")
@click.argument("directories", nargs=-1, required=True, type=click.Path(exists=True))
@option(
    "--node", metavar="NAME", help="This node's name in the pods' spec; the host name unless given."
)
@option(
    "--datastore",
    metavar="URL",
    default=DEFAULT_STORE,
    show_default=True,
    help="Where the state is kept.",
)
@option(
    "--state-file",
    metavar="FILE",
    default=DEFAULT_STATE,
    show_default=True,
    help="What a rebooted node starts from.",
)
@denials_socket_option("Where `calico-k8s denials` asks for what this node denied.")
@log_options
@metrics_port_option(FELIX_METRICS_PORT)
@settings_options
@felix_settings
@click.pass_context
def standalone_command(  # noqa: PLR0913 - one for each option
    ctx: click.Context,
    *,
    directories: tuple[str, ...],
    node: str | None,
    datastore: str,
    state_file: str,
    denials_socket: str,
    log: LogOptions,
    metrics_port: int,
    settings: TranslateSettings,
) -> None:
    r"""Enforce a directory of manifests on this node, as root, and follow it until stopped.

    Pods count that have a node and an address, as kubectl get -o yaml gives them.

    \b
    Example:
      calico-k8s standalone /etc/calico-k8s/manifests
    """
    require_root()
    # Imported here: `--help` does without.
    from calico_k8s.controller.directory import DirectoryController
    from calico_k8s.felix.agent import Identity
    from calico_k8s.felix.process import run_until_signalled, running_parts
    from calico_k8s.model.names import NodeName

    name, layers = NodeName(node or platform.node()), setting_layers(ctx)
    identity = Identity(name, layers, Path(state_file), Path(denials_socket))
    if datastore.startswith("sqlite://"):
        Path(datastore.removeprefix("sqlite://")).parent.mkdir(0o700, parents=True, exist_ok=True)
    with (
        logging_of("standalone", log),
        open_datastore(DatastoreOptions(datastore), Access.READ_WRITE) as store,
    ):
        controller = DirectoryController(directories, settings, store)
        controller.start()
        with closing(controller), running_parts(identity, store, metrics_port) as agent:
            run_until_signalled(agent)
