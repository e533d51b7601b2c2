"""A real etcd in the control plane's namespace, over mutual TLS, for one run.

In: a cluster that is up.  Out: where its nodes reach it, and where this process does; certificates
for both.  It ends with the run, as everything in the run's namespaces.
"""

import os
import shutil
import subprocess
import time
from pathlib import Path

from calico_k8s.datastore.factory import open_store
from calico_k8s.datastore.location import TlsFiles
from calico_k8s.datastore.store import Store
from calico_k8s.errors import StoreUnavailable, UnavailableError
from calico_k8s.lab.certificates import Authority
from calico_k8s.lab.cluster import Cluster
from calico_k8s.lab.forward import Forwarder
from calico_k8s.lab.netns import entered
from calico_k8s.model.addresses import Address

PORT, PEER_PORT = 2379, 2380
START_TIMEOUT_S = 15.0
STOP_TIMEOUT_S = 5.0
_LOOPBACK = Address("127.0.0.1")


class LabEtcd:
    """One member; its log is ``etcd.log`` in the run's directory.

    Raises:
        UnavailableError: not installed, or it does not answer.
    """

    def __init__(self, cluster: Cluster) -> None:
        program = shutil.which("etcd")
        if program is None:
            raise UnavailableError("etcd is not installed: run `apt-get install etcd-server`")
        self._directory = cluster.directory
        authority = Authority(self._directory)
        server = authority.issue("etcd", [cluster.control_address, _LOOPBACK])
        self.tls = authority.issue("lab")
        self.url = f"etcd://{cluster.control_address}:{PORT}"
        """For the nodes."""
        self._process = self._start(program, cluster, server)
        self._forwarder = Forwarder(cluster.control, cluster.control_address, PORT)
        self.local_url = f"etcd://{_LOOPBACK}:{self._forwarder.port}"
        """For this process."""

    def open(self) -> Store:
        """The store, once it answers."""
        store = open_store(self.local_url, self.tls)
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                store.identity()
            except StoreUnavailable as error:
                if self._process.poll() is None and time.monotonic() < deadline_s:
                    time.sleep(0.05)
                    continue
                store.close()
                raise UnavailableError(f"etcd does not answer: {self._last_words()}") from error
            return store

    def close(self) -> None:
        """Ends it; twice is fine."""
        self._forwarder.close()
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _start(self, program: str, cluster: Cluster, server: TlsFiles) -> subprocess.Popen[bytes]:
        client, peer = f"https://{cluster.control_address}:{PORT}", f"http://127.0.0.1:{PEER_PORT}"
        command = [
            *(program, "--name", "lab", "--data-dir", str(self._directory / "etcd")),
            *("--listen-client-urls", client, "--advertise-client-urls", client),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
            *("--initial-cluster", f"lab={peer}", "--unsafe-no-fsync"),
            *("--cert-file", str(server.cert), "--key-file", str(server.key)),
            *("--trusted-ca-file", str(server.ca), "--client-cert-auth"),
        ]
        # Nothing of the user's own ETCD_... settings; arm64 asks for a word before it runs.
        environment = {"PATH": os.environ["PATH"], "ETCD_UNSUPPORTED_ARCH": "arm64"}
        with self._log_path.open("wb") as log, entered(cluster.control):
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
            )

    @property
    def _log_path(self) -> Path:
        return self._directory / "etcd.log"

    def _last_words(self) -> str:
        lines = self._log_path.read_text(encoding="utf-8", errors="replace").splitlines()
        return lines[-1] if lines else "it said nothing"
