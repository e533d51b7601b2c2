"""A real Kubernetes API server on a real etcd, on loopback unless told otherwise.

Nothing else of Kubernetes runs.

In comes a folder, out goes a running server that can be killed, stopped without a word and
started again with all it knew.  No controller runs beside it: what one would write (a namespace's
end, service accounts, the status of pods and nodes) tests write themselves, through `kubectl` or
the helpers in `objects.py`.  It ends with the block that started it, and with this process however
it ends.
"""

import os
import secrets
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.cluster.binaries import kube_program
from tests.etcd.binaries import EtcdVersion
from tests.etcd.certificates import LOOPBACK, Authority
from tests.etcd.servers import HERE, EtcdCluster, Host, etcd_cluster, free_ports

START_TIMEOUT_S = 60.0

ADMIN, NOBODY = "admin", "nobody"
"""Users: one may do everything, one has no rights but those that a test gives."""
_GROUPS = {ADMIN: "system:masters", NOBODY: ""}


class ApiServer:
    """One server; its port, its users and its objects stay the same while it comes and goes."""

    def __init__(self, folder: Path, etcd: EtcdCluster, host: Host = HERE) -> None:
        self._folder = folder
        self.etcd = etcd
        self.host = host
        (self.port,) = free_ports(1, host)
        self._process: subprocess.Popen[bytes] | None = None
        authority = Authority(folder)
        self._tls = authority.issue("apiserver", {LOOPBACK, host.address})
        self._tokens = {user: secrets.token_hex(16) for user in _GROUPS}
        tokens = folder / "tokens.csv"
        tokens.write_text(
            "".join(f'{self._tokens[user]},{user},{user},"{_GROUPS[user]}"\n' for user in _GROUPS)
        )
        key = _service_account_key(folder)
        self._arguments = [
            f"--etcd-servers=http://{etcd.members[0].endpoint}",
            f"--secure-port={self.port}",
            f"--bind-address={host.address}",
            f"--tls-cert-file={self._tls.cert}",
            f"--tls-private-key-file={self._tls.key}",
            f"--client-ca-file={self._tls.ca}",
            f"--token-auth-file={tokens}",
            "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.96.0.0/16,fd00:10:96::/112",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            # It would want the service accounts that nobody makes here.
            "--disable-admission-plugins=ServiceAccount",
            # An Endpoints object that points at loopback is refused.
            "--endpoint-reconciler-type=none",
            # No kube-proxy leads it to a webhook's Service: it goes to the endpoints themselves.
            "--enable-aggregator-routing=true",
            f"--cert-dir={folder}",
        ]

    @property
    def authority(self) -> Path:
        """The certificate by which clients know it."""
        return self._tls.ca

    @property
    def url(self) -> str:
        """Where clients reach it."""
        return f"https://{self.host.address}:{self.port}"

    @property
    def log(self) -> str:
        """The end of what it has said."""
        return (self._folder / "apiserver.log").read_text(errors="replace")[-3000:]

    def kubeconfig(self, user: str = ADMIN, *, port: int | None = None) -> Path:
        """A file by which clients are a user; ``port`` is of a forwarder on loopback, if any."""
        url = self.url if port is None else f"https://{LOOPBACK}:{port}"
        path = self._folder / f"{user}{port or ''}.kubeconfig"
        if path.exists():
            return path
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": user,
            "clusters": [
                {
                    "name": "tests",
                    "cluster": {"server": url, "certificate-authority": str(self._tls.ca)},
                }
            ],
            "users": [{"name": user, "user": {"token": self._tokens[user]}}],
            "contexts": [{"name": user, "context": {"cluster": "tests", "user": user}}],
        }
        path.write_text(yaml.safe_dump(document))
        return path

    def kubectl(self, *arguments: str, stdin: str = "", user: str = ADMIN) -> str:
        """What kubectl prints.

        Raises: AssertionError with what it complains of when it fails.
        """
        home = self._folder / "home"
        home.mkdir(exist_ok=True)
        command = [str(kube_program("kubectl")), *arguments]
        environment = {
            # With our own programs first: kubectl finds its plugins there.
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(home),
            "KUBECONFIG": str(self.kubeconfig(user)),
        }
        with self.host.inside():
            result = subprocess.run(
                command, input=stdin, capture_output=True, text=True, check=False, env=environment
            )
        assert result.returncode == 0, f"kubectl {' '.join(arguments)}: {result.stderr}"
        return result.stdout

    def start(self) -> None:
        """Starts it; it may not answer yet."""
        program = kube_program("kube-apiserver")
        with (self._folder / "apiserver.log").open("ab") as log, self.host.inside():
            self._process = subprocess.Popen(
                # setpriv becomes the server, which the kernel then kills if this process goes first
                ["setpriv", "--pdeathsig", "KILL", program, *self._arguments],
                stdout=log,
                stderr=log,
                env={"PATH": os.environ["PATH"]},
            )

    def is_ready(self) -> bool:
        """Whether it answers, and has made what it makes at its first start."""
        request = urllib.request.Request(
            f"{self.url}/readyz", headers={"Authorization": f"Bearer {self._tokens[ADMIN]}"}
        )
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}),
            urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=self._tls.ca)),
        )
        try:
            with self.host.inside(), opener.open(request, timeout=5) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.HTTPError):
            return False

    def wait_until_ready(self) -> None:
        """Returns when it is.

        Raises: AssertionError with its log when it does not become so.
        """
        give_up_at = time.monotonic() + START_TIMEOUT_S
        while not self.is_ready():
            assert time.monotonic() < give_up_at, f"the API server does not answer:\n{self.log}"
            assert self._process is None or self._process.poll() is None, self.log
            time.sleep(0.05)

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
        self.wait_until_ready()


@contextmanager
def api_server(
    folder: Path, *, extra: Sequence[str] = (), host: Host = HERE
) -> Iterator[ApiServer]:
    """A server that answers, with its own etcd, and everything it keeps in ``folder``.

    ``extra`` are arguments of the etcd.

    Cost: 3 s, and 300 MB.
    """
    folder.mkdir(exist_ok=True)
    with etcd_cluster(folder / "etcd", EtcdVersion.CURRENT, extra=extra, host=host) as etcd:
        server = ApiServer(folder, etcd, host)
        try:
            server.restart()
            yield server
        finally:
            server.kill()


def _service_account_key(folder: Path) -> Path:
    path = folder / "service-account.key"
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    path.chmod(0o600)
    return path
