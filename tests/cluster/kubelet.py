"""A kubelet for tests: it runs the containers of applied workloads as processes on lab nodes.

In come workloads as the API server holds them (a Deployment, StatefulSet or DaemonSet), and the
node that a scheduler would choose; out go running pods: their environment, arguments, volumes,
tokens, users and capabilities are what the manifests say, resolved as a kubelet does.  Only images
are missing: programs are this machine's and this checkout's.

Not done: resources, SELinux, seccomp, AppArmor, and probes other than startup's.
"""

import base64
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from calico_k8s.controller.kube import KubeApi
from calico_k8s.model.names import NodeName
from tests.cluster.controllers import page
from tests.cluster.sandbox import Container, Mount, Rights, Sandbox
from tests.etcd.servers import Host

Document = dict[str, Any]  # Any: what JSON can say
Workload = Literal["deployments", "statefulsets", "daemonsets"]

Probe = Literal["startupProbe", "readinessProbe", "livenessProbe"]
PROBES: tuple[Probe, ...] = ("startupProbe", "readinessProbe", "livenessProbe")

START_TIMEOUT_S = 90.0
"""For a dozen Python programs that start at once on two busy cores: 15 s, measured, and then some."""
PERIOD_S = 0.5
"""Between two probes; manifests/ say 2."""
_VARIABLE = re.compile(r"\$\(([A-Za-z_][A-Za-z0-9_]*)\)")


class Machine(NamedTuple):
    """A node: its place in the network, and where its host paths are."""

    name: NodeName
    host: Host
    folder: Path


class Pod:
    """A pod whose containers run; what is done to it is done to all of them."""

    def __init__(
        self, document: Document, machine: Machine, containers: Mapping[str, Container]
    ) -> None:
        self.document = document
        self.machine = machine
        self.containers = containers

    def __getitem__(self, container: str) -> Container:
        return self.containers[container]

    @property
    def name(self) -> str:
        """Its name in the API server."""
        return str(self.document["metadata"]["name"])

    def start(self) -> None:
        """Starts containers in their order, and waits for those that others wait for."""
        inits = {each["name"]: each for each in self.document["spec"].get("initContainers", ())}
        for name, container in self.containers.items():
            container.start()
            if name in inits and inits[name].get("restartPolicy") == "Always":
                self._wait_until_started(name)
            elif name in inits:
                assert container.wait() == 0, container.log

    def _wait_until_started(self, container: str) -> None:
        give_up_at = time.monotonic() + START_TIMEOUT_S
        while not self.probe(container, "startupProbe"):
            assert time.monotonic() < give_up_at, self.log
            time.sleep(PERIOD_S)

    def restart(self) -> None:
        """Ends and starts all."""
        self.stop()
        self.start()

    def stop(self) -> None:
        """Ends all, the last first."""
        for container in reversed(tuple(self.containers.values())):
            container.stop()

    def kill(self) -> None:
        """Ends all as a power failure would."""
        for container in self.containers.values():
            container.kill()

    @property
    def log(self) -> str:
        """The end of what all have said."""
        return "\n".join(f"{each.name}: {each.log[-2000:]}" for each in self.containers.values())

    def probe(self, container: str, kind: Probe) -> bool:
        """Whether a probe that the pod names for a container says yes now."""
        (spec,) = (each for each in _containers(self.document) if each["name"] == container)
        assert self[container].is_running, self.log
        match spec[kind]:
            case {"exec": {"command": command}}:
                return self[container].run(command)[0] == 0
            case {"httpGet": {"path": path, "port": port, **more}}:
                ports = {each["name"]: each["containerPort"] for each in spec.get("ports", ())}
                host = more.get("host") or self.machine.host.address
                url = f"http://{host}:{ports.get(port, port)}{path}"
                return page(url, self.machine.host)[0] == 200
            case other:
                raise AssertionError(f"no such probe here: {other}")

    def latencies(self, prefix: str) -> dict[str, float]:
        """Each latency's ``name_count`` and ``name_sum``, as its only port tells whoever scrapes it."""
        (port,) = (
            each["containerPort"]
            for spec in _containers(self.document)
            for each in spec.get("ports", ())
        )
        host = self.machine.host
        status, text = page(f"http://{host.address}:{port}/metrics", host)
        assert status == 200, self.log
        line = rf"^{prefix}_(\w+)_latency_seconds_(count|sum) (\S+)$"
        found = re.findall(line, text, re.MULTILINE)
        return {f"{name}_{what}": float(number) for name, what, number in found}

    def probes(self) -> Iterator[tuple[str, Probe]]:
        """Every probe that the pod names."""
        for container in _containers(self.document):
            yield from ((container["name"], kind) for kind in PROBES if kind in container)


class Kubelet:
    """Runs pods; ``programs`` are folders that stand in for images, ``more`` is environment."""

    def __init__(
        self,
        api: KubeApi,
        authority: Path,
        folder: Path,
        programs: Sequence[Path] = (),
        more: Mapping[str, str] | None = None,
    ) -> None:
        self._more = more or {}
        self.tokens: list[str] = []
        """Every token that was handed to a pod."""
        self._api = api
        self._authority = authority
        self._folder = folder
        self._programs = tuple(programs)
        self._pods: list[Pod] = []
        # A program ends with the thread that started it: these stay until all have ended.
        self._threads = ThreadPoolExecutor(16)

    @property
    def containers(self) -> Iterator[Container]:
        """Every container that was ever started."""
        return (container for pod in self._pods for container in pod.containers.values())

    def start(self, pods: Sequence[Pod]) -> None:
        """Starts pods all at once, and returns when all have started."""
        list(self._threads.map(Pod.start, pods))

    def restart(self, pods: Sequence[Pod]) -> None:
        """Ends and starts pods all at once."""
        list(self._threads.map(Pod.restart, pods))

    def make(self, kind: Workload, namespace: str, name: str, machine: Machine) -> Pod:
        """A pod whose object is in the API server, not started."""
        workload = _decoded(self._api.get(f"/apis/apps/v1/namespaces/{namespace}/{kind}/{name}"))
        template = workload["spec"]["template"]
        document = self._create(namespace, f"{name}-{machine.name}", template, machine)
        spec = document["spec"]
        # Another pod of the name starts with nothing of the one before.
        folder = self._folder / f"{document['metadata']['name']}-{len(self._pods)}"
        volumes = {
            volume["name"]: self._volume(volume, document, folder, machine)
            for volume in spec.get("volumes", ())
        }
        containers = {}
        for each in _containers(document):
            sandbox = Sandbox(
                machine.host,
                _mounts(each, volumes),
                _rights(spec, each),
                {**self._environment(each, document, machine), **self._more},
                folder / each["name"],
                self._programs,
            )
            command = each.get("command") or ["calico-k8s"]
            command = [*command, *each.get("args", ())]
            expanded = [_expand(word, sandbox.environment) for word in command]
            containers[each["name"]] = Container(f"{name}/{each['name']}", sandbox, expanded)
        pod = Pod(document, machine, containers)
        self._pods.append(pod)
        return pod

    def token(self, pod: Document) -> str:
        """A token of a pod's service account that is bound to it, as the kubelet asks for."""
        spec: Document = {
            "expirationSeconds": 3600,
            "boundObjectRef": {
                "kind": "Pod",
                "apiVersion": "v1",
                "name": pod["metadata"]["name"],
                "uid": pod["metadata"]["uid"],
            },
        }
        namespace, account = pod["metadata"]["namespace"], pod["spec"]["serviceAccountName"]
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        token = str(_decoded(self._api.create(path, {"spec": spec}))["status"]["token"])
        self.tokens.append(token)
        return token

    def kill_all(self) -> None:
        """Ends everything."""
        for pod in self._pods:
            pod.kill()
        self._threads.shutdown()

    def _create(self, namespace: str, name: str, template: Document, machine: Machine) -> Document:
        document = {
            "metadata": {**template["metadata"], "name": name},
            "spec": {**template["spec"], "nodeName": machine.name},
        }
        return _decoded(self._api.create(f"/api/v1/namespaces/{namespace}/pods", document))

    def _volume(self, volume: Document, pod: Document, folder: Path, machine: Machine) -> Path:
        group = pod["spec"].get("securityContext", {}).get("fsGroup")
        source: Path
        match volume:
            case {"hostPath": {"path": path, "type": kind}}:
                source = machine.folder / path.lstrip("/")
                source.parent.mkdir(parents=True, exist_ok=True)
                if kind == "FileOrCreate":
                    source.touch(mode=0o644)
                else:
                    source.mkdir(exist_ok=True)
            case {"emptyDir": _}:
                source = folder / "volumes" / volume["name"]
                source.mkdir(parents=True)
                source.chmod(0o2777)
            case {"projected": projected}:
                source = folder / "volumes" / volume["name"]
                source.mkdir(parents=True)
                for name, content in self._projected(projected, pod):
                    (source / name).write_text(content)
                    (source / name).chmod(projected["defaultMode"])
                    os.chown(source / name, 0, group or 0)
            case _:
                raise AssertionError(f"no such volume here: {volume}")
        if group is not None:
            os.chown(source, 0, group)
        return source

    def _projected(self, projected: Document, pod: Document) -> Iterator[tuple[str, str]]:
        for each in projected["sources"]:
            match each:
                case {"serviceAccountToken": token}:
                    yield token["path"], self.token(pod)
                case {"configMap": {"items": items}}:
                    for item in items:
                        yield item["path"], self._authority.read_text()
                case {"downwardAPI": {"items": items}}:
                    for item in items:
                        yield item["path"], _field(pod, item["fieldRef"]["fieldPath"], "")
                case _:
                    raise AssertionError(f"no such source here: {each}")

    def _environment(
        self, container: Document, pod: Document, machine: Machine
    ) -> Mapping[str, str]:
        found: dict[str, str] = {}
        for variable in container.get("env", ()):
            match variable:
                case {"valueFrom": {"configMapKeyRef": {"name": name, "key": key, **more}}}:
                    namespace = pod["metadata"]["namespace"]
                    path = f"/api/v1/namespaces/{namespace}/configmaps/{name}"
                    data = _decoded(self._api.get(path))["data"]
                    if key in data or not more.get("optional"):
                        found[variable["name"]] = data[key]
                case {"valueFrom": {"fieldRef": {"fieldPath": path}}}:
                    found[variable["name"]] = _field(pod, path, machine.host.address)
                case {"value": value}:
                    found[variable["name"]] = _expand(value, found)
                case _:
                    raise AssertionError(f"no such variable here: {variable}")
        return found


def claims(token: str) -> Document:
    """What a token says, unchecked."""
    body = token.split(".")[1]
    return _decoded(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))


def _containers(pod: Document) -> list[Document]:
    return [*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]]


def _mounts(container: Document, volumes: Mapping[str, Path]) -> tuple[Mount, ...]:
    found = [
        Mount(volumes[each["name"]], each["mountPath"], each.get("readOnly", False))
        for each in container.get("volumeMounts", ())
    ]
    return tuple(sorted(found, key=lambda each: each.target))


def _rights(spec: Document, container: Document) -> Rights:
    pod, own = spec.get("securityContext", {}), container["securityContext"]
    assert own["allowPrivilegeEscalation"] is False
    assert own["capabilities"]["drop"] == ["ALL"]
    group = pod.get("fsGroup")
    return Rights(
        pod["runAsUser"],
        pod["runAsGroup"],
        () if group is None else (group,),
        tuple(own["capabilities"].get("add", ())),
        own["readOnlyRootFilesystem"],
    )


def _expand(text: str, environment: Mapping[str, str]) -> str:
    return _VARIABLE.sub(lambda found: environment.get(found[1], found[0]), text)


def _field(pod: Document, path: str, address: str) -> str:
    match path:
        case "spec.nodeName":
            return str(pod["spec"]["nodeName"])
        case "metadata.namespace":
            return str(pod["metadata"]["namespace"])
        case "status.hostIP":
            return address
        case _:
            raise AssertionError(f"no such field here: {path}")


def _decoded(body: bytes) -> Document:
    document: Document = msgspec.json.decode(body)
    return document
