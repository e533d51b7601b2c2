"""What a datastore's URL means.

In come a URL and the names of certificate files, out goes a location.  Nothing is opened here.

===========================================  ======================================================
URL                                          store
===========================================  ======================================================
``etcd://h1:2379,h2:2379[/calico]``          etcd v3; each endpoint is tried in turn; the path is
                                             where our keys live in it (``/calico`` unless given)
``sqlite:///var/lib/calico-k8s/state.db``    a file, for the processes of one machine
===========================================  ======================================================
"""

import enum
import ipaddress
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from calico_k8s.errors import InputError

DEFAULT_ROOT = "/calico"
DEFAULT_ETCD_PORT = 2379


class Access(enum.Enum):
    """What a store is opened for."""

    READ_WRITE = enum.auto()
    READ_ONLY = enum.auto()


class TlsFiles(msgspec.Struct, frozen=True):
    """PEM files: the authority that signed etcd's certificate, and our own certificate and key."""

    ca: Path
    cert: Path
    key: Path


class EtcdLocation(msgspec.Struct, frozen=True):
    """etcd's client endpoints as ``host:port``, and the path below which our keys live."""

    endpoints: tuple[str, ...]
    root: str


class LocalLocation(msgspec.Struct, frozen=True):
    """The path of an SQLite file."""

    path: Path


Location = EtcdLocation | LocalLocation


def parse_url(url: str) -> Location:
    """The store that a URL means, as the table above says.

    Raises: InputError.
    """
    scheme, separator, _ = url.partition("://")
    if separator and scheme == "etcd":
        return _parse_etcd_url(url)
    if separator and scheme == "sqlite":
        return _parse_sqlite_url(url)
    raise InputError(
        f"{url!r} is no datastore: write etcd://HOST:2379[,HOST:2379...] or sqlite:///PATH"
    )


def parse_endpoints(text: str) -> tuple[str, ...]:
    """Endpoints with commas between.  Raises: InputError."""
    return tuple(_parse_endpoint(text, part.strip()) for part in text.split(",") if part.strip())


def _parse_etcd_url(url: str) -> EtcdLocation:
    hosts, slash, path = url.removeprefix("etcd://").partition("/")
    endpoints = tuple(_parse_endpoint(url, text) for text in hosts.split(","))
    root = "/" + path.strip("/") if slash and path.strip("/") else DEFAULT_ROOT
    if "?" in root or "#" in root or "//" in root:
        raise InputError(f"{url!r}: the part after the hosts is a plain path, such as /calico")
    return EtcdLocation(endpoints, root)


def _parse_endpoint(url: str, text: str) -> str:
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port or DEFAULT_ETCD_PORT
    except ValueError:
        host, port = None, 0
    if not host or "@" in text:
        raise InputError(
            f"{url!r}: {text!r} is no endpoint: write HOST:PORT, IPv6 as [::1]:2379,"
            " several with commas between"
        )
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _parse_sqlite_url(url: str) -> LocalLocation:
    path = url.removeprefix("sqlite://")
    if not path.startswith("/") or path.endswith("/"):
        raise InputError(f"{url!r}: write sqlite:/// and the absolute path of a file")
    # SQLAlchemy's users write four slashes; "//tmp/x" would be a host to SQLite.
    return LocalLocation(Path("/" + path.lstrip("/")))


def require_tls_beyond_loopback(endpoints: Iterable[str], tls: TlsFiles | None) -> None:
    """Holds that policy crosses no network unprotected.

    Raises: InputError for an endpoint that is not on this machine, without certificates.
    """
    if tls is not None:
        return
    for endpoint in endpoints:
        if not _is_loopback(endpoint.rpartition(":")[0].strip("[]")):
            raise InputError(
                f"etcd at {endpoint} is beyond this machine, so it takes certificates:"
                " give --etcd-ca, --etcd-cert and --etcd-key"
            )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
