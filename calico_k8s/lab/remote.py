"""How other programs on this machine find a running lab, and what they can ask of it.

In: the run's directory.  Out: ``lab.json``, which says where its pods and nodes are, and a socket
that takes one request a connection, a line of JSON, and answers with one.
"""

import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec

from calico_k8s.errors import CalicoError, InputError, UnavailableError
from calico_k8s.lab.agents import denials_path
from calico_k8s.lab.cluster import RUN_DIRECTORY, Cluster
from calico_k8s.lab.netns import RunId, is_alive

ANSWER_TIMEOUT_S = 60.0
_LINE_MAX = 65536
_STATE, _SOCKET = "lab.json", "lab.socket"


class Spot(msgspec.Struct, frozen=True):
    """Where a pod or node is: what ``ip netns exec`` takes, and the lock of its iptables."""

    namespace: str
    xtables_lockfile: str = ""


class LabState(msgspec.Struct, frozen=True):
    """What a running lab says of itself."""

    run: str
    datastore: str
    spots: dict[str, Spot]
    denials: dict[str, str] = {}
    """By node, where its agent is asked for its denials."""


class Request(msgspec.Struct, frozen=True):
    """What can be asked of a running lab."""

    do: Literal["kill", "start"]
    node: str


class Response(msgspec.Struct, frozen=True):
    """``error`` is empty where it was done."""

    error: str = ""


class Asked:
    """A request that waits for its answer."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.answer: Future[Response] = Future()


class RemoteControl:
    """The lab's end: ``on_request`` is called from a thread of its own, and someone answers."""

    def __init__(self, directory: Path, on_request: Callable[[Asked], None]) -> None:
        self._directory = directory
        self._on_request = on_request
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(directory / _SOCKET))
        self._socket.listen()
        self._thread = threading.Thread(target=self._run, name="lab-remote", daemon=True)
        self._thread.start()

    def describe(self, cluster: Cluster, datastore: str) -> None:
        """Says where everything is now."""
        nodes = {
            str(name): Spot(site.namespace.name, str(site.xtables_lockfile))
            for name, site in cluster.nodes.items()
        }
        pods = {str(name): Spot(site.namespace.name) for name, site in cluster.pods.items()}
        sockets = {str(name): str(denials_path(self._directory, name)) for name in cluster.nodes}
        state = LabState(self._directory.name, datastore, nodes | pods, sockets)
        new = self._directory / f".{_STATE}"
        new.write_bytes(msgspec.json.encode(state))
        new.replace(self._directory / _STATE)

    def close(self) -> None:
        """Takes no more requests."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection, suppress(OSError):
                connection.settimeout(ANSWER_TIMEOUT_S)
                connection.sendall(msgspec.json.encode(self._answer(_read_line(connection))))

    def _answer(self, line: bytes) -> Response:
        try:
            asked = Asked(msgspec.json.decode(line, type=Request))
        except msgspec.DecodeError as error:
            return Response(f"not understood: {error}")
        self._on_request(asked)
        try:
            return asked.answer.result(ANSWER_TIMEOUT_S)
        except TimeoutError:
            return Response("the lab is busy")


def find_lab(run: str | None = None) -> LabState:
    """The lab of that name, or the only one that runs.

    Raises:
        UnavailableError: none runs, or not that one.
        InputError: several run and none is named.
    """
    found = {state.run: state for state in _running()}
    if run is not None:
        if run not in found:
            raise UnavailableError(f"no lab '{run}' runs here: {_listed(found)}")
        return found[run]
    if not found:
        raise UnavailableError("no lab runs here: start one with `calico-k8s lab run SOURCE`")
    if len(found) > 1:
        raise InputError(f"several labs run here, choose one with --run: {_listed(found)}")
    return next(iter(found.values()))


def find_spot(state: LabState, name: str) -> Spot:
    """Where a pod or a node of a lab is.

    Raises:
        InputError: it has none of that name.
    """
    spot = state.spots.get(name)
    if spot is None:
        raise InputError(f"the lab has no pod or node '{name}'; it has {', '.join(state.spots)}")
    return spot


def ask_lab(state: LabState, request: Request) -> None:
    """Has a running lab do something, and returns when it is done.

    Raises:
        UnavailableError: it does not answer.
        CalicoError: it could not do it.
    """
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(ANSWER_TIMEOUT_S)
        try:
            asking.connect(str(RUN_DIRECTORY / state.run / _SOCKET))
            asking.sendall(msgspec.json.encode(request) + b"\n")
            answer = msgspec.json.decode(_read_line(asking), type=Response)
        except (OSError, msgspec.DecodeError) as error:
            raise UnavailableError(f"lab '{state.run}' does not answer: {error}") from error
    if answer.error:
        raise CalicoError(answer.error)


def _running() -> Iterable[LabState]:
    for file in sorted(RUN_DIRECTORY.glob(f"*/{_STATE}")):
        with suppress(OSError, msgspec.DecodeError):
            if is_alive(RunId(file.parent.name)):
                yield msgspec.json.decode(file.read_bytes(), type=LabState)


def _listed(found: Mapping[str, LabState]) -> str:
    return ", ".join(found) or "there is none"


def _read_line(connection: socket.socket) -> bytes:
    """Up to a line end, or the end of what is sent."""
    data = b""
    while not data.endswith(b"\n") and len(data) < _LINE_MAX:
        part = connection.recv(4096)
        if not part:
            break
        data += part
    return data
