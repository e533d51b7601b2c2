"""The controller of a directory of manifests: what the files say, in the datastore, as they change.

In: files and folders, and word that something below them was written.  Out: transactions, a summary
of policies, and a log line for each finding.  Pods count that Kubernetes has placed: those with a
node and an address, as ``kubectl get -o yaml`` gives them; workloads make no pods here.  A file that
cannot be read counts as it last could.
"""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence

import structlog

from calico_k8s.controller.reconcile import Reconciler
from calico_k8s.controller.summary import SummaryKeeper
from calico_k8s.datastore.store import Store
from calico_k8s.errors import StoreError
from calico_k8s.model.keys import Key
from calico_k8s.model.resources import Value
from calico_k8s.sources.documents import Manifest
from calico_k8s.sources.expand import ClusterObjects, expand
from calico_k8s.sources.follow import Followed, Follower, Watch
from calico_k8s.sources.replicas import makes_pods
from calico_k8s.translate.cluster import translate_all
from calico_k8s.translate.findings import Finding, ObjectRef
from calico_k8s.translate.namespaces import TranslateSettings
from calico_k8s.translate.objects import KubeObject, object_ref

RETRY_S = 1.0

log = structlog.get_logger()


class DirectoryController:
    """A thread that keeps a store as some files say."""

    def __init__(self, paths: Sequence[str], settings: TranslateSettings, store: Store) -> None:
        self._paths = tuple(paths)
        self._settings = settings
        self._follower = Follower(paths)
        self._store = store
        self._reconciler = Reconciler(store)
        self._items: Mapping[Key, Value] | None = None
        self._told: frozenset[str] = frozenset()
        self._news = threading.Event()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="directory", daemon=True)

    def start(self) -> None:
        """Write what the files say now, before this returns, and follow them.

        Raises:
            StoreError: the store cannot be written.
        """
        self._watch = Watch(self._paths, self._news.set)
        self.sync()
        self._thread.start()

    def close(self) -> None:
        """Follow no more; what is stored stays."""
        self._is_over.set()
        self._news.set()
        self._watch.close()
        self._thread.join()

    def sync(self) -> None:
        """Read what changed, and write what differs.

        Raises:
            StoreError: some or all of it is not written.
        """
        followed = self._follower.read()
        cluster = expand(manifest for manifest in followed.manifests if _is_placed(manifest))
        wanted, findings = translate_all(_given(cluster), self._settings)
        self._tell(followed, cluster, findings)
        if self._items is None and followed.is_whole:
            self._reconciler.sync(wanted)
        else:
            # What a file held that never could be read is not known: nothing is deleted for it.
            before = self._items or {}
            gone = before.keys() - wanted.keys() if followed.is_whole else set()
            self._reconciler.write(wanted, gone)
        if followed.is_whole:
            self._items = wanted
        self._summarize(cluster, findings)

    def _summarize(self, cluster: ClusterObjects, findings: tuple[Finding, ...]) -> None:
        """Tell ``calico-k8s status`` what has become of policies."""
        found: dict[ObjectRef, list[Finding]] = {object_ref(each): [] for each in cluster.policies}
        for finding in findings:
            if finding.object in found:
                found[finding.object].append(finding)
        summary = SummaryKeeper(self._store, lambda: ())
        for ref, of_object in found.items():
            summary.note(ref, tuple(of_object))
        summary.keep(time.monotonic())

    def _run(self) -> None:
        while not self._is_over.is_set():
            self._news.wait()
            self._news.clear()
            if self._is_over.is_set():
                return
            try:
                self.sync()
            except StoreError as error:
                log.warning("not written, tried again", error=str(error))
                self._items = None
                self._is_over.wait(RETRY_S)
                self._news.set()

    def _tell(
        self, followed: Followed, cluster: ClusterObjects, findings: tuple[Finding, ...]
    ) -> None:
        """Log what is wrong, each thing once while it stands."""
        lines = frozenset(
            (
                *map(str, followed.errors),
                *(f"{found.object}: {found.message}" for found in findings),
                *(f"{p.finding.object}: {p.finding.message}" for p in cluster.findings),
            )
        )
        for line in sorted(lines - self._told):
            log.warning("manifests", problem=line)
        self._told = lines


def _is_placed(manifest: Manifest) -> bool:
    """Whether the object can be taken as it is: no workload, no pod without a place."""
    if makes_pods(manifest.api_version, manifest.kind):
        return False
    if manifest.kind != "Pod":
        return True
    status, spec = manifest.value.get("status"), manifest.value.get("spec")
    has_address = isinstance(status, dict) and (status.get("podIP") or status.get("podIPs"))
    return bool(has_address and isinstance(spec, dict) and spec.get("nodeName"))


def _given(cluster: ClusterObjects) -> Iterator[KubeObject]:
    """The cluster without the nodes that were made up where there were none."""
    for value in cluster.objects():
        if value not in cluster.nodes or object_ref(value) in cluster.written:
            yield value
