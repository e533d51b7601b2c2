"""``felix``, its ``restore``, ``clean`` and ``drift``: what runs on a node."""

import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from calico_k8s.cli.differences import drift_lines, left_lines
from calico_k8s.cli.logging import LogOptions, log_options, logging_of, set_up_logging
from calico_k8s.cli.options import (
    DatastoreOptions,
    datastore_options,
    metrics_port_option,
    open_datastore,
    option,
    output_option,
)
from calico_k8s.cli.present import print_data
from calico_k8s.config import OPTIONS, Layer, from_environment, resolve
from calico_k8s.datastore.location import Access
from calico_k8s.errors import InputError, UnavailableError

DEFAULT_DENIALS = "/run/calico-k8s/denials.sock"
DEFAULT_STATE = "/var/lib/calico-k8s/felix.state"
FELIX_METRICS_PORT = 9095
FELIX_OPTIONS = (
    "iptables-backend",
    "mark-mask",
    "allow-action",
    "pod-to-host-action",
    "unknown-endpoint-action",
    "invalid-action",
    "workload-interfaces",
    "pod-cidr",
    "failsafe-inbound-ports",
    "failsafe-outbound-ports",
    "dns-extra-ttl-s",
    "cut-connections",
    "denials",
    "resync-interval-s",
    "place-check-interval-s",
    "status-interval-s",
    "lock-timeout-s",
)
"""The settings that are also options of the command; see :mod:`calico_k8s.config`."""

_F = TypeVar("_F", bound=Callable[..., Any])  # Any: a command's function has any parameters


def felix_settings(command: _F) -> _F:
    """The agent's settings as options, collected in the parameter ``settings`` of the context."""
    for setting in reversed([each for each in OPTIONS if each.name in FELIX_OPTIONS]):
        command = option(
            f"--{setting.name}",
            metavar="VALUE",
            help=setting.help,
            expose_value=False,
            callback=keep_setting,
        )(command)
    return command


def keep_setting(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
    """Collect a setting's option for :func:`setting_layers`; an option's callback."""
    if value is not None and parameter.name is not None:
        ctx.ensure_object(dict)
        ctx.meta.setdefault("calico_k8s.settings", {})[parameter.name.replace("_", "-")] = value


def setting_layers(ctx: click.Context) -> tuple[Layer, ...]:
    """Flags, then the environment.

    Raises:
        InputError: a value of either cannot be used.
    """
    layers = (
        Layer("command line", ctx.meta.get("calico_k8s.settings", {})),
        from_environment(os.environ),
    )
    problems = resolve(layers).problems
    if problems:
        raise InputError("; ".join(problems))
    return layers


lock_timeout_option = option(
    "--lock-timeout-s",
    type=float,
    default=10.0,
    show_default=True,
    help="How long to wait for the iptables lock.",
)
state_file_option = option(
    "--state-file",
    metavar="FILE",
    default=DEFAULT_STATE,
    show_default=True,
    help="What a rebooted node starts from.",
)


def denials_socket_option(text: str) -> Callable[[_F], _F]:
    """``--denials-socket``."""
    return option(
        "--denials-socket", metavar="FILE", default=DEFAULT_DENIALS, show_default=True, help=text
    )


@click.group("felix", invoke_without_command=True)
@option(
    "--node", metavar="NAME", help="This node's name in Kubernetes; the host name unless given."
)
@option("--once", is_flag=True, help="Bring the kernel to the datastore's state and exit.")
@state_file_option
@denials_socket_option("Where `calico-k8s denials` asks for what this node denied.")
@log_options
@metrics_port_option(FELIX_METRICS_PORT)
@datastore_options
@option(
    "--etcd-proxies",
    metavar="HOST:PORT[,HOST:PORT...]",
    default="",
    help="etcd's grpc-proxies to read through; status is written to etcd itself.",
)
@felix_settings
@click.pass_context
def felix_command(  # noqa: PLR0913 - one for each option
    ctx: click.Context,
    *,
    node: str | None,
    once: bool,
    state_file: str,
    denials_socket: str,
    log: LogOptions,
    metrics_port: int,
    datastore: DatastoreOptions,
    etcd_proxies: str,
) -> None:
    r"""Enforce the datastore's policy on this node, as root, until stopped.

    \b
    Example:
      calico-k8s felix --node worker-1 --datastore etcd://127.0.0.1:2379
    """
    if ctx.invoked_subcommand is not None:
        return
    require_root()
    # Imported here: `felix clean` and `--help` do without.
    from calico_k8s.felix.agent import Identity
    from calico_k8s.felix.process import run_until_signalled, running_parts
    from calico_k8s.model.names import NodeName

    name, layers = NodeName(node or platform.node()), setting_layers(ctx)
    socket = None if once else Path(denials_socket)
    identity = Identity(name, layers, Path(state_file), socket)
    with (
        logging_of("felix", log),
        open_datastore(
            msgspec.structs.replace(datastore, proxies=etcd_proxies), Access.READ_WRITE
        ) as store,
        running_parts(identity, store, 0 if once else metrics_port) as agent,
    ):
        if not once:
            run_until_signalled(agent)
        elif not agent.run_once(timeout_s=ONCE_TIMEOUT_S):
            raise UnavailableError(
                f"the datastore was not complete, or the kernel refused, within {ONCE_TIMEOUT_S} s"
            )


ONCE_TIMEOUT_S = 60.0


@felix_command.command("restore")
@state_file_option
@lock_timeout_option
def restore_command(state_file: str, lock_timeout_s: float) -> None:
    r"""Enforce again what this node enforced before it was booted: for its start, before any pod.

    \b
    Example:
      calico-k8s felix restore
    """
    require_root()
    from calico_k8s.felix.kernel import restore_kernel
    from calico_k8s.felix.saved import load_state

    state = load_state(Path(state_file))
    if state is None:
        click.echo(f"nothing to restore: {state_file} holds nothing of an earlier boot")
        return
    config = resolve((from_environment(os.environ),)).config
    if restore_kernel(state, lock_timeout_s, config.mark_mask):
        click.echo("restored what this node enforced before it was booted")
    else:
        click.echo("nothing to restore: this node enforces already")


@felix_command.command("clean")
@option("--verify", is_flag=True, help="Remove nothing: only look whether anything is left.")
@lock_timeout_option
@output_option
def clean_command(*, verify: bool, lock_timeout_s: float, output: str) -> None:
    r"""Remove every chain, rule, set and mark of ours from this node's kernel.

    What is left is then read anew, and told; exit 1 if there is something.

    \b
    Example:
      calico-k8s felix clean
      calico-k8s felix clean --verify
    """
    require_root()
    from calico_k8s.felix.kernel import clean_kernel
    from calico_k8s.felix.leftovers import find_leftovers

    mark_mask = resolve((from_environment(os.environ),)).config.mark_mask
    for problem in () if verify else clean_kernel(lock_timeout_s, mark_mask):
        click.echo(problem, err=True)
    findings = tuple(find_leftovers(mark_mask))
    print_data({"findings": findings}, output, lambda: left_lines(findings))
    click.get_current_context().exit(1 if findings else 0)


@felix_command.command("drift")
@option("--node", metavar="NAME", help="As the agent has it; the host name unless given.")
@datastore_options
@state_file_option
@felix_settings
@output_option
@click.pass_context
def drift_command(
    ctx: click.Context,
    *,
    node: str | None,
    datastore: DatastoreOptions,
    state_file: str,
    output: str,
) -> None:
    r"""Print what this node's kernel holds otherwise than it should; exit 1 if there is something.

    Writes nothing.  Settings that the agent has as flags are given here, too.

    \b
    Example:
      calico-k8s felix drift --node worker-1 --datastore etcd://127.0.0.1:2379
    """
    require_root()
    from calico_k8s.felix.drift import DriftFinder
    from calico_k8s.felix.names.journal import names_path
    from calico_k8s.felix.process import choose_backend
    from calico_k8s.model.names import NodeName

    layers = setting_layers(ctx)
    name = NodeName(node or platform.node())
    set_up_logging(LogOptions(level="warning"))
    with open_datastore(datastore) as store:
        backend = choose_backend(resolve(layers).config)
        names = names_path(Path(state_file))
        drift = DriftFinder(name, layers, store, backend, names).find()
    print_data(drift, output, lambda: drift_lines(drift))
    ctx.exit(1 if drift.findings else 0)


def require_root() -> None:
    """Raise unless this process may change the kernel."""
    if os.geteuid() != 0:
        raise UnavailableError("this changes the kernel's rules: run it as root (sudo)")
