"""The webhook beside a controller: server and keeper put together, and taken apart at the end."""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import structlog

from calico_k8s.admission.keeper import Keeper, Place
from calico_k8s.admission.server import WebhookServer, serving
from calico_k8s.controller.kube import KubeApi
from calico_k8s.controller.process import Controller
from calico_k8s.errors import StoreError
from calico_k8s.translate.namespaces import TranslateSettings

SETTINGS_EVERY_S = 30.0

log = structlog.get_logger()


class _Settings:
    """The controller's settings, read now and then; the last known where the store is away."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._known = controller.own_settings()
        self._read_s = float("-inf")

    def __call__(self) -> TranslateSettings:
        now_s = time.monotonic()
        if now_s >= self._read_s + SETTINGS_EVERY_S:
            self._read_s = now_s
            try:
                self._known = self._controller.settings()
            except StoreError as error:
                log.debug("settings not read", error=str(error))
        return self._known


@contextmanager
def webhook(port: int, api: KubeApi, place: Place, controller: Controller) -> Iterator[None]:
    """Serves until the block ends.

    Raises: UnavailableError where the port is taken.
    """
    server = WebhookServer(port, _Settings(controller), controller.metrics)
    keeper = Keeper(api, place, server, controller, controller.metrics)
    with serving(server), closing(keeper):
        keeper.start()
        controller.beside = lambda: keeper.problem
        yield
