"""Which Kubernetes API a command speaks to, as options that several commands share."""

import functools
from collections.abc import Callable
from typing import Any

import msgspec

from calico_k8s.cli.options import option


class KubeOptions(msgspec.Struct, frozen=True):
    """What the command line says of an API server."""

    kubeconfig: str | None = None
    """None: not said; empty: kubectl's choice."""
    context: str | None = None

    @property
    def is_given(self) -> bool:
        """Whether an API server is meant at all."""
        return self.kubeconfig is not None or self.context is not None


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
