"""Real etcd clusters, with the faults that a cluster meets, on loopback unless told otherwise.

In comes a version and a number of members, out goes a running cluster, whose members can be
killed, stopped without a word, started again and set back to a backup.  They end with the block
that started them, and with this process however it ends.
"""

import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

from calico_k8s.datastore.location import TlsFiles
from calico_k8s.lab.netns import Namespace, entered
from tests.etcd.binaries import EtcdVersion, etcd_binary
from tests.etcd.certificates import LOOPBACK, Authority

START_TIMEOUT_S = 60.0


class Host(NamedTuple):
    """Where servers run, and the address at which they listen there."""

    address: str = LOOPBACK
    namespace: Namespace | None = None
    """None: where this process runs."""

    def inside(self) -> AbstractContextManager[None]:
        """Programs and connections of this thread start there."""
        return entered(self.namespace) if self.namespace is not None else nullcontext()


HERE = Host()


class EtcdMember:
    """One server; its ports and its data stay the same while it comes and goes."""

    def __init__(
        self, program: Path, folder: Path, name: str, tls: TlsFiles | None, host: Host = HERE
    ) -> None:
        self.name = name
        self.host = host
        self._program = program
        self._folder = folder
        self._tls = tls
        self.port, self._peer_port = free_ports(2, host)
        self._process: subprocess.Popen[bytes] | None = None
        self._arguments: list[str] = []

    @property
    def pid(self) -> int:
        """Of the process that runs."""
        assert self._process is not None
        return self._process.pid

    @property
    def endpoint(self) -> str:
        """Where clients reach it."""
        return f"{self.host.address}:{self.port}"

    @property
    def peer_url(self) -> str:
        """Where the other members reach it."""
        return f"http://{self.host.address}:{self._peer_port}"

    @property
    def _client_url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self.endpoint}"

    def form(self, members: Sequence["EtcdMember"], extra: Sequence[str]) -> None:
        """Says which cluster it belongs to."""
        peers = ",".join(f"{member.name}={member.peer_url}" for member in members)
        self._arguments = [
            *("--name", self.name, "--data-dir", str(self._folder)),
            *("--listen-client-urls", self._client_url),
            *("--advertise-client-urls", self._client_url),
            *("--listen-peer-urls", self.peer_url),
            *("--initial-advertise-peer-urls", self.peer_url),
            *("--initial-cluster", peers),
            # faster elections than the default of a second, so that tests wait less
            *("--heartbeat-interval", "50", "--election-timeout", "500"),
            *("--unsafe-no-fsync", "--log-level", "error"),
            *extra,
        ]
        if self._tls:
            self._arguments += [
                *("--cert-file", str(self._tls.cert), "--key-file", str(self._tls.key)),
                *("--trusted-ca-file", str(self._tls.ca), "--client-cert-auth"),
            ]

    def start(self) -> None:
        """Starts the server; it may not answer yet."""
        log_path = self._folder.parent / f"{self.name}.log"
        with log_path.open("ab") as log, self.host.inside():
            self._process = subprocess.Popen(
                # setpriv becomes etcd, which the kernel then kills if this process goes first
                ["setpriv", "--pdeathsig", "KILL", self._program, *self._arguments],
                stdout=log,
                stderr=log,
                # nothing of the user's own ETCD_... settings
                env={"PATH": os.environ["PATH"], "ETCD_UNSUPPORTED_ARCH": "arm64"},
            )

    def is_healthy(self) -> bool:
        """Whether it answers with the consent of a majority."""
        try:
            return b'"health":"true"' in self.http("/health")
        except OSError:
            return False

    def http(self, path: str, body: bytes | None = None) -> bytes:
        """Asks the server's HTTP side: /health, or /v3/... with JSON.

        Raises: OSError.
        """
        context = None
        if self._tls:
            context = ssl.create_default_context(cafile=self._tls.ca)
            context.load_cert_chain(self._tls.cert, self._tls.key)
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        with (
            self.host.inside(),
            opener.open(f"{self._client_url}{path}", body, timeout=5) as answer,
        ):
            text: bytes = answer.read()
        return text

    def wait_until_healthy(self) -> None:
        """Returns when it is.

        Raises: AssertionError with its log when it does not become so.
        """
        give_up_at = time.monotonic() + START_TIMEOUT_S
        while not self.is_healthy():
            log = (self._folder.parent / f"{self.name}.log").read_text()[-2000:]
            assert time.monotonic() < give_up_at, f"{self.name} does not answer:\n{log}"
            assert self._process is None or self._process.poll() is None, f"{self.name}:\n{log}"
            time.sleep(0.02)

    def pause(self) -> None:
        """Stops it in its tracks: its connections stay, and are silent."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        os.waitpid(self._process.pid, os.WUNTRACED)  # until each of its threads has stopped

    def resume(self) -> None:
        """Lets it go on after ``pause``."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Ends it as a power failure would."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        self._process = None

    def restart(self) -> None:
        """Kills and starts it, and waits until it answers."""
        self.kill()
        self.start()
        self.wait_until_healthy()

    def back_up(self, to: Path) -> None:
        """Copies the data of a member that is not running."""
        assert self._process is None
        shutil.copytree(self._folder, to)

    def restore(self, backup: Path) -> None:
        """Sets a member that is not running back to a backup."""
        assert self._process is None
        shutil.rmtree(self._folder)
        shutil.copytree(backup, self._folder)


class EtcdCluster:
    """Members that form one cluster."""

    def __init__(self, members: Sequence[EtcdMember], tls: TlsFiles | None) -> None:
        self.members = tuple(members)
        self.tls = tls
        """A client's certificate."""

    def url(self, root: str = "/calico") -> str:
        """The datastore URL, with every member."""
        return f"etcd://{','.join(member.endpoint for member in self.members)}{root}"


@contextmanager
def etcd_cluster(
    folder: Path,
    version: EtcdVersion = EtcdVersion.CURRENT,
    *,
    members: int = 1,
    authority: Authority | None = None,
    extra: Sequence[str] = (),
    host: Host = HERE,
) -> Iterator[EtcdCluster]:
    """A cluster that answers, with its data in ``folder``; with an authority it wants certificates.

    Those hold for loopback too, from where a forwarder may lead to it.

    Ends the test when the program cannot be had.
    """
    program = etcd_binary(version)
    folder.mkdir(exist_ok=True)
    server_tls = authority.issue("server", {LOOPBACK, host.address}) if authority else None
    servers = [
        EtcdMember(program, folder / f"etcd{number}", f"etcd{number}", server_tls, host)
        for number in range(members)
    ]
    with ExitStack() as stack:
        for server in servers:
            server.form(servers, extra)
            stack.callback(server.kill)
            server.start()
        for server in servers:
            server.wait_until_healthy()
        yield EtcdCluster(servers, authority.issue("client") if authority else None)


class GrpcProxy:
    """etcd's own proxy before a cluster; its port stays while it comes and goes."""

    def __init__(
        self, program: Path, folder: Path, cluster: EtcdCluster, tls: TlsFiles | None
    ) -> None:
        (self.port,) = free_ports(1)
        self._log = folder / f"proxy{self.port}.log"
        scheme = "https" if tls else "http"
        endpoints = ",".join(f"{scheme}://{member.endpoint}" for member in cluster.members)
        self._command = ["setpriv", "--pdeathsig", "KILL", str(program), "grpc-proxy", "start"]
        self._command += ["--endpoints", endpoints, "--listen-addr", self.endpoint]
        self._command += ["--advertise-client-url", ""]
        if tls:
            self._command += ["--cacert", str(tls.ca), "--trusted-ca-file", str(tls.ca)]
            self._command += ["--cert-file", str(tls.cert), "--key-file", str(tls.key)]
            self._command += ["--cert", str(tls.cert), "--key", str(tls.key)]
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """Where clients reach it."""
        return f"{LOOPBACK}:{self.port}"

    def start(self) -> None:
        """Starts it, and waits until it listens."""
        with self._log.open("ab") as log:
            environment = {"PATH": os.environ["PATH"]}
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log, env=environment)
        give_up_at = time.monotonic() + START_TIMEOUT_S
        while True:
            with socket.socket() as asking:
                if asking.connect_ex((LOOPBACK, self.port)) == 0:
                    return
            said = self._log.read_text()[-2000:]
            assert self.process.poll() is None, f"the proxy ended:\n{said}"
            assert time.monotonic() < give_up_at, f"the proxy does not listen:\n{said}"
            time.sleep(0.02)

    def kill(self) -> None:
        """Ends it as a power failure would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@contextmanager
def grpc_proxies(
    folder: Path, cluster: EtcdCluster, count: int, tls: TlsFiles | None = None
) -> Iterator[tuple[GrpcProxy, ...]]:
    """Proxies that listen; with a certificate, which has no common name, where the cluster wants one."""
    program = etcd_binary(EtcdVersion.CURRENT)
    proxies = tuple(GrpcProxy(program, folder, cluster, tls) for _ in range(count))
    with ExitStack() as stack:
        for proxy in proxies:
            stack.callback(proxy.kill)
            proxy.start()
        yield proxies


def free_ports(count: int, host: Host = HERE) -> tuple[int, ...]:
    """Ports that nobody has now; all are held until all are known, so that they differ."""
    with ExitStack() as stack:
        stack.enter_context(host.inside())
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((host.address, 0))
        return tuple(each.getsockname()[1] for each in sockets)
