"""What the door to the Kubernetes API takes along, and that nothing is missing where it is needed."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.program import ROOT

TOKEN_OF_THE_PAST = "e30.eyJleHAiOjF9.e30"
"""A JSON web token whose time ended in 1970: ``{}``, ``{"exp":1}``, ``{}``."""

KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: here
clusters: [{name: here, cluster: {server: "http://127.0.0.1:1"}}]
contexts: [{name: here, context: {cluster: here, user: me}}]
users:
- name: me
  user: USER
"""

CONTEXT_OF_NOTHING = b"current-context: a\ncontexts: [{name: a, context: 5}]"
NO_KUBECONFIGS = (
    b"some words",
    b"- a list",
    b"a: [",
    b"\xff\xfe",
    b"current-context: 5\ncontexts: 5",
    CONTEXT_OF_NOTHING,
)


def run(script: str, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def kubeconfig(folder: Path, user: str) -> str:
    path = folder / "config"
    path.write_text(KUBECONFIG.replace("USER", user))
    return str(path)


def test_a_connection_takes_no_models_along_and_leaves_the_package_as_it_was(
    tmp_path: Path,
) -> None:
    script = """
import sys
from calico_k8s.controller.kube import connect
assert connect(sys.argv[1]).url == "http://127.0.0.1:1"
taken = {name.partition(".")[0] for name in sys.modules}
assert not {"pydantic", "requests", "oauthlib", "kubernetes"} & taken, taken
import kubernetes
assert kubernetes.client.rest.RESTClientObject and kubernetes.client.CoreV1Api
assert kubernetes.config.kube_config.OAuth2Session.__module__.startswith("requests_oauthlib")
"""
    run(script, kubeconfig(tmp_path, '{token: "t"}'))


def test_credentials_of_openid_are_refreshed_by_the_real_thing(tmp_path: Path) -> None:
    # Its issuer is a server here, that knows where tokens are, and refuses to give any.
    script = """
import json, sys, threading
from http.server import BaseHTTPRequestHandler, HTTPServer
asked = []
class Issuer(BaseHTTPRequestHandler):
    def do_GET(self):
        asked.append(self.path)
        self.answer(200, {"token_endpoint": f"https://127.0.0.1:{server.server_port}/token"})
    def answer(self, status, body):
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())
    def log_message(self, *_):
        pass
server = HTTPServer(("127.0.0.1", 0), Issuer)
threading.Thread(target=server.serve_forever, daemon=True).start()
from pathlib import Path
path = Path(sys.argv[1])
path.write_text(path.read_text().replace("ISSUER", f"http://127.0.0.1:{server.server_port}"))
from calico_k8s.controller.kube import connect
from calico_k8s.errors import InputError
try:
    connect(str(path))
except InputError as error:
    assert "SSL" in str(error), error
else:
    raise AssertionError("refreshed from a server without TLS")
assert asked == ["/.well-known/openid-configuration"], asked
assert {"requests_oauthlib", "oauthlib.oauth2", "kubernetes.client.api_client"} <= sys.modules.keys()
"""
    user = (
        "{auth-provider: {name: oidc, config: {idp-issuer-url: ISSUER, client-id: c,"
        f' client-secret: s, id-token: "{TOKEN_OF_THE_PAST}", refresh-token: r}}}}}}'
    )
    run(script, kubeconfig(tmp_path, user))


def test_what_is_no_kubeconfig_is_said_in_a_sentence(tmp_path: Path) -> None:
    script = """
import sys
from calico_k8s.controller.kube import connect
from calico_k8s.errors import InputError
for file, told in zip(sys.argv[1::2], sys.argv[2::2]):
    try:
        connect(file)
    except InputError as error:
        assert f"is named by '{file}' ({told}): give --kubeconfig PATH" in str(error), error
    else:
        raise AssertionError("connected")
"""
    asked = [str(tmp_path / "none"), "there is no such file"]
    asked += [str(tmp_path), f"{tmp_path}: Is a directory"]
    for number, text in enumerate(NO_KUBECONFIGS):
        file = tmp_path / f"config-{number}"
        file.write_bytes(text)
        asked += [str(file), "it is no kubeconfig"]
    run(script, *asked)


@pytest.mark.parametrize("user", ['{token: "t"}', '{username: "u", password: "p"}'])
def test_a_kubeconfigs_credentials_are_sent(tmp_path: Path, user: str) -> None:
    script = """
import sys
from calico_k8s.controller.kube import connect
api = connect(sys.argv[1])
sent = []
api._transport.request = lambda *request, **_: sent.append(request) or 1 / 0
try:
    api.get("/x", {"a": "b c", "limit": 5})
except ZeroDivisionError:
    pass
method, url, headers, document = sent[0]
assert (method, url, document) == ("GET", "http://127.0.0.1:1/x?a=b%20c&limit=5", None), sent
assert headers["Authorization"].split()[0] == sys.argv[2], headers
"""
    run(script, kubeconfig(tmp_path, user), "Bearer" if "token" in user else "Basic")
