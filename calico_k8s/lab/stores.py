"""The datastore of a lab: a file in the run's directory, or an etcd in its control plane.

In: a cluster that is up.  Out: the store, opened, and how others reach it.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Literal, NamedTuple

from calico_k8s.datastore.factory import open_store
from calico_k8s.datastore.location import TlsFiles
from calico_k8s.datastore.store import Store
from calico_k8s.lab.cluster import Cluster

StoreKind = Literal["sqlite", "etcd"]


class LabStore(NamedTuple):
    """A store that is up."""

    store: Store
    url: str
    """For programs in the machine's own namespace."""
    node_url: str
    """For programs on the nodes."""
    tls: TlsFiles | None = None

    def agent_arguments(self) -> list[str]:
        """What an agent on a node is told."""
        return ["--datastore", self.node_url, *tls_arguments(self.tls)]

    def environment(self) -> dict[str, str]:
        """What a command in the machine's own namespace is told."""
        found = {"CALICO_K8S_DATASTORE": self.url}
        if self.tls is not None:
            found |= {
                "CALICO_K8S_ETCD_CA": str(self.tls.ca),
                "CALICO_K8S_ETCD_CERT": str(self.tls.cert),
                "CALICO_K8S_ETCD_KEY": str(self.tls.key),
            }
        return found


@contextmanager
def store_up(cluster: Cluster, kind: StoreKind) -> Iterator[LabStore]:
    """The store, until the context ends.

    Raises:
        UnavailableError: etcd is not installed, or does not answer.
    """
    if kind == "sqlite":
        url = f"sqlite://{cluster.directory / 'state.db'}"
        with closing(open_store(url)) as store:
            yield LabStore(store, url, url)
        return
    # Imported here: cryptography and grpc take a quarter of a second that a file does without.
    from calico_k8s.lab.etcd import LabEtcd

    with closing(LabEtcd(cluster)) as etcd, closing(etcd.open()) as store:
        yield LabStore(store, etcd.local_url, etcd.url, etcd.tls)


def tls_arguments(tls: TlsFiles | None) -> list[str]:
    """The certificates, for any command that takes a datastore."""
    if tls is None:
        return []
    return ["--etcd-ca", str(tls.ca), "--etcd-cert", str(tls.cert), "--etcd-key", str(tls.key)]
