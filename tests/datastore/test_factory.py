"""Opening a store by its URL: what is refused before anything is touched."""

import subprocess
import sys
from pathlib import Path

import pytest

from calico_k8s.datastore.factory import open_store
from calico_k8s.datastore.location import TlsFiles
from calico_k8s.errors import InputError


def test_a_file_takes_no_certificates(tmp_path: Path) -> None:
    tls = TlsFiles(tmp_path, tmp_path, tmp_path)
    with pytest.raises(InputError, match="takes no TLS"):
        open_store(f"sqlite://{tmp_path}/state.db", tls)
    assert list(tmp_path.iterdir()) == []


def test_a_certificate_that_is_missing_or_none_is_named(tmp_path: Path) -> None:
    cert = tmp_path / "cert.pem"
    tls = TlsFiles(cert, cert, cert)
    with pytest.raises(InputError, match=f"cannot read {cert}: No such file"):
        open_store("etcd://10.0.0.1:2379", tls)
    cert.write_text("not a certificate")
    with pytest.raises(InputError, match=f"{cert} holds no PEM"):
        open_store("etcd://10.0.0.1:2379", tls)


def test_etcd_is_not_contacted_before_it_is_asked() -> None:
    open_store("etcd://127.0.0.1:1").close()


def test_a_file_is_opened_without_loading_etcds_client(tmp_path: Path) -> None:
    program = (
        "import sys; from calico_k8s.datastore.factory import open_store;"
        f"open_store('sqlite://{tmp_path}/state.db').close();"
        "print({'grpc', 'etcd3', 'google.protobuf'} & set(sys.modules))"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert said.stdout == b"set()\n"
