"""``controller``: from a Kubernetes API to the datastore."""

import functools
import platform
import signal
import threading
import uuid
from collections.abc import Callable
from types import FrameType
from typing import Any

import click
import msgspec

from calico_k8s.cli.kube import KubeOptions, kube_options
from calico_k8s.cli.logging import LogOptions, log_options, logging_of
from calico_k8s.cli.node import keep_setting, setting_layers
from calico_k8s.cli.options import (
    DatastoreOptions,
    datastore_options,
    metrics_port_option,
    open_datastore,
    option,
)
from calico_k8s.cli.webhook import WebhookChoice, door, webhook_options
from calico_k8s.config import OPTION_BY_NAME
from calico_k8s.datastore.location import Access
from calico_k8s.model.dns_servers import DEFAULT_SERVERS

METRICS_PORT = 9094
DEFAULT_LEASE_NAMESPACE = "kube-system"
LEASE_S = 15


class LeaseChoice(msgspec.Struct, frozen=True):
    """The Lease that one of several controllers is to hold."""

    namespace: str | None
    """None: not said."""
    duration_s: int


def lease_options(command: Callable[..., None]) -> Callable[..., None]:
    """``--leader-elect`` and what goes with it, as the parameter ``lease``, None without it."""

    @functools.wraps(command)
    def with_lease(  # Any: the command's other parameters
        *, leader_elect: bool, lease_namespace: str | None, lease_duration: int, **others: Any
    ) -> None:
        choice = LeaseChoice(lease_namespace, lease_duration)
        command(lease=choice if leader_elect else None, **others)

    with_lease = option(
        "--lease-duration",
        type=click.IntRange(min=2),
        default=LEASE_S,
        show_default=True,
        metavar="SECONDS",
        help="How long the Lease of a leader that died keeps the others waiting.",
    )(with_lease)
    with_lease = option(
        "--lease-namespace",
        metavar="NAME",
        help=f"Where the Lease is: the pod's own namespace, or {DEFAULT_LEASE_NAMESPACE}.",
    )(with_lease)
    return option(
        "--leader-elect", is_flag=True, help="Write only while holding a Lease, as one of several."
    )(with_lease)


@click.command("controller")
@kube_options
@option(
    "--default-namespace-policy",
    type=click.Choice(["open", "closed"]),
    help=f"What {OPTION_BY_NAME['default-namespace-policy'].help} are; open unless set.",
    expose_value=False,
    callback=keep_setting,
)
@option(
    "--annotation-keys",
    metavar="KEY[,KEY...]",
    help="Annotations that hold a pod's policy; the first that a pod has counts.",
    expose_value=False,
    callback=keep_setting,
)
@option(
    "--auto-host-endpoints",
    type=click.Choice(["true", "false"]),
    help="Make a HostEndpoint for each node, which allows what no policy speaks of; false unless set.",
    expose_value=False,
    callback=keep_setting,
)
@option(
    "--dns-trusted-servers",
    metavar="SERVER[,SERVER...]",
    help="DNS servers whose answers say what addresses the domains of policies have, as in "
    f"10.0.0.2, [fd00::2]:53 or {DEFAULT_SERVERS}, which is trusted unless set.",
    expose_value=False,
    callback=keep_setting,
)
@lease_options
@metrics_port_option(METRICS_PORT)
@webhook_options
@log_options
@datastore_options
def controller_command(
    *,
    metrics_port: int,
    webhook: WebhookChoice,
    lease: LeaseChoice | None,
    log: LogOptions,
    kube: KubeOptions,
    datastore: DatastoreOptions,
) -> None:
    r"""Keep the datastore as Kubernetes wants it, until stopped.

    \b
    Examples:
      calico-k8s controller --kubeconfig --datastore etcd://127.0.0.1:2379
      calico-k8s controller --leader-elect --datastore etcd://10.0.0.1:2379,10.0.0.2:2379
    """
    # Imported here: `--help` does without.
    from calico_k8s.controller.kube import connect, own_namespace
    from calico_k8s.controller.lease import lease_times
    from calico_k8s.controller.process import Controller, LeaseOptions, Options

    lease_found = None
    if lease is not None:
        namespace = lease.namespace or own_namespace() or DEFAULT_LEASE_NAMESPACE
        lease_found = LeaseOptions(namespace, times=lease_times(lease.duration_s))
    options = Options(
        identity=f"{platform.node()}_{uuid.uuid4().hex[:8]}",
        layers=setting_layers(click.get_current_context()),
        lease=lease_found,
        metrics_port=metrics_port,
    )
    with logging_of("controller", log), open_datastore(datastore, Access.READ_WRITE) as store:
        api = connect(kube.kubeconfig, kube.context)
        controller = Controller(api, store, options)

        def stop(_number: int, _frame: FrameType | None) -> None:
            # A thread: what this interrupts may hold the very lock that stopping takes.
            threading.Thread(target=controller.stop).start()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        with door(webhook, api, controller):
            controller.run()
