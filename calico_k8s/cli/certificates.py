"""``signer`` and ``certificate``: who is who between etcd, the controller and the nodes."""

import datetime as dt
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Protocol

import click

from calico_k8s.cli.logging import LogOptions, log_options, logging_of
from calico_k8s.cli.options import metrics_port_option, option
from calico_k8s.datastore.location import EtcdLocation, parse_url
from calico_k8s.errors import InputError
from calico_k8s.model.addresses import Address, parse_address

METRICS_PORT = 9096
DEFAULT_NAMESPACE = "calico-k8s"
_HOLDERS = {
    "felix": "calico-k8s-felix",
    "controller": "calico-k8s-controller",
    "etcd": "calico-k8s-etcd",
    "etcd-proxy": "calico-k8s-etcd-proxy",
}
"""Their service accounts; the enumeration would take longer to import than a probe may."""
VALID_S = 30 * 24 * 3600
"""Renewed after two thirds: the signer may be away for ten days."""


class _Process(Protocol):
    def run(self) -> None: ...

    def stop(self) -> None: ...


def _parse_addresses(
    _ctx: click.Context, _parameter: click.Parameter, value: str
) -> tuple[Address, ...]:
    return tuple(parse_address(text.strip()) for text in value.split(",") if text.strip())


@click.command("signer")
@option(
    "--datastore", metavar="URL", required=True, help="etcd://HOST:2379[,HOST:2379...][/calico]"
)
@option(
    "--members",
    metavar="ADDRESS[,ADDRESS...]",
    default="",
    callback=_parse_addresses,
    help="Where etcd's members serve; no other address gets a server's certificate.",
)
@option(
    "--directory",
    metavar="PATH",
    type=click.Path(path_type=Path),
    required=True,
    help="For the signer's own certificate: memory that nobody else reads.",
)
@option(
    "--valid-s",
    type=click.IntRange(1),
    default=VALID_S,
    show_default=True,
    help="How long a certificate lasts at most; it is renewed after two thirds.",
)
@metrics_port_option(METRICS_PORT)
@log_options
def signer_command(
    *,
    datastore: str,
    members: tuple[Address, ...],
    directory: Path,
    valid_s: int,
    metrics_port: int,
    log: LogOptions,
) -> None:
    r"""Sign certificates for etcd's members and clients, and keep etcd's users, until stopped.

    \b
    Example:
      calico-k8s signer --members 10.0.0.1 --datastore etcd://10.0.0.1:12379 --directory /run/signer
    """
    # Imported here: `--help` does without.
    from calico_k8s.certificates.requests import Rules
    from calico_k8s.certificates.signer import Options, Signer
    from calico_k8s.controller.kube import connect, own_namespace

    location = parse_url(datastore)
    if not isinstance(location, EtcdLocation):
        raise InputError(f"{datastore!r} takes no certificates: give etcd://HOST:2379")
    rules = Rules(
        own_namespace() or DEFAULT_NAMESPACE, frozenset(members), dt.timedelta(seconds=valid_s)
    )
    with logging_of("signer", log):
        _run(Signer(connect(), Options(rules, location, directory, metrics_port)))


@click.command("certificate")
@click.argument("holder", type=click.Choice(list(_HOLDERS)))
@option(
    "--node", metavar="NAME", help="This node's name in Kubernetes; all but the controller need it."
)
@option(
    "--address",
    metavar="ADDRESS[,ADDRESS...]",
    default="",
    callback=_parse_addresses,
    help="Where this member of etcd, or proxy, serves.",
)
@option(
    "--directory",
    metavar="PATH",
    type=click.Path(path_type=Path),
    required=True,
    help="For current/ca.pem, current/cert.pem and current/key.pem.",
)
@option("--check", is_flag=True, help="Only say whether the certificate is there and lasts.")
@log_options
def certificate_command(
    *,
    holder: str,
    node: str | None,
    address: tuple[Address, ...],
    directory: Path,
    check: bool,
    log: LogOptions,
) -> None:
    r"""Hold a certificate for etcd: ask the signer for it, and again before it ends.

    \b
    Examples:
      calico-k8s certificate felix --node worker-1 --directory /var/lib/calico-k8s/certificate
      calico-k8s certificate felix --directory /var/lib/calico-k8s/certificate --check
    """
    if check:
        # Imported here, and without what the rest takes: probes call this every few seconds.
        from calico_k8s.certificates.checks import problem_of

        problem = problem_of(directory, dt.datetime.now(dt.UTC))
        click.echo(problem or "the certificate is there, and lasts")
        click.get_current_context().exit(1 if problem else 0)
    from calico_k8s.certificates.authority import Subject
    from calico_k8s.certificates.holder import Keeper, Wish
    from calico_k8s.certificates.names import Holder, common_name
    from calico_k8s.controller.kube import connect, own_namespace
    from calico_k8s.model.names import NodeName

    who = Holder(_HOLDERS[holder])
    if who is Holder.FELIX and not node:
        raise InputError("a node's certificate is of its name in Kubernetes: give --node NAME")
    if who.serves and not address:
        raise InputError("a server's certificate is of its addresses: give --address ADDRESS")
    wish = Wish(
        who,
        Subject(common_name(who, NodeName(node or "")), address),
        own_namespace() or DEFAULT_NAMESPACE,
        directory,
        dt.timedelta(seconds=VALID_S),
    )
    with logging_of("certificate", log):
        _run(Keeper(connect(), wish))


def _run(process: _Process) -> None:
    def stop(_number: int, _frame: FrameType | None) -> None:
        # A thread: what this interrupts may hold the very lock that stopping takes.
        threading.Thread(target=process.stop).start()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    process.run()
