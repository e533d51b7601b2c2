"""``controller``: from a Kubernetes API to the datastore."""

import platform
import signal
import threading
import uuid
from types import FrameType

import click

from calico_k8s.cli.kube import KubeOptions, kube_options
from calico_k8s.cli.logging import set_up_logging
from calico_k8s.cli.node import keep_setting, setting_layers
from calico_k8s.cli.options import DatastoreOptions, datastore_options, open_datastore, option
from calico_k8s.config import OPTION_BY_NAME
from calico_k8s.datastore.location import Access

METRICS_PORT = 9094
DEFAULT_LEASE_NAMESPACE = "kube-system"


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
@option("--leader-elect", is_flag=True, help="Write only while holding a Lease, as one of several.")
@option(
    "--lease-namespace",
    metavar="NAME",
    help=f"Where the Lease is: the pod's own namespace, or {DEFAULT_LEASE_NAMESPACE}.",
)
@option(
    "--metrics-port",
    type=click.IntRange(0, 65535),
    default=METRICS_PORT,
    show_default=True,
    help="For /metrics, /healthz and /readyz; 0 for none.",
)
@option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="What is worth a line.",
)
@datastore_options
def controller_command(
    *,
    leader_elect: bool,
    lease_namespace: str | None,
    metrics_port: int,
    log_level: str,
    kube: KubeOptions,
    datastore: DatastoreOptions,
) -> None:
    r"""Keep the datastore as Kubernetes wants it, until stopped.

    \b
    Examples:
      calico-k8s controller --kubeconfig --datastore etcd://127.0.0.1:2379
      calico-k8s controller --leader-elect --datastore etcd://10.0.0.1:2379,10.0.0.2:2379
    """
    set_up_logging(log_level)
    # Imported here: `--help` does without.
    from calico_k8s.controller.kube import connect, own_namespace
    from calico_k8s.controller.process import Controller, LeaseOptions, Options

    namespace = lease_namespace or own_namespace() or DEFAULT_LEASE_NAMESPACE
    options = Options(
        identity=f"{platform.node()}_{uuid.uuid4().hex[:8]}",
        layers=setting_layers(click.get_current_context()),
        lease=LeaseOptions(namespace) if leader_elect else None,
        metrics_port=metrics_port,
    )
    api = connect(kube.kubeconfig, kube.context)
    with open_datastore(datastore, Access.READ_WRITE) as store:
        controller = Controller(api, store, options)

        def stop(_number: int, _frame: FrameType | None) -> None:
            # A thread: what this interrupts may hold the very lock that stopping takes.
            threading.Thread(target=controller.stop).start()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        controller.run()
