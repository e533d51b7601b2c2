"""Follows all objects of one kind for as long as it takes: a list in pages, then a watch.

In come pages and events, out go changes, in order: what is there, what is gone, and when
everything there is has been handed on.  Nothing is decided here, and nothing is ever written.

::

            whole list handed on
    LISTING ────────────────────► WATCHING ──┐ changes handed on
      ▲ ▲                           │   ▲ ◄──┘
      │ └───────────────────────────┘   │ after a pause, from the last revision seen
      │  410: the revision is gone   ▼  │
      ├──────────────────────────── WAITING: the server cannot be reached, or refuses
      └── asked again ───────────── ABSENT: the cluster has not got the kind, which is as an empty list

A list after the first is compared with what was handed on: what is missing from it is gone, so no
event that was missed is missed for good.  Pauses grow while nothing lasts, also where the server
answers each watch with 410.
"""

import enum
import random
import threading
import time
from collections.abc import Sequence
from typing import Protocol

from calico_k8s.controller.kube import KubeApi, Stream
from calico_k8s.controller.listing import list_pages
from calico_k8s.controller.wire import DEFINED, PATHS, Change, KindDecoder
from calico_k8s.errors import KubeError, KubeExpired, KubeNotFound, KubeUnavailable
from calico_k8s.translate.findings import ObjectRef
from calico_k8s.translate.objects import Decoded

WATCH_S = (60, 90)
"""How long a watch is asked for, a random time between: the bound on how long a server that has
stopped without closing anything goes unnoticed."""
NEW_WATCH_S = (5, 10)
NEW_S = 60.0
"""For so long a kind that has just come is followed by short watches.  Once in some twenty rounds of
definitions one was noticed only after 90 s, as if its watch had said nothing until its end; why is
not known, so what is known is how long it can last."""
_PATIENCE_S = 10.0
"""Silence past a watch's own end."""
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 5.0
CLOSE_S = 0.5
LASTING_S = 10.0
"""A watch that lived so long has worked: the pause before the next try is short again."""
ABSENT_S = (5.0, 10.0)
"""How soon a kind that the cluster has not got is asked for again, a random time between."""
BELIEVED_S = 2.0
"""So long a kind that has objects must be denied before they count as gone: of several API servers
one may learn of a definition later than the others."""


class ReflectorState(enum.Enum):
    """How what was handed on compares with Kubernetes."""

    LISTING = enum.auto()
    WATCHING = enum.auto()
    """Changes are handed on as they happen."""
    WAITING = enum.auto()
    """The server did not do what was asked; it is asked again after a pause."""
    ABSENT = enum.auto()
    """The cluster has not got the kind; whether it has is asked now and then."""


class Sink(Protocol):
    """Who takes the changes; called from the reflector's thread only."""

    def on_changes(self, changes: Sequence[Change]) -> None:
        """Changes in their order."""

    def on_listed(self, kind: str) -> None:
        """What was handed on is everything there is."""


class Observer(Protocol):
    """Who is told how it goes; called from the reflector's thread only."""

    def on_list(self, kind: str, objects: int, duration_s: float) -> None:
        """A list has been handed on."""

    def on_absent(self, kind: str) -> None:
        """The cluster has not got the kind, since a moment ago."""

    def on_event(self, kind: str) -> None:
        """A watch said something."""

    def on_error(self, kind: str, error: KubeError) -> None:
        """Something was not done, and will be tried again."""


class Pause:
    """How long to wait before the next try: longer each time, never twice alike."""

    def __init__(self, first_s: float = FIRST_PAUSE_S, longest_s: float = LONGEST_PAUSE_S) -> None:
        self._first_s, self._longest_s = first_s, longest_s
        self._bound_s = first_s

    def next_s(self) -> float:
        """A time below a bound that doubles."""
        pause_s = random.uniform(self._bound_s / 2, self._bound_s)
        self._bound_s = min(2 * self._bound_s, self._longest_s)
        return pause_s

    def reset(self) -> None:
        """Something has worked."""
        self._bound_s = self._first_s


class Reflector:
    """Follows one kind in a thread of its own."""

    def __init__(self, api: KubeApi, kind: str, sink: Sink, observer: Observer) -> None:
        self._api = api
        self._kind = kind
        self._sink = sink
        self._observer = observer
        self._decoder = KindDecoder(kind)
        self._known: set[ObjectRef] = set()
        self._revision = ""  # empty: a list is needed
        self._last_line = b""
        """Of the watch that goes on; empty: it has said nothing yet."""
        self._pause = Pause()
        self._denied_at_s: float | None = None
        """Since when the server has said nothing but that there is no such kind."""
        self._came_at_s = -NEW_S
        """When the cluster was seen to have the kind that it had not got before."""
        self._stopping = threading.Event()
        self._is_list_wanted = threading.Event()
        self._lock = threading.Lock()
        self._stream: Stream | None = None
        self.state = ReflectorState.LISTING
        self._thread = threading.Thread(target=self._run, name=f"reflector-{kind}", daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether its thread runs: it ends by ``close``, or by a mistake of ours."""
        return self._thread.is_alive()

    def list_again(self) -> None:
        """Has everything listed once more, soon; from any thread."""
        self._is_list_wanted.set()
        self._end_stream()

    def stop(self) -> None:
        """Tells it to end."""
        self._stopping.set()
        self._end_stream()

    def close(self) -> None:
        """Ends; a server that is silent in the middle of a request is not waited for."""
        self.stop()
        self._thread.join(timeout=CLOSE_S)

    def _end_stream(self) -> None:
        with self._lock:
            if self._stream is not None:
                self._stream.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                if not self._revision or self._is_list_wanted.is_set():
                    self._list()
                self._watch()
            except KubeExpired as error:
                self._revision = ""
                self._fail(error)
            except KubeNotFound as error:
                self._revision = ""
                self._miss(error)
            except KubeError as error:
                self._fail(error)

    def _miss(self, error: KubeNotFound) -> None:
        """The server says that there is no such kind: as an empty list, if that can be."""
        now_s = time.monotonic()
        self._denied_at_s = now_s if self._denied_at_s is None else self._denied_at_s
        is_doubtful = bool(self._known) and now_s < self._denied_at_s + BELIEVED_S
        if self._kind not in DEFINED or is_doubtful:
            self._fail(error)
            return
        if self.state is not ReflectorState.ABSENT:
            self._hand_on_absence()
        self._is_list_wanted.clear()
        self._stopping.wait(random.uniform(*ABSENT_S))

    def _hand_on_absence(self) -> None:
        self._sink.on_changes(sorted(self._known))
        self._known = set()
        self._sink.on_listed(self._kind)
        self._observer.on_absent(self._kind)
        self.state = ReflectorState.ABSENT

    def _fail(self, error: KubeError) -> None:
        if self._stopping.is_set():
            return
        self.state = ReflectorState.WAITING
        self._observer.on_error(self._kind, error)
        self._stopping.wait(self._pause.next_s())

    def _list(self) -> None:
        if self.state is not ReflectorState.ABSENT:
            self.state = ReflectorState.LISTING
        self._is_list_wanted.clear()
        self._revision = ""
        started_s = time.monotonic()
        found: set[ObjectRef] = set()
        for page in list_pages(self._api, self._decoder):
            if self._stopping.is_set():
                return
            found.update(decoded.ref for decoded in page.objects)
            self._known |= found  # also where the rest never comes: the next list may lack them
            self._sink.on_changes(page.objects)
            self._revision = page.revision if not page.rest else ""
        if self._denied_at_s is not None:
            self._came_at_s = time.monotonic()
        self._denied_at_s = None
        self._sink.on_changes(sorted(self._known - found))
        self._known = found
        self._sink.on_listed(self._kind)
        self._observer.on_list(self._kind, len(found), time.monotonic() - started_s)

    def _watch(self) -> None:
        started_s = time.monotonic()
        is_new = started_s < self._came_at_s + NEW_S
        duration_s = random.randint(*(NEW_WATCH_S if is_new else WATCH_S))
        stream = self._api.follow(
            PATHS[self._kind],
            {
                "watch": "true",
                "allowWatchBookmarks": "true",
                "resourceVersion": self._revision,
                "timeoutSeconds": duration_s,
            },
            duration_s + _PATIENCE_S,
        )
        with self._lock:
            self._stream = stream
        self.state = ReflectorState.WATCHING
        try:
            if self._is_interrupted():  # before the stream could be ended
                return
            for line in stream:
                if self._is_interrupted():
                    return
                self._take(line)
        finally:
            stream.close()
            with self._lock:
                self._stream = None
            if self._last_line:
                self._revision = self._decoder.revision(self._last_line)
                self._last_line = b""
            lasted_s = time.monotonic() - started_s
            if lasted_s >= LASTING_S:
                self._pause.reset()
        if lasted_s < 1 and not self._is_interrupted():
            raise KubeUnavailable(f"the watch of {self._kind} ended after {lasted_s:.1f} s")

    def _is_interrupted(self) -> bool:
        return self._stopping.is_set() or self._is_list_wanted.is_set()

    def _take(self, line: bytes) -> None:
        change = self._decoder.event(line)
        self._last_line = line
        self._observer.on_event(self._kind)
        match change:
            case None:
                return
            case Decoded():
                self._known.add(change.ref)
            case _:
                self._known.discard(change)
        self._sink.on_changes((change,))
