"""What a node's kernel holds otherwise than it should: asked beside the agent, writing nothing.

In: the datastore, the settings of the agent, the network namespace this runs in.  Out: a
:class:`Drift`.  What should be there is computed anew, as an agent would that starts now: an agent
that errs, or is dead, is found out, too.

A change may be on its way while the kernel is read, and what an agent retires goes seconds later.
So what differs is looked at twice, and is a finding only if it differs both times; what differed
the first time alone is told apart: somebody, the agent most likely, has mended it meanwhile.
"""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from time import sleep as wait

import msgspec

from calico_k8s.calc.graph import Graph
from calico_k8s.calc.judge import judge_local
from calico_k8s.config import Config, Layer
from calico_k8s.datastore.store import Revision, Store
from calico_k8s.errors import UnavailableError
from calico_k8s.felix.agent import COLLECT_EVERY_S, JUDGE_AGAIN_S
from calico_k8s.felix.attachments import attachments_of, wanted_places
from calico_k8s.felix.bridge import BridgeDriver
from calico_k8s.felix.conntrack import FlowCutter, choose, judged_flow
from calico_k8s.felix.desired import Desired
from calico_k8s.felix.differences import Difference
from calico_k8s.felix.groupbook import RETIRE_S
from calico_k8s.felix.interfaces import HostState, Interfaces, Wanted, find_interfaces
from calico_k8s.felix.iptables.programs import Backend
from calico_k8s.felix.kernel import AnyBackend, Kernel, Native
from calico_k8s.felix.leftovers import rules_left, tables_left
from calico_k8s.felix.names.journal import load_names
from calico_k8s.felix.settings import Settings
from calico_k8s.model import codec, keys
from calico_k8s.model.names import NodeName
from calico_k8s.model.resources import Ready
from calico_k8s.policy.match import Flow
from calico_k8s.render.marks import Number, mark_layout
from calico_k8s.render.tables import WORKLOAD_LINK_GROUP

SETTLE_S = 2 * JUDGE_AGAIN_S
"""Between two looks: a change is written, and the flows that it touches are judged again."""
SETTLE_SETS_S = RETIRE_S + 2 * COLLECT_EVERY_S + 1.0
"""The same where a set is too many: it is retired, and an agent's next collection takes it, or, where
iptables-nft lets go of it late, the one after."""


class Drift(msgspec.Struct, frozen=True):
    """What was found on one node."""

    node: NodeName
    backend: str
    revision: Revision
    """Of the datastore, at the last look."""
    findings: tuple[Difference, ...]
    mended: tuple[Difference, ...]
    """What differed at the first look alone."""


class DriftFinder:
    """Looks at one node; ``layers`` are the agent's flags and environment.

    ``names_path`` is where the agent keeps what it has learnt of names.

    Raises:
        KernelError: from :meth:`find`, where a tool is missing or the kernel refuses to be read.
        StoreError: the datastore is away, or refuses.
        UnavailableError: nobody has said yet what should be.
    """

    def __init__(
        self,
        node: NodeName,
        layers: tuple[Layer, ...],
        store: Store,
        backend: AnyBackend,
        names_path: Path | None = None,
    ) -> None:
        self._names_path = names_path
        self._node = node
        self._layers = layers
        self._store = store
        self._backend = backend

    def find(self) -> Drift:
        """What differs now.  Cost: a look, and where that finds something, a pause and another."""
        first, revision = self._look()
        second = first
        if first:
            is_retired = any(
                each.kind == "ipset" and "not wanted" in each.problem for each in first
            )
            wait(SETTLE_SETS_S if is_retired else SETTLE_S)
            second, revision = self._look()
        return Drift(
            node=self._node,
            backend=self._backend.value,
            revision=revision,
            findings=tuple(sorted(first & second)),
            mended=tuple(sorted(first - second)),
        )

    def _look(self) -> tuple[frozenset[Difference], Revision]:
        graph, revision = read_graph(self._node, self._store)
        for record in load_names(self._names_path) if self._names_path is not None else ():
            graph.learn(record.name, frozenset(record.until_s), frozenset(record.lapsed))
        graph.flush()
        settings = Settings(self._layers)
        settings.take(graph.settings)
        config = settings.config
        layout = mark_layout(config.mark_mask)
        hold_mark = layout.mark(Number.HELD)
        with closing(Kernel(self._backend, hold_mark, config.lock_timeout_s)) as kernel:
            state = kernel.interfaces.read()
            found = _find(state, wanted_places(graph, config), kernel.bridges)
            left = kernel.left(layout)
            render = settings.render_config(found.pod_nets, learns_names=bool(graph.domains))
            desired = Desired(kernel.fitted(render), kernel.versions, left, now_s=0.0)
            plan = desired.take(graph.state(), attachments_of(found), 0.0, found.node_addresses)
            kernel.applier.take_over(plan)
            kernel.bridges.set_desired(found)
            differences = {*kernel.differences(), *_links_differ(state, found)}
        differences |= {*_flows_differ(graph, config, layout.cut)}
        others = tuple(each for each in Backend if each is not self._backend)
        differences |= {*rules_left(others)}
        if self._backend is not Native.NFTABLES:
            differences |= {*tables_left()}
        return frozenset(each for each in differences if each.kind != "unread"), revision


def read_graph(node: NodeName, store: Store) -> tuple[Graph, Revision]:
    """What the datastore says of a node, settled, and at which revision.

    Raises:
        StoreError: the datastore is away, or refuses.
        UnavailableError: no controller has written a whole state yet.
    """
    snapshot = store.read(keys.V1)
    graph = Graph(node)
    is_ready = False
    for entry in snapshot.entries:
        key = keys.parse_path(entry.key)
        if key is None:
            continue
        value, _ = codec.decode(key, entry.value)
        is_ready |= isinstance(key, keys.ReadyKey) and value == Ready(True)
        graph.update(key, value)
    if not is_ready:
        raise UnavailableError(
            "the datastore is not complete: no controller has written a whole state yet, so nobody"
            " can say what this node's kernel should hold"
        )
    graph.flush()
    return graph, snapshot.revision


def _find(state: HostState, wanted: Wanted, bridges: BridgeDriver) -> Interfaces:
    """Where endpoints are; one that has been silent for long is where its bridge has it bound."""
    found = find_interfaces(state, wanted)
    if not found.unsettled:
        return found
    bridges.resync()
    bound = bridges.bound_ports()
    before = {a: bound[a] for a in found.unsettled if a in bound}
    return find_interfaces(state, wanted, Interfaces(ports_by_address=before))


def _links_differ(state: HostState, found: Interfaces) -> Iterator[Difference]:
    for link in state.links:
        place = f"interface {link.name}"
        if link.name in found.workload and not link.group & WORKLOAD_LINK_GROUP:
            yield Difference("interface", place, "is not marked as leading to workloads")
        elif link.group & WORKLOAD_LINK_GROUP and link.name not in found.workload:
            yield Difference("interface", place, "is marked as leading to workloads, and does not")
        if link.name in found.bridges and not link.is_filtered:
            yield Difference("interface", place, "does not show its bridge's packets to iptables")


def _flows_differ(graph: Graph, config: Config, bit: int) -> Iterator[Difference]:
    def is_denied(flow: Flow) -> bool:
        return (
            config.cut_connections
            and not judge_local(graph, flow, config.pod_to_host_action, is_live=True).is_allowed
        )

    with closing(FlowCutter(bit)) as cutter:
        choice = choose(cutter.all_flows(), is_denied, bit)
    for entries, what in (
        (choice.cut, "is denied and not cut"),
        (choice.restored, "is cut and not denied"),
    ):
        for flow in map(judged_flow, entries):
            ends = f"{flow.src}:{flow.src_port} to {flow.dst}:{flow.dst_port}"
            yield Difference("flow", f"flow {ends}, protocol {flow.protocol}", what)
