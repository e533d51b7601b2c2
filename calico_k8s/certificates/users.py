"""Keeps etcd's users as the cluster's nodes are, and has etcd ask everybody who they are.

In: the nodes, and etcd by its root's certificate.  Out: users and roles in etcd, and word on whose
certificate is of use.  Nothing here needs Kubernetes, and nobody who serves Kubernetes waits for
etcd: a thread of its own does.
"""

import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping

import structlog

from calico_k8s.certificates.names import CONTROLLER, NODES, node_user
from calico_k8s.datastore.etcd.rights import EtcdRights, Grant, RightsState
from calico_k8s.datastore.etcd.store import READER, READER_KEY
from calico_k8s.errors import StoreError
from calico_k8s.model import keys
from calico_k8s.model.names import NodeName

READER_RENEWED_S = 24 * 3600.0
"""A node that left the cluster knows the reader's password for so long at most."""
CHECK_S = 5.0
"""How soon an etcd that was set up anew, and asks nobody, is told to ask: one call each time."""
LOOK_S = 60.0
"""How often users and roles are listed while etcd says that they are as they were: one that was set
back to a backup may count other changes by the same numbers."""

log = structlog.get_logger()


class UserKeeper:
    """A thread; the other methods are for any.  ``on_change`` is told from it."""

    def __init__(self, rights: EtcdRights, on_change: Callable[[], None]) -> None:
        self._rights = rights
        self._on_change = on_change
        self._news = threading.Condition()
        self._nodes: frozenset[NodeName] | None = None
        self._is_over = False
        self._ready: frozenset[str] = frozenset()
        self._problem: str | None = "etcd's users are not known yet"
        self._reader_until_s = self._look_at_s = 0.0
        self._seen: tuple[frozenset[NodeName], RightsState] | None = None
        """What there was when everything was last looked at; None: it is not as it should be."""
        self._thread = threading.Thread(target=self._run, name="users", daemon=True)

    @property
    def problem(self) -> str | None:
        """Why etcd may not have the users it should have, or may not ask for them."""
        return self._problem

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs: it ends by ``close``, or by a mistake of ours."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def set_nodes(self, nodes: Collection[NodeName]) -> None:
        """Every node there is: the users of the others go."""
        with self._news:
            self._nodes = frozenset(nodes)
            self._news.notify()

    def is_known(self, user: str) -> bool:
        """Whether etcd asks who somebody is, and knows this user."""
        return user in self._ready

    def close(self) -> None:
        """Ends; what etcd holds stays."""
        with self._news:
            self._is_over = True
            self._news.notify()
        self._rights.close()  # first: a member that does not answer is waited for no longer
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        done: frozenset[NodeName] | None = None
        while True:
            with self._news:
                self._news.wait_for(lambda: self._is_over or self._nodes != done, CHECK_S)  # noqa: B023 - called at once
                if self._is_over:
                    return
                nodes = self._nodes
            if nodes is not None:
                done = nodes
                self._keep(nodes)

    def _keep(self, nodes: frozenset[NodeName]) -> None:
        wanted = users_of(nodes)
        before = self._ready
        try:
            state = self._rights.state()
            # Of before the look: what anybody changes during it, we included, is looked at again.
            seen = (nodes, state) if state.is_enforced and state.revision else None
            if seen is None or seen != self._seen or time.monotonic() >= self._look_at_s:
                self._seen = None
                self._bring(wanted, state)
                self._seen, self._look_at_s = seen, time.monotonic() + LOOK_S
            self._ready, self._problem = frozenset((*wanted, READER)), None
        except StoreError as error:
            if str(error) != self._problem and not self._is_over:
                log.warning("etcd's users are not as they should be", error=str(error))
            self._problem = str(error)
        if self._ready != before:
            self._on_change()

    def _bring(self, wanted: Mapping[str, tuple[Grant, ...]], state: RightsState) -> None:
        """Looks at every user and role, and makes them as wanted."""
        there = self._rights.bring_to(wanted, is_ours)
        now_s = time.monotonic()
        if now_s > self._reader_until_s or READER not in there:
            self._rights.renew_reader((Grant(keys.V1),))
            self._reader_until_s = now_s + READER_RENEWED_S
        if not state.is_enforced:
            self._ready = frozenset()
            self._rights.enforce()
            log.info("etcd asks for certificates' users from now on", users=len(wanted))


def is_ours(user: str) -> bool:
    """Whether users and roles of that name are made and removed here."""
    return user == CONTROLLER or user.startswith(NODES)


def users_of(nodes: Iterable[NodeName]) -> dict[str, tuple[Grant, ...]]:
    """Every user but root, with what it may do."""
    users: dict[str, tuple[Grant, ...]] = {
        CONTROLLER: (
            *(Grant(prefix, can_write=True) for prefix in (keys.V1, keys.TOLD)),
            Grant(keys.STATUS),
        )
    }
    for node in nodes:
        own = Grant(f"{keys.STATUS}host/{node}/", can_write=True)
        users[node_user(node)] = (Grant(keys.V1), Grant(READER_KEY), own)
    return users
