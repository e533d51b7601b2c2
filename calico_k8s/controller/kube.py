"""The door to a Kubernetes API server: requests, streams, and what its errors mean.

In come paths, queries and documents; out go bytes, or lines as they come.  What the bytes say is
never known here.  The ``kubernetes`` package finds the server, its authority and our credentials,
renews them, and carries what is asked.

Nothing is asked again here: whoever calls knows whether that is safe, and when.
"""

import contextlib
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
import urllib3
import yaml

from calico_k8s.controller.plain_kubernetes import (
    KUBE_CONFIG_DEFAULT_LOCATION,
    SERVICE_TOKEN_FILENAME,
    ApiException,
    ConfigException,
    Configuration,
    RESTClientObject,
    load_incluster_config,
    load_kube_config,
)
from calico_k8s.errors import (
    InputError,
    KubeConflict,
    KubeError,
    KubeExpired,
    KubeForbidden,
    KubeNotFound,
    KubeUnavailable,
)

CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 30.0
"""For silence in the middle of an answer; a page of 500 pods takes 0.1 s."""

DEAD_AFTER_S = 30
"""A server whose machine has gone without a word is given up after this long."""
_KEEPALIVE_S = 10
_CONNECTIONS_MAX = 32  # a watch of each kind, and whatever else is asked meanwhile

_SOCKET_OPTIONS = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_S),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_S),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, DEAD_AFTER_S // _KEEPALIVE_S - 1),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_AFTER_S * 1000),
]

_ERROR_BY_STATUS = {
    401: KubeForbidden,
    403: KubeForbidden,
    404: KubeNotFound,
    409: KubeConflict,
    410: KubeExpired,
    429: KubeUnavailable,
}

# ApiException is what the client makes of a failed TLS handshake; the others come when it renews
# credentials.  http.client's errors arrive as urllib3's.
_LOST = (urllib3.exceptions.HTTPError, ApiException, ConfigException, OSError)

# What the client comes upon in a file of another shape than it expects.
_NO_KUBECONFIG = (yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError)

_APPLY = "APPLY"
"""A PATCH by its content type."""
_CONTENT_TYPES = {
    "PATCH": "application/merge-patch+json",
    _APPLY: "application/apply-patch+yaml",  # JSON is YAML
}

_CHUNK_BYTES = 65536
_NAMESPACE_FILE = Path(SERVICE_TOKEN_FILENAME).parent / "namespace"

Document = Mapping[str, Any]  # Any: what JSON can say
Query = Mapping[str, str | int]


class Status(msgspec.Struct, frozen=True):
    """``v1/Status``: what the API server says of a request, or of a watch, that failed."""

    message: str = ""
    code: int = 0


class KubeApi:
    """One API server, asked by any number of threads."""

    def __init__(self, configuration: Configuration) -> None:
        configuration.retries = False
        configuration.socket_options = _SOCKET_OPTIONS
        configuration.connection_pool_maxsize = _CONNECTIONS_MAX
        self._configuration = configuration
        self._transport = RESTClientObject(configuration)

    @property
    def url(self) -> str:
        """Where the server is."""
        return str(self._configuration.host)

    def get(self, path: str, query: Query | None = None) -> bytes:
        """What is there now: no cache between the API server and etcd answers this.

        Raises: KubeError, each method of this class.
        """
        return self._ask("GET", path, query)

    def create(self, path: str, document: Document) -> bytes:
        """Makes an object; the path is of the collection.  Raises: KubeConflict if it is there."""
        return self._ask("POST", path, document=document)

    def replace(self, path: str, document: Document) -> bytes:
        """Writes an object.  Raises: KubeConflict if its resourceVersion is not the newest."""
        return self._ask("PUT", path, document=document)

    def merge(self, path: str, document: Document) -> bytes:
        """Changes the fields of an object that the document has.  Source: RFC 7386."""
        return self._ask("PATCH", path, document=document)

    def apply(self, path: str, document: Document, manager: str) -> bytes:
        """Makes the fields that the document has the manager's; what others set stays.

        Fields that the manager had and the document has not go.  Source: server-side apply.
        """
        return self._ask(_APPLY, path, {"fieldManager": manager, "force": "true"}, document)

    def delete(self, path: str, options: Document | None = None) -> bytes:
        """Deletes an object, or all of a collection."""
        return self._ask("DELETE", path, document=options)

    def follow(self, path: str, query: Query, silence_s: float) -> "Stream":
        """An answer that goes on; after ``silence_s`` seconds without a byte it counts as lost."""
        return Stream(self._open("GET", path, query, None, silence_s), self.url)

    def close(self) -> None:
        """Gives the connections back; streams are closed by themselves."""
        self._transport.close()

    def _ask(
        self, method: str, path: str, query: Query | None = None, document: Document | None = None
    ) -> bytes:
        response = self._open(method, path, query or {}, document, ANSWER_TIMEOUT_S)
        try:
            return bytes(response.data)
        except _LOST as error:
            raise _lost(error, self.url) from None

    def _open(
        self, method: str, path: str, query: Query, document: Document | None, silence_s: float
    ) -> urllib3.BaseHTTPResponse:
        headers = {"Accept": "application/json", "User-Agent": "calico-k8s"}
        if document is not None:
            headers["Content-Type"] = _CONTENT_TYPES.get(method, "application/json")
        asked = f"?{urlencode(query, quote_via=quote)}" if query else ""
        try:
            token = self._configuration.get_api_key_with_prefix("BearerToken", "authorization")
            if token:
                headers["Authorization"] = token
            answer = self._transport.request(  # type: ignore[no-untyped-call]  # untyped
                "PATCH" if method == _APPLY else method,
                f"{self.url}{path}{asked}",
                headers,
                document,
                _request_timeout=(CONNECT_TIMEOUT_S, silence_s),
            )
            response: urllib3.BaseHTTPResponse = answer.response
            if response.status < 400:
                return response
            body = bytes(response.data)
        except _LOST as error:
            raise _lost(error, self.url) from None
        raise status_error(response.status, body, f"{method} {path}")


class Stream:
    """The lines of an answer that goes on; belongs to one thread, except ``close``."""

    def __init__(self, response: urllib3.BaseHTTPResponse, where: str) -> None:
        self._response = response
        self._where = where

    def __iter__(self) -> Iterator[bytes]:
        """Each line when it is whole, until the server ends.  Raises: KubeUnavailable."""
        begun: list[bytes] = []
        try:
            for chunk in self._response.stream(_CHUNK_BYTES):
                *lines, rest = chunk.split(b"\n")
                for line in lines:
                    yield b"".join((*begun, line))
                    begun = []
                begun.append(rest)
        except _LOST as error:
            raise _lost(error, self._where) from None
        finally:
            self._response.close()

    def close(self) -> None:
        """Ends the iteration as if the server had, from any thread."""
        # Closing a socket wakes nobody who reads from it; shutting it down does.  It may be closed.
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            self._response.shutdown()


def connect(kubeconfig: str | None = None, context: str | None = None) -> KubeApi:
    """The API server that a kubeconfig names; no server is contacted yet.

    None is the pod's own service account where this runs in a pod, else what kubectl would take:
    ``$KUBECONFIG`` or ``~/.kube/config``; an empty text is kubectl's choice everywhere.

    Raises: InputError.
    """
    configuration = Configuration()
    try:
        if kubeconfig is None and context is None and is_in_cluster():
            load_incluster_config(configuration)  # type: ignore[no-untyped-call]  # untyped
        else:
            load = load_kube_config
            load(kubeconfig or None, context, configuration, persist_config=False)  # type: ignore[no-untyped-call]  # untyped
    except (ConfigException, OSError, *_NO_KUBECONFIG) as error:
        where = kubeconfig or KUBE_CONFIG_DEFAULT_LOCATION
        raise InputError(
            f"no API server is named by '{where}' ({_why_none(error, where)}): give --kubeconfig"
            " PATH and, if the file holds several, --context NAME"
        ) from None
    return KubeApi(configuration)


def _why_none(error: Exception, where: str) -> str:
    """In a person's words: those of the package and of Python tell of their own code."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    paths = where.split(os.pathsep)  # as $KUBECONFIG may have several
    if not any(Path(path).expanduser().exists() for path in paths):
        return "there is no such file"
    if isinstance(error, _NO_KUBECONFIG):
        return "it is no kubeconfig"
    return str(error).rstrip(".")


def is_in_cluster() -> bool:
    """Whether this runs in a pod that has a service account."""
    return bool(os.environ.get("KUBERNETES_SERVICE_HOST")) and Path(SERVICE_TOKEN_FILENAME).exists()


def own_namespace() -> str | None:
    """The namespace of the pod that this runs in; None outside."""
    try:
        return _NAMESPACE_FILE.read_text().strip() if is_in_cluster() else None
    except OSError:
        return None


def status_error(status: int, body: bytes, what: str) -> KubeError:
    """What a failed request, or an error inside a watch, means."""
    try:
        said = msgspec.json.decode(body, type=Status).message
    except (msgspec.DecodeError, UnicodeDecodeError):
        said = body[:200].decode(errors="replace")
    default = KubeUnavailable if status >= 500 else KubeError
    return _ERROR_BY_STATUS.get(status, default)(f"{what}: the API server says {status}: {said}")


def _lost(error: Exception, where: str) -> KubeUnavailable:
    reason = str(error.reason if isinstance(error, ApiException) else error)
    if reason.startswith("HTTP") and "): " in reason:  # the connection, which ``where`` names
        reason = reason.partition("): ")[2]
    return KubeUnavailable(f"the API server at {where} cannot be reached: {reason}")
