"""Felix as a process: store, syncer, status and agent put together, and taken apart at the end."""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from types import FrameType

import msgspec
import structlog

from calico_k8s.config import Config, resolve
from calico_k8s.datastore.store import Store
from calico_k8s.datastore.syncer import Syncer, SyncState
from calico_k8s.datastore.updates import UpdateQueue
from calico_k8s.errors import StoreError
from calico_k8s.felix.agent import Agent, Identity
from calico_k8s.felix.iptables.backend import detect_backend
from calico_k8s.felix.iptables.programs import Backend
from calico_k8s.felix.kernel import AnyBackend, Kernel, Native
from calico_k8s.felix.local_socket import LocalSocket
from calico_k8s.felix.metrics import Metrics
from calico_k8s.felix.status import StatusWriter
from calico_k8s.model import keys
from calico_k8s.model.denial import Denials
from calico_k8s.model.names import NodeName
from calico_k8s.render.marks import Number, mark_layout
from calico_k8s.telemetry import Telemetry, serving

SWITCH_S = 0.0005
"""How long the threads beside the loop may keep it from running, of Python's 5 ms: measured, the
99th percentile from a write to its verdict is 5 ms in place of 8 to 13."""

log = structlog.get_logger()


class _Watch:
    """Tells the agent how the syncer is, and metrics and the log."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self.agent: Agent | None = None

    def on_state(self, state: SyncState) -> None:
        log.info("datastore", state=state.name.lower())
        self._metrics.on_store(state)
        if self.agent is not None:
            self.agent.is_store_away = state is not SyncState.IN_SYNC

    def on_error(self, error: StoreError) -> None:
        log.warning("datastore", error=str(error))
        self._metrics.on_store_error(error)


class _Health:
    """Whether the process works; its methods are called from any thread."""

    def __init__(self, agent: Agent, syncer: Syncer, status: StatusWriter) -> None:
        self._agent = agent
        self._threads: dict[str, Syncer | StatusWriter] = {
            "follows the datastore": syncer,
            "tells status": status,
        }

    def is_live(self) -> str | None:
        """None while the loop comes round and the threads beside it run."""
        quiet_s = time.monotonic() - self._agent.beat_s
        if quiet_s > self._agent.longest_turn_s:
            return f"the loop has not come round for {quiet_s:.0f} s"
        ended = [does for does, thread in self._threads.items() if not thread.is_alive]
        return (
            f"the thread that {ended[0]} has ended: please report its last words" if ended else None
        )

    def is_ready(self) -> str | None:
        """None while the kernel is as the datastore last said, and is kept so."""
        return self.is_live() or self._agent.problem()


@contextmanager
def running_parts(identity: Identity, store: Store, metrics_port: int = 0) -> Iterator[Agent]:
    """An agent with everything around it that runs beside its loop.

    With a port, metrics, health and readiness are served there.

    Raises:
        UnavailableError: the port is taken.
        KernelError: the kernel or a tool lacks something.
        InputError: a setting cannot be used.
    """
    config = resolve(identity.layers).config
    sys.setswitchinterval(SWITCH_S)
    layout = mark_layout(config.mark_mask)
    backend = choose_backend(config)
    metrics = Metrics()
    kernel = Kernel(backend, layout.mark(Number.HELD), config.lock_timeout_s, metrics.on_fault)
    queue, watch, status = UpdateQueue(), _Watch(metrics), StatusWriter(store)
    syncer = Syncer(store, keys.V1, queue, watch)
    try:
        with ExitStack() as ends:
            agent = ends.enter_context(
                closing(Agent(identity, queue, kernel, status.tell, metrics))
            )
            watch.agent = agent
            if identity.denials_path is not None:
                answer = partial(_tell_denials, identity.node, agent)
                local = ends.enter_context(closing(LocalSocket(identity.denials_path, answer)))
                local.start()
            if metrics_port:
                health = _Health(agent, syncer, status)
                telemetry = Telemetry(metrics.registry, health.is_live, health.is_ready)
                ends.enter_context(serving(metrics_port, telemetry))
            status.start()
            syncer.start()
            yield agent
    finally:
        syncer.close()
        status.close()
        queue.close()
        kernel.close()


def _tell_denials(node: NodeName, agent: Agent) -> bytes:
    book = agent.denials
    told = Denials(node, book.records, book.is_told, book.rehearsed, book.staged)
    return msgspec.json.encode(told)


def choose_backend(config: Config) -> AnyBackend:
    """The backend that is set, or the iptables that the node uses already.

    Raises:
        IptablesError: neither iptables is installed.
    """
    match config.iptables_backend:
        case "nftables":
            return Native.NFTABLES
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
