"""Who reaches whom, by real packets: thousands of questions at once, from one thread.

In: a plan's pods and the namespaces they are in.  Out: for each
:class:`~calico_k8s.lab.question.Probe` a verdict that was seen: *allow* by an answer that names the
pod, *deny* by the silence after several packets, asked for again with more patience when the
machine was too busy to be sure.  Streams ask without end.
"""

import itertools
import resource
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Self

from calico_k8s.errors import CalicoError, InputError, KernelError, UnavailableError
from calico_k8s.lab.exchange import Exchange, ask
from calico_k8s.lab.listener import Listener, Speak
from calico_k8s.lab.loop import Loop, LoopStopped
from calico_k8s.lab.netns import Namespace, Traveller
from calico_k8s.lab.plan import LabPlan, LabPod, ListenPort, Place, PodId, is_pod, place_of
from calico_k8s.lab.question import Answer, Outcome, Patience, Probe
from calico_k8s.lab.sources import Sources
from calico_k8s.lab.stream import Stream, StreamKind
from calico_k8s.model.addresses import Address
from calico_k8s.model.resources import PROTOCOL_NAMES, PROTOCOLS_WITH_PORTS, PortRange

QUICK = Patience(sends_s=(0.0, 0.06, 0.15), settle_s=0.3)
PATIENT = Patience(sends_s=(0.0, 0.2, 0.5, 1.0), settle_s=2.0)
BUSY_S = 0.05
"""Answers or timers this late mean a machine too busy for QUICK: what is silent is asked again."""
IN_FLIGHT_MAX, IN_FLIGHT_MIN = 800, 50
STARTS_A_TURN = 24
"""Questions between two looks at the answers; with more, answers wait for questions."""
DESCRIPTORS = 65536
"""Open files that are enough for thousands of listeners."""
DESCRIPTORS_A_QUESTION = 8
"""Three connections, both ends, and some that are still closing."""
DESCRIPTORS_BESIDE = 300
"""The cluster's namespaces, and whatever else this process has open."""
STREAM_OPEN_S = 3.0


class Prober:
    """Listens in every pod and asks from every place; ``namespaces`` is of pods and of nodes.

    Methods are for one thread at a time.  Close it (or leave its context) before the cluster.

    Raises:
        KernelError: a port to listen on is taken.
        UnavailableError: this process may not open enough files.
    """

    def __init__(self, plan: LabPlan, namespaces: Mapping[Place, Namespace]) -> None:
        self._in_flight_max = _in_flight_max(_raise_descriptor_limit(), _listener_count(plan))
        self._listen = plan.listen
        self._namespaces = dict(namespaces)
        self._listeners: dict[Place, Listener] = {}
        self._names: dict[Address, tuple[Place, frozenset[ListenPort]]] = {}
        self._streams: dict[str, Stream] = {}
        self._stopped: list[Stream] = []
        self._tokens = itertools.count()
        self._last_ports: dict[PortRange, int] = {}
        self._traveller = Traveller()
        self._loop = Loop()
        self._sources = Sources(self._traveller, self._namespaces)
        try:
            for pod in plan.pods:
                self._loop.call(partial(self._open, place_of(pod.id), pod.addresses, plan.listen))
            for node in plan.nodes if plan.node_listen else ():
                place = place_of(node.name)
                self._loop.call(partial(self._open, place, node.addresses, plan.node_listen))
        except BaseException:  # Ctrl-C too: nobody else could close it
            self.close()
            raise

    def probe(self, probes: Sequence[Probe]) -> list[Answer]:
        """Asks all, many at a time; the answers in the order of the questions.

        Cost: some 0.3 ms each that is allowed, and a third of a second for all that are denied.

        Raises:
            InputError: from a place that is not in the lab, or to a port that nothing listens on.
            KernelError: somebody else answered than whom was asked: the lab is miswired.
        """
        for probe in probes:
            self._check(probe)
        answers, slowest_s = self._ask_all(probes, QUICK)
        unsure = [n for n, each in enumerate(answers) if each.outcome is Outcome.SILENT]
        if unsure and slowest_s > BUSY_S:
            again, _ = self._ask_all([probes[number] for number in unsure], PATIENT)
            for number, answer in zip(unsure, again, strict=True):
                answers[number] = answer
        for probe, answer in zip(probes, answers, strict=True):
            self._check_answer(probe, answer)
        return answers

    def fresh_port(self, ports: PortRange) -> int:
        """The source port among these that this gave last the longest time ago."""
        last = self._last_ports.get(ports, ports.high)
        self._last_ports[ports] = port = last + 1 if last < ports.high else ports.low
        return port

    def stream(
        self, probe: Probe, kind: StreamKind = StreamKind.NEW, interval_s: float = 0.005
    ) -> Stream:
        """Starts a stream, with one beat an interval; a connection that stays is open then.

        Raises:
            InputError: as :meth:`probe`, or a connection that stays is neither TCP nor UDP.
            KernelError: a connection that stays could not be opened.
        """
        self._check(probe)
        token = str(next(self._tokens))
        stream = Stream(self._sources, self._loop, probe, kind, interval_s)
        self._streams[token] = stream
        try:
            self._loop.call(partial(stream.start, token))
            self._loop.wait(stream.opened, STREAM_OPEN_S)
        except TimeoutError:
            self.stop(stream)
            where = f"{probe.src} to {probe.address} port {probe.port}"
            raise KernelError(f"{where}: no connection in {STREAM_OPEN_S} s") from None
        return stream

    def stop(self, stream: Stream) -> None:
        """Ends a stream; its beats can still be read.  Twice is fine."""
        for token in [token for token, each in self._streams.items() if each is stream]:
            del self._streams[token]
            self._stopped.append(stream)
        self._loop.call(stream.stop)

    def add_pod(self, pod: LabPod, namespace: Namespace) -> None:
        """Listens in one more pod."""
        self._namespaces[place_of(pod.id)] = namespace
        self._loop.call(partial(self._open, place_of(pod.id), pod.addresses, self._listen))

    def listen(self, ports: Iterable[ListenPort]) -> None:
        """Listens on these ports too, in every pod that is there and those to come."""
        new = sorted(set(ports) - set(self._listen))
        if not new:
            return
        self._listen = (*self._listen, *new)
        for place, listener in self._listeners.items():
            if is_pod(place):
                addresses = [at for at, (owner, _) in self._names.items() if owner == place]
                self._loop.call(partial(listener.open, addresses, new))
                for address in addresses:
                    self._names[address] = (place, frozenset(self._listen))

    def remove_pod(self, name: PodId) -> None:
        """Closes every socket in a pod, so that its namespace can go.  Streams from it stop."""
        place = place_of(name)
        for stream in [each for each in self._streams.values() if each.probe.src == place]:
            self.stop(stream)
        self._namespaces.pop(place, None)
        self._names = {at: what for at, what in self._names.items() if what[0] != place}
        listener = self._listeners.pop(place, None)
        if listener is not None:
            self._loop.call(listener.close)
        self._loop.call(self._traveller.leave)

    def close(self) -> None:
        """Ends every stream, listener and the thread.  Twice is fine."""
        with suppress(LoopStopped):  # whoever asked last has been told why
            for stream in list(self._streams.values()):
                self.stop(stream)
            for stream in self._stopped:
                self._loop.call(stream.abandon)
            for listener in self._listeners.values():
                self._loop.call(listener.close)
        self._listeners.clear()
        self._loop.stop()
        self._traveller.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _open(
        self, place: Place, addresses: Iterable[Address], ports: Sequence[ListenPort]
    ) -> None:
        namespace = self._namespaces[place]
        listener = Listener(self._loop, self._traveller, place, namespace, self._on_tick)
        self._listeners[place] = listener
        listener.open(addresses, ports)
        for address in addresses:
            self._names[address] = (place, frozenset(ports))

    def _on_tick(self, token: str, speak: Speak) -> None:
        stream = self._streams.get(token)
        if stream is not None:
            stream.spoken_to(speak)

    def _check(self, probe: Probe) -> None:
        if probe.src not in self._namespaces:
            raise InputError(f"there is no pod or node {probe.src} in the lab")
        known = self._names.get(probe.address)
        if known is None or probe.protocol not in PROTOCOLS_WITH_PORTS:
            return
        if ListenPort(probe.protocol, probe.port) not in known[1]:
            port = f"{probe.port}/{PROTOCOL_NAMES[probe.protocol]}"
            raise InputError(f"nothing listens on port {port} of {known[0]}: add it to the ports")

    def _check_answer(self, probe: Probe, answer: Answer) -> None:
        known = self._names.get(probe.address)
        if known is not None and answer.answered_by not in ("", known[0]):
            raise KernelError(
                f"{known[0]} was asked at {probe.address}, {answer.answered_by} answered"
            )

    def _ask_all(self, probes: Sequence[Probe], patience: Patience) -> tuple[list[Answer], float]:
        batch = _Batch(self._sources, self._loop, probes, patience, self._in_flight_max)
        self._loop.post(batch.start)
        return self._loop.wait(batch.finished)


class _Batch:
    """Questions, so many of them in flight.

    ``finished`` has the answers in order, and the longest wait for one of them or for a timer.
    """

    def __init__(
        self,
        sources: Sources,
        loop: Loop,
        probes: Sequence[Probe],
        patience: Patience,
        in_flight_max: int,
    ) -> None:
        self.finished: Future[tuple[list[Answer], float]] = Future()
        self._sources = sources
        self._loop = loop
        self._probes = probes
        self._patience = patience
        self._in_flight_max = in_flight_max
        self._answers: dict[int, Answer] = {}
        self._asked: dict[int, Exchange] = {}
        self._next = 0
        self._is_filling = False

    def start(self) -> None:
        self._loop.take_lag_s()
        if self._probes:
            self._fill()
        else:
            self.finished.set_result(([], 0.0))

    def _fill(self) -> None:
        """Asks some more, and comes back for others after a look at what has arrived."""
        self._is_filling = False
        try:
            for _ in range(STARTS_A_TURN):
                if self._next == len(self._probes) or len(self._asked) == self._in_flight_max:
                    return
                number, self._next = self._next, self._next + 1
                done = partial(self._done, number)
                self._asked[number] = ask(
                    self._sources, self._loop, self._probes[number], self._patience, done
                )
        except CalicoError as error:
            for exchange in self._asked.values():
                exchange.cancel()
            self.finished.set_exception(error)
            return
        self._fill_soon()

    def _fill_soon(self) -> None:
        if not self._is_filling:
            self._is_filling = True
            self._loop.at(time.monotonic(), self._fill)

    def _done(self, number: int, answer: Answer) -> None:
        if self.finished.done():
            return  # another question could not be asked
        del self._asked[number]
        self._answers[number] = answer
        if len(self._answers) == len(self._probes):
            answers = [self._answers[number] for number in range(len(self._probes))]
            slowest_s = max([self._loop.take_lag_s(), *(each.rtt_s or 0.0 for each in answers)])
            self.finished.set_result((answers, slowest_s))
        elif self._next < len(self._probes):
            self._fill_soon()


def _listener_count(plan: LabPlan) -> int:
    on_pods = sum(len(pod.addresses) for pod in plan.pods) * len(plan.listen)
    return on_pods + sum(len(node.addresses) for node in plan.nodes) * len(plan.node_listen)


def _in_flight_max(limit: int, listeners: int) -> int:
    """How many questions may be under way, of so many files that may be open.

    Raises:
        UnavailableError: too few to be of use.
    """
    room = (limit - listeners - DESCRIPTORS_BESIDE) // DESCRIPTORS_A_QUESTION
    if room < IN_FLIGHT_MIN:
        needed = listeners + DESCRIPTORS_BESIDE + DESCRIPTORS_A_QUESTION * IN_FLIGHT_MIN
        raise UnavailableError(
            f"the lab needs {needed} open files and may have {limit}:"
            f" raise the limit (`ulimit -Hn {needed}`) or listen on fewer ports"
        )
    return min(room, IN_FLIGHT_MAX)


def _raise_descriptor_limit() -> int:
    """Lets this process open as many files as it may, DESCRIPTORS at most; how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= DESCRIPTORS:
        return soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, max(DESCRIPTORS, hard)))
        return DESCRIPTORS
    except ValueError:  # root inside a container that may not
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(DESCRIPTORS, hard), hard))
        return min(DESCRIPTORS, hard)
