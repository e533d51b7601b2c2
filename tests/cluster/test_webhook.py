"""What is refused at `kubectl apply`, by a real API server that asks a real controller."""

import base64
import datetime as dt
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing
from http.client import HTTPSConnection
from typing import Any

import msgspec
import pytest
import yaml
from structlog.testing import capture_logs

from calico_k8s.admission.keeper import CONFIGURATION, NAME, Keeper, Place
from calico_k8s.admission.material import VALID_FOR, Material
from calico_k8s.admission.server import (
    BODY_BYTES_MAX,
    CONNECTIONS_MAX,
    WebhookServer,
    serving,
)
from calico_k8s.certificates.authority import load_certificates
from calico_k8s.controller.kube import connect
from calico_k8s.controller.metrics import Metrics
from calico_k8s.datastore.factory import open_store
from calico_k8s.errors import KubeConflict
from calico_k8s.model.status import WEBHOOK_PATH, WebhookStatus
from calico_k8s.translate.namespaces import TranslateSettings
from tests.cluster.binaries import kube_program
from tests.cluster.controllers import CommandController, wait_for
from tests.cluster.installation import ROOT
from tests.cluster.objects import KubeObjects
from tests.cluster.servers import ApiServer
from tests.etcd.servers import free_ports

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

SECRET = f"/api/v1/namespaces/kube-system/secrets/{NAME}"
Document = dict[str, Any]  # Any: what JSON can say


def component() -> dict[str, Document]:
    """What the component adds, by kind."""
    text = (ROOT / "manifests" / "webhook" / "webhook.yaml").read_text()
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


class Door:
    """The server, with the webhook installed on loopback, and the controllers that answer."""

    def __init__(
        self,
        kube: ApiServer,
        objects: KubeObjects,
        controllers: list[CommandController],
        port: int,
        installed: str,
    ) -> None:
        self.kube = kube
        self.installed = installed
        self.port = port
        self.api = objects.api
        self.controllers = controllers

    def kubectl(self, words: str, document: Document | None = None) -> tuple[int, str]:
        """Exit code, and all that it says."""
        stdin = msgspec.json.encode(document).decode() if document else ""
        command = [str(kube_program("kubectl")), f"--kubeconfig={self.kube.kubeconfig()}"]
        done = subprocess.run(
            [*command, *words.split()], input=stdin, capture_output=True, text=True, check=False
        )
        return done.returncode, (done.stdout + done.stderr).strip()

    def refuses(self) -> bool:
        """Whether it refuses what is to be refused."""
        return "did you mean" in self.tries(pod(BAD))

    def tries(self, document: Document) -> str:
        """What a dry run says."""
        return self.kubectl("apply --dry-run=server -f -", document)[1]


@pytest.fixture(scope="module")
def door(
    kube: ApiServer, objects: KubeObjects, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Door]:
    (port,) = free_ports(1)
    made = component()
    made["Secret"]["metadata"]["namespace"] = "kube-system"
    for hook in made["ValidatingWebhookConfiguration"]["webhooks"]:
        hook["clientConfig"] = {"url": f"https://127.0.0.1:{port}/review"}
    made.pop("Service")  # nothing leads to services here
    installed = yaml.safe_dump_all(made.values())
    kube.kubectl("apply", "-f", "-", stdin=installed)
    folder = tmp_path_factory.mktemp("door")
    options = ("--webhook-port", str(port), "--webhook-names", "127.0.0.1")
    url = kube.etcd.url("/door")
    controller = CommandController(kube.kubeconfig(), url, folder, *options)
    controller.start()
    objects.namespace("door")
    found = Door(kube, objects, [controller], port, installed)
    try:
        wait_for(found.refuses, lambda: controller.log)
        yield found
    finally:
        controller.kill()
        objects.api.delete(CONFIGURATION)
        objects.api.delete(SECRET)


BAD = "allow tcp from lable access=backend to port 4001"
GOOD = BAD.replace("lable", "label")
REFUSAL = """\
the policy does not parse, so nothing reaches the pod: expected 'label', 'port', 'namespace', \
'cidr' or 'selector', found 'lable'; did you mean 'label'?
annotation policy, line 1, column 16:
  allow tcp from lable access=backend to port 4001
                 ^^^^^"""


def pod(policy: str, name: str = "tried") -> Document:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "door", "annotations": {"policy": policy}},
        "spec": {"containers": [{"name": "main", "image": "none"}]},
    }


def workload(kind: str, policy: str) -> Document:
    made = pod(policy)
    labels = {"app": "x"}
    template: Document = {"metadata": {**made["metadata"], "labels": labels}, "spec": made["spec"]}
    del template["metadata"]["name"], template["metadata"]["namespace"]
    spec: Document = {"template": template}
    match kind:
        case "Job" | "CronJob":
            made["spec"]["restartPolicy"] = "Never"
            if kind == "CronJob":
                spec = {"schedule": "* * * * *", "jobTemplate": {"spec": spec}}
        case "ReplicationController":
            spec["selector"] = labels
        case _:
            spec["selector"] = {"matchLabels": labels}
            if kind == "StatefulSet":
                spec["serviceName"] = "x"
    groups = {"Job": "batch/v1", "CronJob": "batch/v1", "ReplicationController": "v1"}
    metadata = {"name": "tried", "namespace": "door"}
    version = groups.get(kind, "apps/v1")
    return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}


KINDS = (
    *("Deployment", "ReplicaSet", "StatefulSet", "DaemonSet"),
    *("Job", "CronJob"),
)


@pytest.mark.parametrize("kind", ["Pod", *KINDS])
def test_a_bad_annotation_is_refused_with_a_caret_under_the_wrong_word(
    door: Door, kind: str
) -> None:
    said = door.tries(pod(BAD) if kind == "Pod" else workload(kind, BAD))
    assert 'admission webhook "annotations.calico-k8s.io" denied the request' in said
    assert said.endswith(REFUSAL), said


def test_a_good_annotation_is_let_in(door: Door) -> None:
    assert "created" in door.tries(pod(GOOD))
    assert "created" in door.tries(workload("CronJob", GOOD))


def flag(kind: str, value: str) -> Document:
    labels = {"projectcalico-policy": value}
    made: Document = {
        "apiVersion": "v1",
        "kind": kind,
        "metadata": {"name": "tried", "labels": labels},
    }
    if kind == "Service":
        made["metadata"]["namespace"] = "door"
        made["spec"] = {"selector": {"a": "b"}, "ports": [{"port": 80}]}
    return made


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (flag("Namespace", "close"), "close"),
        (flag("Service", "opne"), "opne"),
        (
            {
                "apiVersion": "networking.k8s.io/v1",
                "kind": "NetworkPolicy",
                "metadata": {"name": "tried", "namespace": "door"},
                "spec": {"podSelector": {}, "ingress": [{"ports": [{"port": 80}]}]},
            },
            "",
        ),
    ],
)
def test_a_bad_flag_is_refused_and_a_good_policy_is_not(
    door: Door, document: Document, words: str
) -> None:
    said = door.tries(document)
    assert ("denied the request" in said) is bool(words), said
    assert words in said


def test_where_nobody_answers_all_is_let_in_and_what_was_bad_then_can_be_changed_otherwise(
    door: Door,
) -> None:
    for controller in door.controllers:
        controller.kill()
    assert "created" in door.kubectl("apply -f -", pod(BAD, "old"))[1], "nobody is there to refuse"
    for controller in door.controllers:
        controller.start()
    wait_for(door.refuses, lambda: door.controllers[0].log)
    code, said = door.kubectl("-n door label pod old touched=yes")
    assert code == 0, said
    assert "Warning: the policy does not parse" in said
    code, said = door.kubectl("-n door annotate --overwrite pod old policy=alow")
    assert (code, "did you mean 'allow'" in said) == (1, True), said
    document = pod(GOOD, "old")
    assert door.kubectl("apply -f -", document)[0] == 0
    refused = 'calico_k8s_controller_webhook_reviews_total{result="refused"}'
    assert door.controllers[0].metric(refused) >= 1


def test_applying_the_component_again_leaves_what_the_controller_wrote(door: Door) -> None:
    before = [msgspec.json.decode(door.api.get(path)) for path in (SECRET, CONFIGURATION)]
    door.kube.kubectl("apply", "-f", "-", stdin=door.installed)
    secret, configuration = (msgspec.json.decode(door.api.get(p)) for p in (SECRET, CONFIGURATION))
    assert secret["data"].keys() == {"ca.crt", "tls.crt", "tls.key"}
    assert [secret["data"], configuration["webhooks"]] == [before[0]["data"], before[1]["webhooks"]]
    assert configuration["webhooks"][0]["clientConfig"]["caBundle"] == secret["data"]["ca.crt"]


def test_the_datastore_says_until_when_the_certificate_holds(door: Door) -> None:
    with closing(open_store(door.kube.etcd.url("/door"))) as store:
        wait_for(lambda: store.get(WEBHOOK_PATH) is not None, lambda: door.controllers[0].log)
        entry = store.get(WEBHOOK_PATH)
    assert entry is not None
    told = msgspec.json.decode(entry.value, type=WebhookStatus)
    secret = msgspec.json.decode(door.api.get(SECRET))
    (certificate,) = load_certificates(base64.b64decode(secret["data"]["tls.crt"]))
    assert told == WebhookStatus(certificate.not_valid_after_utc.timestamp())


class Replica:
    """Instead of a controller: whether it leads, and what it was given to tell."""

    def __init__(self, *, is_leading: bool) -> None:
        self.is_leading = is_leading
        self.told: list[WebhookStatus] = []

    def tell(self, path: str, value: bytes | None) -> None:
        assert (path, value is not None) == (WEBHOOK_PATH, True)
        self.told.append(msgspec.json.decode(value or b"", type=WebhookStatus))


LEADER, STANDBY = Replica(is_leading=True), Replica(is_leading=False)


class Served:
    """Instead of a server: what it was given."""

    def __init__(self) -> None:
        self.materials: list[Material] = []

    def serve_by(self, material: Material) -> None:
        self.materials.append(material)


DAY = dt.timedelta(days=1)


@pytest.fixture
def alone(door: Door) -> Iterator[Door]:
    """Without the controller, which would keep the certificate, too."""
    (controller,) = door.controllers
    controller.kill()
    yield door
    controller.start()
    wait_for(door.refuses, lambda: controller.log)


def test_a_certificate_is_renewed_in_time_and_the_old_one_believed_meanwhile(alone: Door) -> None:
    """Two replicas whose certificate was made two thirds of its life ago; the clock is the test's."""
    now = dt.datetime.now(dt.UTC)
    place, metrics = Place("kube-system", ("127.0.0.1",)), Metrics()
    first, second, other = Served(), Served(), Served()
    leader = Keeper(alone.api, place, first, LEADER, metrics)
    standby = Keeper(alone.api, place, second, STANDBY, metrics)
    server = WebhookServer(alone.port, TranslateSettings, metrics)
    with serving(server):
        for keeper in (leader, standby):
            keeper.keep(now - 61 * DAY)
        (old,) = first.materials
        assert second.materials == [old], "both serve by the same"
        leader.keep(now - 2 * DAY)
        assert first.materials == [old], "not yet"
        leader.keep(now)
        assert LEADER.told[-1] == WebhookStatus((now + VALID_FOR).timestamp() // 1)
        _, new = first.materials
        for material in (old, new, old):
            server.serve_by(material)
            wait_for(alone.refuses)
        standby.keep(now)
        assert second.materials == [old, new]
    leader.keep(now + 400 * DAY)
    (authority,) = load_certificates(first.materials[2].authorities)
    assert authority.not_valid_after_utc > now + 400 * DAY, "an expired one is believed no longer"
    with capture_logs() as said:
        Keeper(alone.api, place, other, STANDBY, metrics).keep(now + 1000 * DAY)
    assert "the webhook's certificate has expired, 20" in said[0]["problem"]
    (renewed,) = other.materials
    assert renewed != first.materials[2], "a standby replaces what is of no use"


def test_of_two_that_make_one_at_once_the_one_that_is_kept_is_believed(alone: Door) -> None:
    """Nobody leads, as while an older version's leader is there."""
    place, metrics = Place("kube-system", ("127.0.0.1",)), Metrics()
    secret = msgspec.json.decode(alone.api.get(SECRET))
    now = dt.datetime.now(dt.UTC)
    late = Keeper(alone.api, place, Served(), STANDBY, metrics)
    get, kept = alone.api.get, Served()

    def get_while_another_is_quicker(path: str) -> bytes:
        read = get(path)
        if path == CONFIGURATION and not kept.materials:
            Keeper(quick, place, kept, STANDBY, metrics).keep(now)
        return read

    del secret["data"]
    alone.api.replace(SECRET, secret)
    with closing(connect(str(alone.kube.kubeconfig()))) as quick, pytest.MonkeyPatch.context() as m:
        m.setattr(alone.api, "get", get_while_another_is_quicker)
        with pytest.raises(KubeConflict):
            late.keep(now)
    late.keep(now)
    (material,) = kept.materials
    hooks = msgspec.json.decode(alone.api.get(CONFIGURATION))["webhooks"]
    assert base64.b64decode(hooks[0]["clientConfig"]["caBundle"]) == material.authorities


def post(door: Door, body: bytes, length: int | None = None, path: str = "/review") -> int:
    """The status of an answer to whoever asks like that."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with closing(HTTPSConnection("127.0.0.1", door.port, timeout=10, context=context)) as asker:
        asker.request("POST", path, body, {"Content-Length": str(length or len(body))})
        return asker.getresponse().status


def test_whoever_asks_otherwise_is_turned_away_and_holds_nobody_up(door: Door) -> None:
    assert post(door, b"{}") == 400
    assert post(door, b"{}", path="/other") == 404
    assert post(door, b"", BODY_BYTES_MAX + 1) == 413
    with ExitStack() as silent:
        for _ in range(CONNECTIONS_MAX // 2):
            silent.enter_context(socket.create_connection(("127.0.0.1", door.port)))
        assert "did you mean" in door.tries(pod(BAD))
