"""URLs, good and bad, and what a bad one is told."""

from pathlib import Path

import pytest

from calico_k8s.datastore.location import (
    EtcdLocation,
    LocalLocation,
    TlsFiles,
    parse_url,
    require_tls_beyond_loopback,
)
from calico_k8s.errors import InputError

TLS = TlsFiles(Path("ca"), Path("cert"), Path("key"))


@pytest.mark.parametrize(
    ("url", "endpoints", "root"),
    [
        ("etcd://h1:2379,h2:2380/calico", ("h1:2379", "h2:2380"), "/calico"),
        ("etcd://h1", ("h1:2379",), "/calico"),
        ("etcd://h1/", ("h1:2379",), "/calico"),
        ("etcd://10.0.0.1:2379/other", ("10.0.0.1:2379",), "/other"),
        ("etcd://10.0.0.1:2379/a/b/", ("10.0.0.1:2379",), "/a/b"),
        ("etcd://[::1]:2379,[fd00::2]", ("[::1]:2379", "[fd00::2]:2379"), "/calico"),
    ],
)
def test_an_etcd_url_names_endpoints_and_a_root(
    url: str, endpoints: tuple[str, ...], root: str
) -> None:
    assert parse_url(url) == EtcdLocation(endpoints, root)


@pytest.mark.parametrize("slashes", ["///", "////"])
def test_an_sqlite_url_names_a_file(slashes: str) -> None:
    """With four slashes as SQLAlchemy writes it, too: ``//var`` would be another path, or a host."""
    found = parse_url(f"sqlite:{slashes}var/lib/calico-k8s/state.db")
    assert found == LocalLocation(Path("/var/lib/calico-k8s/state.db"))


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("", "etcd://HOST:2379"),
        ("/var/lib/state.db", "sqlite:///PATH"),
        ("http://h1:2379", "etcd://HOST:2379"),
        ("postgres://h", "is no datastore"),
        ("etcd://", "'' is no endpoint"),
        ("etcd://h1,,h2", "'' is no endpoint"),
        ("etcd://h1:port", "'h1:port' is no endpoint"),
        ("etcd://h1:70000", "'h1:70000' is no endpoint"),
        ("etcd://user@h1", "'user@h1' is no endpoint"),
        ("etcd://::1:2379", r"\[::1\]:2379"),
        ("etcd://h1/calico?tls=1", "plain path"),
        ("sqlite://state.db", "absolute path"),
        ("sqlite:///", "absolute path"),
        ("sqlite:///var/lib/", "absolute path"),
    ],
)
def test_a_bad_url_is_told_what_would_be_right(url: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        parse_url(url)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.8.8", "[::1]"])
def test_etcd_on_this_machine_may_do_without_certificates(host: str) -> None:
    require_tls_beyond_loopback((f"{host}:2379",), None)


@pytest.mark.parametrize("host", ["10.0.0.1", "etcd.example", "[fd00::1]", "128.0.0.1"])
def test_etcd_beyond_this_machine_takes_certificates(host: str) -> None:
    endpoints = ("127.0.0.1:2379", f"{host}:2379")
    with pytest.raises(InputError, match="--etcd-ca"):
        require_tls_beyond_loopback(endpoints, None)
    require_tls_beyond_loopback(endpoints, TLS)
