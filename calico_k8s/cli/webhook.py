"""The controller's webhook: its options, and its place beside the controller."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
import msgspec

from calico_k8s.cli.options import option

if TYPE_CHECKING:
    from calico_k8s.controller.kube import KubeApi
    from calico_k8s.controller.process import Controller

DEFAULT_NAMESPACE = "kube-system"
"""Of its Secret, where no pod's own namespace says another."""


class WebhookChoice(msgspec.Struct, frozen=True):
    """Where the API server asks; port 0: nowhere."""

    port: int
    names: tuple[str, ...]
    """Beside the Service's."""


def webhook_options(command: Callable[..., None]) -> Callable[..., None]:
    """``--webhook-port`` and what goes with it, as the parameter ``webhook``."""

    @functools.wraps(command)
    def with_webhook(  # Any: the command's other parameters
        *, webhook_port: int, webhook_names: str, **others: Any
    ) -> None:
        names = tuple(name.strip() for name in webhook_names.split(",") if name.strip())
        command(webhook=WebhookChoice(webhook_port, names), **others)

    with_webhook = option(
        "--webhook-names",
        metavar="NAME[,NAME...]",
        default="",
        help="Names and addresses by which it asks beside the Service, for a clientConfig.url.",
    )(with_webhook)
    return option(
        "--webhook-port",
        type=click.IntRange(0, 65535),
        default=0,
        show_default=True,
        help="Where the API server asks about objects, by manifests/webhook; 0: nowhere.",
    )(with_webhook)


@contextmanager
def door(choice: WebhookChoice, api: "KubeApi", controller: "Controller") -> Iterator[None]:
    """Answers the API server beside the controller, where a port is given.

    Raises: UnavailableError where the port is taken.
    """
    if not choice.port:
        yield
        return
    from calico_k8s.admission.keeper import Place
    from calico_k8s.admission.service import webhook
    from calico_k8s.controller.kube import own_namespace

    place = Place(own_namespace() or DEFAULT_NAMESPACE, choice.names)
    with webhook(choice.port, api, place, controller):
        yield
