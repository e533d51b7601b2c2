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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from calico_k8s.controller.kube import KubeApi
from calico_k8s.model.names import NodeName
from tests.cluster.sandbox import Container, Mount, Rights, Sandbox
from tests.etcd.servers import Host

Document = dict[str, Any]  # Any: what JSON can say
Workload = Literal["deployments", "statefulsets", "daemonsets"]

_VARIABLE = re.compile(r"\$\(([A-Za-z_][A-Za-z0-9_]*)\)")


class Machine(NamedTuple):
    """A node: its place in the network, and where its host paths are."""

    name: NodeName
    host: Host
    folder: Path


class Pod:
    """A pod whose containers run; ``kill`` and ``start`` work on all of them."""

    def __init__(self, name: str, node: NodeName, containers: Mapping[str, Container]) -> None:
        self.name = name
        self.node = node
        self.containers = containers
        self._probes: dict[str, Sequence[str]] = {}

    def __getitem__(self, container: str) -> Container:
        return self.containers[container]

    def start(self, startup: Mapping[str, Sequence[str]]) -> None:
        """Starts containers in their order; each is waited for that says how."""
        self._probes = dict(startup)
        for name, container in self.containers.items():
            container.start()
            if name in startup:
                container.wait_until(startup[name])

    def restart(self) -> None:
        """Ends and starts all."""
        self.stop()
        self.start(self._probes)

    def stop(self) -> None:
        """Ends all, the last first."""
        for container in reversed(tuple(self.containers.values())):
            container.stop()

    def kill(self) -> None:
        """Ends all as a power failure would."""
        for container in self.containers.values():
            container.kill()


class Kubelet:
    """Runs pods; ``programs`` are folders that stand in for images."""

    def __init__(
        self, api: KubeApi, authority: Path, folder: Path, programs: Sequence[Path] = ()
    ) -> None:
        self._api = api
        self._authority = authority
        self._folder = folder
        self._programs = tuple(programs)
        self._pods: list[Pod] = []

    @property
    def containers(self) -> Iterator[Container]:
        """Every container that was ever started."""
        return (container for pod in self._pods for container in pod.containers.values())

    def run(
        self, kind: Workload, namespace: str, name: str, machine: Machine, *, wait: bool = True
    ) -> Pod:
        """A pod of a workload on a node, running; without ``wait`` nobody waits for its start."""
        pod, document = self.make(kind, namespace, name, machine)
        spec = document["spec"]
        startup = {
            each["name"]: each["startupProbe"]["exec"]["command"]
            for each in spec.get("initContainers", ())
            if wait and "exec" in each.get("startupProbe", {})
        }
        pod.start(startup)
        return pod

    def make(
        self, kind: Workload, namespace: str, name: str, machine: Machine
    ) -> tuple[Pod, Document]:
        """A pod whose object is in the API server, not started."""
        workload = _decoded(self._api.get(f"/apis/apps/v1/namespaces/{namespace}/{kind}/{name}"))
        template = workload["spec"]["template"]
        document = self._create(namespace, f"{name}-{machine.name}", template, machine)
        spec = document["spec"]
        folder = self._folder / document["metadata"]["name"]
        volumes = {
            volume["name"]: self._volume(volume, document, folder, machine)
            for volume in spec.get("volumes", ())
        }
        containers = {}
        for each in (*spec.get("initContainers", ()), *spec["containers"]):
            sandbox = Sandbox(
                machine.host,
                _mounts(each, volumes),
                _rights(spec, each),
                {**self._environment(each, document, machine)},
                folder / each["name"],
                self._programs,
            )
            command = each.get("command") or ["calico-k8s"]
            command = [*command, *each.get("args", ())]
            expanded = [_expand(word, sandbox.environment) for word in command]
            containers[each["name"]] = Container(f"{name}/{each['name']}", sandbox, expanded)
        pod = Pod(document["metadata"]["name"], machine.name, containers)
        self._pods.append(pod)
        return pod, document

    def token(self, pod: Document, audience: str | None = None) -> str:
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
        if audience is not None:
            spec["audiences"] = [audience]
        namespace, account = pod["metadata"]["namespace"], pod["spec"]["serviceAccountName"]
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        return str(_decoded(self._api.create(path, {"spec": spec}))["status"]["token"])

    def kill_all(self) -> None:
        """Ends everything."""
        for pod in self._pods:
            pod.kill()

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
                case {"valueFrom": {"configMapKeyRef": {"name": name, "key": key}}}:
                    namespace = pod["metadata"]["namespace"]
                    path = f"/api/v1/namespaces/{namespace}/configmaps/{name}"
                    found[variable["name"]] = _decoded(self._api.get(path))["data"][key]
                case {"valueFrom": {"fieldRef": {"fieldPath": path}}}:
                    found[variable["name"]] = _field(pod, path, machine.host.address)
                case {"value": value}:
                    found[variable["name"]] = _expand(value, found)
                case _:
                    raise AssertionError(f"no such variable here: {variable}")
        return found


@contextmanager
def kubelet(
    api: KubeApi, authority: Path, folder: Path, programs: Sequence[Path] = ()
) -> Iterator[Kubelet]:
    """One that ends all it has started."""
    folder.mkdir()
    running = Kubelet(api, authority, folder, programs)
    try:
        yield running
    finally:
        running.kill_all()


def claims(token: str) -> Document:
    """What a token says, unchecked."""
    body = token.split(".")[1]
    return _decoded(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))


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
