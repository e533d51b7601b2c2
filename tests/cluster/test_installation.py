"""manifests/ as applied: everything of ours runs by its own arguments, tokens, rights and users.

One installation serves all tests here, in their order: the last ones change who signs, and so
everybody's certificates.
"""

import base64
import datetime as dt
import json
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
import yaml

from calico_k8s.certificates import files
from calico_k8s.certificates.authority import Subject, load_certificates, new_key, request_pem
from calico_k8s.certificates.kube import REQUESTS, file_request, read_bundle, read_request
from calico_k8s.certificates.names import AUTHORITY_NAME
from calico_k8s.certificates.requests import CLIENT_USAGES, SERVER_USAGES
from calico_k8s.controller import metrics as controller_metrics
from calico_k8s.controller.kube import KubeApi, connect
from calico_k8s.datastore.location import TlsFiles
from calico_k8s.errors import KubeForbidden
from calico_k8s.felix import metrics as felix_metrics
from calico_k8s.lab.plan import LabPod, PodId
from calico_k8s.model.addresses import Address
from calico_k8s.model.names import NodeName
from tests.cluster.controllers import wait_for
from tests.cluster.installation import NAMESPACE, NODES, Installation, installation
from tests.cluster.kubelet import Machine, Pod
from tests.cluster.objects import pod_path
from tests.cluster.sandbox import REPOSITORY, Container
from tests.etcd.certificates import Authority

# The first test waits for everything to start, on whatever else the machine does.
pytestmark = [pytest.mark.cluster, pytest.mark.kernel, pytest.mark.timeout(300)]

PORT, PEER_PORT, PROXY_PORT = 12379, 12380, 12378


class Running(NamedTuple):
    """An installation in which everything runs."""

    site: Installation
    signer: Pod
    etcd: list[Pod]
    controllers: list[Pod]
    agents: list[Pod]
    proxies: list[Pod]

    @property
    def pods(self) -> list[Pod]:
        """Everything."""
        return [self.signer, *self.etcd, *self.controllers, *self.agents, *self.proxies]

    def command(self, *arguments: str) -> tuple[int, str]:
        """What an operator sees of `kubectl exec deploy/calico-k8s-controller -- calico-k8s ...`."""
        container = self.controllers[0]["controller"]
        return container.run(["calico-k8s", *arguments], CALICO_K8S_LOG_LEVEL="error")

    def status(self) -> dict[str, dict[str, object]]:
        """What `status` says, by node."""
        code, said = self.command("status", "-o", "json")
        assert code in (0, 1), said
        return {row["node"]: row for row in json.loads(said)}

    def are_in_sync(self) -> bool:
        """Whether every node with an agent says so."""
        states = {node: row["state"] for node, row in self.status().items()}
        return states == {"node-1": "in-sync", "node-2": "in-sync", "node-3": "silent"}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with installation(tmp_path_factory.mktemp("installation")) as site:
        (signer,) = site.make("deployments", "calico-k8s-signer", 3)
        found = Running(
            site,
            signer,
            site.make("statefulsets", "calico-k8s-etcd", 1, 2, 3),
            site.make("deployments", "calico-k8s-controller", 1, 2),
            site.make("daemonsets", "calico-k8s-felix", 1, 2),
            site.make("daemonsets", "calico-k8s-etcd-proxy", 1, 3),
        )
        site.kubelet.start(found.pods)
        yield found


def certificate_folder(pod: Pod) -> Path:
    """Where a pod's certificate is, on this machine."""
    container = pod.containers.get("certificate") or pod["signer"]
    directory = next(
        word.removeprefix("--directory=")
        for word in container.command
        if word.startswith("--directory=")
    )
    for mount in container.sandbox.mounts:
        if directory.startswith(mount.target):
            return mount.source / directory.removeprefix(mount.target).lstrip("/")
    raise AssertionError(f"{directory} is no volume of {pod.name}")


def tls_of(pod: Pod) -> TlsFiles:
    return files.tls_files(certificate_folder(pod))


def test_every_probe_says_yes_by_what_the_manifests_say(running: Running) -> None:
    for pod in running.pods:
        assert {name for name, _ in pod.probes()} == pod.containers.keys(), "each container has one"
        for container, kind in pod.probes():
            if kind == "startupProbe" and container == "certificate":
                continue  # what its start waits for
            wait_for(lambda: pod.probe(container, kind), lambda: f"{container} {kind} {pod.log}")  # noqa: B023 - called at once


def test_a_pod_of_a_closed_namespace_is_enforced_on_its_node(running: Running) -> None:
    objects, network = running.site.objects, running.site.network
    objects.namespace("shop", annotations={"projectcalico-policy": "closed"})
    objects.pod("shop", "web", annotations={"policy": "allow tcp to port 80"})
    pod = LabPod(PodId("shop/web"), NodeName("node-1"), (Address("10.244.1.7"),))
    network.add_pods([pod])
    objects.pod_status("shop", "web", pod.addresses)
    wait_for(lambda: running.status()["node-1"]["enforced"] == 1, lambda: str(running.status()))
    assert running.are_in_sync()
    host = running.site.machine(1).host
    with host.inside():
        sets = subprocess.run(["ipset", "list"], capture_output=True, text=True, check=True).stdout
    assert "10.244.1.7" in sets
    assert "shop/web" in running.command("get", "endpoints")[1]


def test_every_part_of_a_changes_way_is_measured(running: Running) -> None:
    """From the controller that hears of it to each node's kernel; this machine has one clock."""
    parts = ("delivery", "calculation", "kernel", "apply", "end_to_end")

    def written() -> list[float]:
        told = (each.latencies(controller_metrics.PREFIX) for each in running.controllers)
        return [each["write_count"] for each in told]

    def measured() -> list[dict[str, float]]:
        return [each.latencies(felix_metrics.PREFIX) for each in running.agents]

    wrote_before, before = written(), measured()
    running.site.objects.change(pod_path("shop", "web"), labels={"team": "red"})

    def are_counted() -> bool:
        return all(
            now[f"{part}_count"] > then[f"{part}_count"]
            for then, now in zip(before, measured(), strict=True)
            for part in parts
        )

    wait_for(are_counted, lambda: str(measured()))
    fewer, more = sorted(now - then for then, now in zip(wrote_before, written(), strict=True))
    assert more >= 1, "the one that leads"
    assert fewer == 0, "the one that waits"
    for then, now in zip(before, measured(), strict=True):
        took_s = {part: now[f"{part}_sum"] - then[f"{part}_sum"] for part in parts}
        assert all(0 <= each < 30 for each in took_s.values())
        assert took_s["calculation"] + took_s["kernel"] == pytest.approx(took_s["apply"], abs=1e-6)
        assert took_s["end_to_end"] > took_s["apply"]


def test_grafanas_sidecar_finds_the_dashboard(running: Running) -> None:
    path = f"/api/v1/namespaces/{NAMESPACE}/configmaps"
    found = json.loads(running.site.objects.api.get(path, {"labelSelector": "grafana_dashboard=1"}))
    ((name, text),) = found["items"][0]["data"].items()
    assert (name, json.loads(text)["uid"]) == ("calico-k8s.json", "calico-k8s")


def test_no_node_holds_anything_but_what_it_should(running: Running) -> None:
    for agent in running.agents:
        code, said = agent["felix"].run(["calico-k8s", "felix", "drift"])
        assert (code, "the kernel holds what it should" in said) == (0, True), said
        code, said = agent["felix"].run(["calico-k8s", "felix", "clean", "--verify"])
        assert (code, "ipset cali4-src: is left" in said) == (1, True), said


def ask(
    running: Running,
    tls: TlsFiles | None,
    *asks: tuple[str, str],
    member: int = 1,
    port: int = PORT,
) -> list[str]:
    """What etcd, or what listens at another port, answers to whoever has these files."""
    machine = running.site.machine(member)
    document = {
        "url": f"etcd://{machine.host.address}:{port}",
        "tls": None if tls is None else [str(tls.ca), str(tls.cert), str(tls.key)],
        "asks": asks,
    }
    with machine.host.inside():
        done = subprocess.run(
            [sys.executable, "-m", "tests.cluster.asker"],
            input=json.dumps(document),
            capture_output=True,
            text=True,
            check=True,
            cwd=REPOSITORY,
        )
    return done.stdout.split()


def test_etcd_lets_a_node_read_policy_and_write_its_own_status(running: Running) -> None:
    asked = {
        ("read", "/v1/"): "ok",
        ("watch", "/v1/"): "ok",
        ("write", "/felix/v2/host/node-1/test"): "ok",
        ("read", "/felix/v2/host/node-1/"): "ok",
        ("write", "/v1/policy/profile/namespace.shop/rules"): "StoreForbidden",
        ("write", "/v1/Ready"): "StoreForbidden",
        ("write", "/felix/v2/host/node-2/status"): "StoreForbidden",
        ("write", "/felix/v2/host/node-11/status"): "StoreForbidden",
        ("read", "/felix/v2/host/node-2/"): "StoreForbidden",
        ("read", "/felix/v2/"): "StoreForbidden",
        ("read", "/"): "StoreForbidden",
        ("watch", "/"): "StoreForbidden",
        ("watch", "/felix/v2/host/node-2/"): "StoreForbidden",
    }
    assert ask(running, tls_of(running.agents[0]), *asked) == list(asked.values())


def test_etcd_lets_the_controller_write_policy_and_read_status(running: Running) -> None:
    asked = {
        ("read", "/v1/"): "ok",
        ("read", "/felix/v2/"): "ok",
        ("write", "/felix/v2/host/node-1/status"): "StoreForbidden",
        ("read", "/"): "StoreForbidden",
        ("write", "/other/key"): "StoreForbidden",
    }
    assert ask(running, tls_of(running.controllers[0]), *asked) == list(asked.values())


def test_etcd_lets_nobody_else_do_anything(running: Running, tmp_path: Path) -> None:
    asked = ("read", "/v1/")
    assert ask(running, None, asked) == ["StoreUnavailable"], "without a certificate"
    ca = tls_of(running.agents[0]).ca
    stranger = Authority(tmp_path).issue("root")
    foreign = TlsFiles(ca, stranger.cert, stranger.key)
    assert ask(running, foreign, asked) == ["StoreUnavailable"], "of another authority"
    member = tls_of(running.etcd[0])
    assert ask(running, member, asked, ("write", "/v1/a")) == ["StoreForbidden"] * 2, "a member's"


def test_a_proxy_lets_nobody_do_anything_by_their_certificate(
    running: Running, tmp_path: Path
) -> None:
    asked = (("read", "/v1/"), ("write", "/v1/a"), ("watch", "/felix/v2/"))
    for pod in (running.agents[0], running.controllers[0], running.proxies[0]):
        assert ask(running, tls_of(pod), *asked, port=PROXY_PORT) == ["StoreForbidden"] * 3
    assert ask(running, tls_of(running.proxies[0]), *asked) == ["StoreForbidden"] * 3, "of etcd"
    assert ask(running, None, asked[0], port=PROXY_PORT) == ["StoreUnavailable"]
    ca = tls_of(running.agents[0]).ca
    stranger = Authority(tmp_path).issue("root")
    foreign = TlsFiles(ca, stranger.cert, stranger.key)
    assert ask(running, foreign, asked[0], port=PROXY_PORT) == ["StoreUnavailable"]


def test_agents_read_through_whichever_proxy_there_is(running: Running) -> None:
    objects = running.site.objects
    for number, gone in enumerate(running.proxies):
        gone.stop()
        objects.namespace(f"through-{number}", annotations={"projectcalico-policy": "closed"})
        wait_for(running.are_in_sync, lambda: str(running.status()))
        profile = f"namespace.through-{number}"
        wait_for(lambda: profile in running.command("get", "profiles")[1])  # noqa: B023 - at once
        wait_for(running.are_in_sync, lambda: str(running.status()))
        gone.start()
    with running.site.machine(1).host.inside():
        peers = subprocess.check_output(["ss", "-tnH", "state", "established"], text=True)
    assert f":{PROXY_PORT}" in peers


def speak(machine: Machine, port: int, tls: TlsFiles, text: str) -> str:
    """The first line that a port answers to a request over TLS.  Raises: OSError."""
    context = ssl.create_default_context(cafile=tls.ca)
    context.load_cert_chain(tls.cert, tls.key)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    address = machine.host.address
    with (
        machine.host.inside(),
        socket.create_connection((address, port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=address) as connection,
    ):
        connection.sendall(text.encode())
        return str(connection.recv(100).decode().partition("\r\n")[0])


def test_only_a_member_is_let_in_where_members_speak(running: Running) -> None:
    machine = running.site.machine(2)
    request = "GET /members HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\n\r\n"
    assert speak(machine, PEER_PORT, tls_of(running.etcd[1]), request) == "HTTP/1.1 200 OK"
    for pod in (running.agents[1], running.controllers[0]):
        with pytest.raises(ssl.SSLError):
            speak(machine, PEER_PORT, tls_of(pod), request)
    # nor a member's from where that member is not
    assert speak(machine, PEER_PORT, tls_of(running.etcd[0]), request) == ""


def test_no_gateway_speaks_for_others(running: Running) -> None:
    body = '{"key": "AA==", "range_end": "AA=="}'
    request = f"POST /v3/kv/range HTTP/1.1\r\nHost: etcd\r\nContent-Length: {len(body)}\r\n\r\n"
    answer = speak(running.site.machine(1), PORT, tls_of(running.agents[0]), f"{request}{body}")
    assert answer == "HTTP/1.1 404 Not Found"


def as_pod(running: Running, pod: Pod, folder: Path, token: str | None = None) -> KubeApi:
    """The API server by a pod's token, as whoever broke into its node would have it."""
    config = yaml.safe_load(running.site.kube.kubeconfig().read_text())
    token = token or running.site.kubelet.token(pod.document)
    config["users"][0]["user"] = {"token": token}
    url = running.site.objects.api.url
    config["clusters"][0]["cluster"]["server"] = url
    path = folder / f"{pod.name}.kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return connect(str(path))


@pytest.mark.parametrize(
    ("who", "subject", "usages", "reason"),
    [
        ("felix", Subject("node-node-2"), CLIENT_USAGES, "WrongName"),
        ("felix", Subject("root"), CLIENT_USAGES, "WrongName"),
        ("felix", Subject("etcd-member"), CLIENT_USAGES, "WrongName"),
        ("felix", Subject("node-node-1", (Address("192.168.9.1"),)), CLIENT_USAGES, "WrongAddr"),
        ("felix", Subject("node-node-1"), SERVER_USAGES, "WrongUsages"),
        ("controller", Subject("root"), CLIENT_USAGES, "WrongName"),
        ("etcd", Subject("etcd-member", (Address("192.168.9.2"),)), SERVER_USAGES, "WrongAddr"),
        ("etcd", Subject("etcd-member", (Address("192.168.9.9"),)), SERVER_USAGES, "WrongAddr"),
        ("admin", Subject("node-node-1"), CLIENT_USAGES, "NotOurServiceAccount"),
    ],
)
def test_what_is_anothers_is_denied_and_said_why(
    running: Running,
    tmp_path: Path,
    who: str,
    subject: Subject,
    usages: Sequence[str],
    reason: str,
) -> None:
    pods = {"felix": running.agents, "controller": running.controllers, "etcd": running.etcd}
    name = f"try-{who}-{abs(hash((subject, tuple(usages))))}"
    request = request_pem(subject, new_key())
    admin = running.site.objects.api
    api = as_pod(running, pods[who][0], tmp_path) if who in pods else admin
    file_request(api, name, request, usages, dt.timedelta(days=1))
    wait_for(lambda: read_request(admin, name).refusal)
    stored = read_request(admin, name)
    assert stored.refusal is not None
    assert stored.refusal.startswith(reason)
    assert not stored.status.certificate


def test_a_token_bound_to_no_node_gets_nothing(running: Running, tmp_path: Path) -> None:
    admin = running.site.objects.api
    path = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/calico-k8s-felix/token"
    token = msgspec.json.decode(admin.create(path, {"spec": {}}))["status"]["token"]
    api = as_pod(running, running.agents[0], tmp_path, token)
    request = request_pem(Subject("node-node-1"), new_key())
    file_request(api, "unbound", request, CLIENT_USAGES, dt.timedelta(days=1))
    wait_for(lambda: read_request(admin, "unbound").refusal)
    assert "NotBoundToANode" in str(read_request(admin, "unbound").refusal)


def test_requests_to_other_signers_are_not_touched_and_could_not_be(
    running: Running, tmp_path: Path
) -> None:
    admin = running.site.objects.api
    document = {
        "metadata": {"name": "others"},
        "spec": {
            "request": base64.b64encode(request_pem(Subject("x"), new_key())).decode(),
            "signerName": "kubernetes.io/kube-apiserver-client",
            "usages": ["client auth"],
        },
    }
    admin.create(REQUESTS, document)
    signer = as_pod(running, running.signer, tmp_path)
    approval = {"status": {"conditions": [{"type": "Approved", "status": "True"}]}}
    with pytest.raises(KubeForbidden, match="not permitted to approve"):
        signer.merge(f"{REQUESTS}/others/approval", approval)
    name = "after-others"
    api = as_pod(running, running.agents[0], tmp_path)
    file_request(
        api, name, request_pem(Subject("node-node-1"), new_key()), CLIENT_USAGES, dt.timedelta(1)
    )
    wait_for(lambda: read_request(admin, name).status.certificate)
    assert read_request(admin, "others").is_open


def once(container: Container, *capabilities: str, backend: str) -> tuple[int, str]:
    """Felix brings a kernel that has nothing of ours to the datastore's state, with these rights."""
    rights = container.sandbox.rights._replace(capabilities=capabilities)
    limited = Container("once", container.sandbox._replace(rights=rights), container.command)
    container.run(["calico-k8s", "felix", "clean"])
    return limited.run([*container.command, "--once"], CALICO_K8S_IPTABLES_BACKEND=backend)


def test_felix_needs_each_of_its_capabilities(running: Running) -> None:
    container = running.agents[1]["felix"]
    capabilities = container.sandbox.rights.capabilities
    assert capabilities == ("NET_ADMIN", "NET_RAW")
    container.stop()
    for backend in ("legacy", "nft"):
        code, said = once(container, *capabilities, backend=backend)
        assert code == 0, said
    code, said = once(container, "NET_ADMIN", backend="legacy")
    assert code != 0, "legacy iptables without a raw socket"
    for backend in ("legacy", "nft"):
        code, said = once(container, "NET_RAW", backend=backend)
        assert code != 0, said
    assert container.run(["calico-k8s", "felix", "clean"])[1].endswith("nothing of ours is left\n")
    container.start()


def test_a_node_that_is_deleted_is_shut_out_until_it_is_back(running: Running) -> None:
    node, tls = NODES[1], tls_of(running.agents[1])
    asks = (("read", "/v1/"), ("write", "/felix/v2/host/node-2/test"))
    wait_for(running.are_in_sync)
    running.site.objects.api.delete(f"/api/v1/nodes/{node.name}")
    wait_for(lambda: ask(running, tls, *asks) == ["StoreForbidden"] * 2)
    running.site.objects.node(node.name, node.addresses, node.pod_cidrs)
    wait_for(lambda: ask(running, tls, *asks) == ["ok"] * 2)
    wait_for(running.are_in_sync, lambda: running.agents[1].log)


def test_an_authority_that_is_replaced_is_followed_by_all(running: Running) -> None:
    api, secrets = running.site.objects.api, f"/api/v1/namespaces/{NAMESPACE}/secrets"
    before = tls_of(running.agents[0]).ca.read_bytes()
    api.delete(f"{secrets}/{AUTHORITY_NAME}")
    running.signer.restart()
    wait_for(lambda: read_bundle(api, NAMESPACE) != before, lambda: running.signer.log)
    others = [pod for pod in running.pods if pod is not running.signer]
    running.site.kubelet.restart(others)
    after = {tls_of(pod).ca.read_bytes() for pod in others}
    assert len(after) == 1
    assert before not in after
    wait_for(running.are_in_sync, lambda: running.agents[0].log)
    wait_for(lambda: running.signer.probe("signer", "readinessProbe"), lambda: running.signer.log)


def test_no_log_holds_a_token_or_a_key(running: Running) -> None:
    site = running.site
    path = f"/api/v1/namespaces/{NAMESPACE}/secrets/{AUTHORITY_NAME}"
    stored = msgspec.json.decode(site.objects.api.get(path))["data"]["tls.key"]
    secrets = {token.rpartition(".")[2] for token in site.kubelet.tokens}
    keys = [base64.b64decode(stored)]
    keys += [tls_of(pod).key.read_bytes() for pod in running.pods if pod is not running.signer]
    for pem in keys:
        secrets |= {line for line in pem.decode().splitlines() if not line.startswith("-----")}
    assert len(secrets) > len(running.pods)
    logs = [path for path in site.folder.rglob("*") if path.name in ("log", "apiserver.log")]
    assert len(logs) > len(running.pods)
    for log in logs:
        text = log.read_text(errors="replace")
        for secret in secrets:
            assert secret not in text, log
    said = "".join(log.read_text(errors="replace") for log in logs)
    assert "PRIVATE KEY" not in said
    assert '"level": "debug"' in said or '"level":"debug"' in said
    assert load_certificates(tls_of(running.agents[0]).cert.read_bytes())


def test_what_removes_everything_leaves_nothing_on_a_node(running: Running) -> None:
    site, agent = running.site, running.agents[0]
    machine = agent.machine
    wait_for((machine.folder / "var/lib/calico-k8s/felix.state").exists, lambda: agent.log)
    site.kube.kubectl("delete", "-n", NAMESPACE, "daemonset", "calico-k8s-felix")
    for pod in (*running.agents, *running.etcd):
        pod.stop()
    with machine.host.inside():
        assert "cali-FORWARD" in subprocess.check_output(["iptables-nft-save"], text=True)
    site.kube.kubectl("apply", "-k", str(site.folder / "manifests" / "clean"))
    (cleaner,) = site.make("daemonsets", "calico-k8s-clean", 1)
    site.kubelet.start([cleaner])
    assert cleaner["done"].is_running
    with machine.host.inside():
        assert "cali-" not in subprocess.check_output(["iptables-nft-save"], text=True)
        assert not subprocess.check_output(["ipset", "list", "-n"], text=True)
    for name in ("calico-k8s", "calico-k8s-etcd"):
        assert not list((machine.folder / "var/lib" / name).iterdir())
    cleaner.stop()
    site.kube.kubectl(
        "delete",
        "-k",
        str(site.folder / "manifests" / "policy-only"),
        "--ignore-not-found",
        "--wait=false",
    )
    left = site.kube.kubectl("get", "clusterroles,clusterrolebindings", "-o", "name")
    assert "calico-k8s" not in left
