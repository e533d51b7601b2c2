"""Which Kubernetes API a command speaks to, as options that several commands share."""

import functools
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import click
import msgspec

from calico_k8s.cli.options import option

if TYPE_CHECKING:
    from calico_k8s.controller.kube import KubeApi


KUBECTL_PLUGIN = "kubectl calico_k8s"
"""The program's name where kubectl calls it."""


class KubeOptions(msgspec.Struct, frozen=True):
    """What the command line says of an API server."""

    kubeconfig: str | None = None
    """None: not said; empty: kubectl's choice."""
    context: str | None = None

    @property
    def is_given(self) -> bool:
        """Whether an API server is meant at all."""
        return self.kubeconfig is not None or self.context is not None

    @property
    def name(self) -> str:
        """As the user would call it."""
        return " ".join(part for part in ("--kubeconfig", self.kubeconfig, self.context) if part)


def kubectls_cluster() -> KubeOptions:
    """The cluster that kubectl speaks to, where it called us and nobody says another; else none."""
    called_as = click.get_current_context().find_root().info_name
    return KubeOptions(kubeconfig="") if called_as == KUBECTL_PLUGIN else KubeOptions()


def kube_options(command: Callable[..., None]) -> Callable[..., None]:
    """``--kubeconfig [PATH]`` and ``--context``, as the parameter ``kube``."""

    @functools.wraps(command)
    def with_kube(*, kubeconfig: str | None, context: str | None, **others: Any) -> None:
        command(kube=KubeOptions(kubeconfig, context), **others)

    with_kube = option("--context", metavar="NAME", help="Which context of the kubeconfig.")(
        with_kube
    )
    return option(
        "--kubeconfig",
        metavar="[PATH]",
        is_flag=False,
        flag_value="",
        help="A live cluster: PATH, or what kubectl would take.",
    )(with_kube)


@contextmanager
def open_kube(options: KubeOptions) -> Iterator["KubeApi"]:
    """The API server that the options name, closed at the end.

    Raises:
        InputError: they name none.
    """
    # Imported here: the package takes 0.4 s, which commands without a live cluster do without.
    from calico_k8s.controller.kube import connect

    with closing(connect(options.kubeconfig, options.context)) as api:
        yield api
