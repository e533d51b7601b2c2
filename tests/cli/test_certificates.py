"""``signer`` and ``certificate``: what they refuse, and what a probe sees."""

import datetime as dt
import subprocess
import sys
from pathlib import Path

import pytest

from calico_k8s.certificates import files
from calico_k8s.certificates.authority import (
    Authority,
    Subject,
    certificate_pem,
    key_pem,
    new_key,
)
from calico_k8s.certificates.checks import mark_looked_at
from tests.cli.program import run

SIGNER = ["signer", "--directory", "/nonexistent", "--datastore"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["certificate", "felix", "--directory", "d"], "give --node NAME"),
        (["certificate", "etcd", "--directory", "d", "--node", "n"], "give --address ADDRESS"),
        (["certificate", "etcd", "--directory", "d", "--address", "x"], "'x'"),
        (["certificate", "nobody", "--directory", "d"], "'nobody' is not one of"),
        ([*SIGNER, "sqlite:///tmp/x.db"], "takes no certificates: give etcd://HOST:2379"),
        ([*SIGNER, "nothing"], "'nothing' is no datastore"),
        ([*SIGNER, "etcd://h:1", "--members", "10.0.0.1,10.0.0"], "'10.0.0'"),
    ],
)
def test_wrong_use_gets_one_sentence_with_the_way_out(arguments: list[str], said: str) -> None:
    done = run(*arguments)
    assert done.code == 2
    assert said in done.err
    assert "Traceback" not in done.err


def test_a_probe_says_what_is_wrong_and_asks_nobody(tmp_path: Path) -> None:
    check = ["certificate", "felix", "--directory", str(tmp_path), "--check"]
    assert "holds no certificate" in run(*check).out
    now, key = dt.datetime.now(dt.UTC), new_key()
    authority = Authority.make(now)

    def write(begun: dt.datetime, valid_for_s: int, kept: bytes) -> None:
        lasts = dt.timedelta(seconds=valid_for_s)
        signed = authority.sign(Subject("node-n"), key.public_key(), begun, lasts)
        held = files.Material(authority.certificate_pem, certificate_pem(signed), kept)
        files.write(tmp_path, held)

    write(now - dt.timedelta(seconds=4.5), 5, key_pem(key))
    assert "ends at" in run(*check).out
    write(now, 3600, key_pem(key))
    assert "has looked at it yet" in run(*check).out
    mark_looked_at(tmp_path)
    done = run(*check)
    assert (done.code, done.out) == (0, "the certificate is there, and lasts\n")
    write(now, 3600, key_pem(new_key()))
    done = run(*check)
    assert done.code == 1
    assert "does not fit its key" in done.out


def test_a_probe_is_light() -> None:
    code = (
        "import sys; from calico_k8s.certificates import checks, files;"
        "sys.exit(bool({'kubernetes', 'grpc', 'urllib3'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
