"""Felix as a process: store, syncer, status and agent put together, and taken apart at the end."""

import signal
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from types import FrameType

import structlog

from calico_k8s.config import Config, resolve
from calico_k8s.datastore.store import Store
from calico_k8s.datastore.syncer import Syncer, SyncState
from calico_k8s.datastore.updates import UpdateQueue
from calico_k8s.errors import InputError, StoreError
from calico_k8s.felix.agent import Agent, Identity
from calico_k8s.felix.iptables.backend import detect_backend
from calico_k8s.felix.iptables.programs import Backend
from calico_k8s.felix.kernel import Kernel
from calico_k8s.felix.status import StatusWriter
from calico_k8s.model import keys
from calico_k8s.render.marks import Number, mark_layout

SWITCH_S = 0.0005
"""How long the threads beside the loop may keep it from running, of Python's 5 ms: measured, the
99th percentile from a write to its verdict is 5 ms in place of 8 to 13."""

log = structlog.get_logger()


class _Watch:
    """Tells the agent how the syncer is, and the log."""

    def __init__(self) -> None:
        self.agent: Agent | None = None

    def on_state(self, state: SyncState) -> None:
        log.info("datastore", state=state.name.lower())
        if self.agent is not None:
            self.agent.is_store_away = state is not SyncState.IN_SYNC

    def on_error(self, error: StoreError) -> None:
        log.warning("datastore", error=str(error))


@contextmanager
def running_parts(identity: Identity, store: Store) -> Iterator[Agent]:
    """An agent with everything around it that runs beside its loop.

    Raises:
        KernelError: the kernel or a tool lacks something.
        InputError: a setting cannot be used.
    """
    config = resolve(identity.layers).config
    sys.setswitchinterval(SWITCH_S)
    layout = mark_layout(config.mark_mask)
    backend = choose_backend(config)
    kernel = Kernel(backend, layout.mark(Number.HELD), config.lock_timeout_s)
    queue, watch, status = UpdateQueue(), _Watch(), StatusWriter(store)
    syncer = Syncer(store, keys.V1, queue, watch)
    try:
        with closing(Agent(identity, queue, kernel, status.tell)) as agent:
            watch.agent = agent
            status.start()
            syncer.start()
            yield agent
    finally:
        syncer.close()
        status.close()
        queue.close()
        kernel.close()


def choose_backend(config: Config) -> Backend:
    """The backend that is set, or the one that the node uses already.

    Raises:
        InputError: the native one, which is not there yet.
        IptablesError: neither iptables is installed.
    """
    match config.iptables_backend:
        case "nftables":
            raise InputError(
                "iptables-backend 'nftables' is not built yet: give auto, legacy or nft"
            )
        case "auto":
            found = detect_backend()
            log.info("iptables backend chosen", found=str(found))
            return found.backend
        case "legacy":
            return Backend.LEGACY
        case "nft":
            return Backend.NFT


def run_until_signalled(agent: Agent) -> None:
    """Run the agent until SIGTERM or SIGINT; what it put into the kernel stays."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        agent.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        agent.run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
