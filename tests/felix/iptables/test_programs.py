"""The iptables programs: what they say of a bad line, what their saved text gives back."""

import pytest

from calico_k8s.errors import IptablesError
from calico_k8s.felix.iptables.programs import (
    Backend,
    program_name,
    program_version,
    restore,
    save,
    saved_texts,
)
from calico_k8s.model.addresses import Version
from tests.namespaces import Namespace

HEAD = "*filter\n:cali-a - [0:0]\n"


@pytest.mark.parametrize(
    ("backend", "version", "expected"),
    [
        (Backend.LEGACY, 4, "iptables-legacy-restore"),
        (Backend.NFT, 6, "ip6tables-nft-restore"),
    ],
)
def test_a_programs_name_says_its_backend_and_family(
    backend: Backend, version: Version, expected: str
) -> None:
    assert program_name(backend, version, "restore") == expected


@pytest.mark.kernel
def test_a_program_tells_its_version(backend: Backend) -> None:
    assert (1, 8) < program_version(backend) < (2,)


def test_a_program_that_is_not_there_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(IptablesError, match="iptables-nft was not found"):
        program_version(Backend.NFT)


@pytest.mark.kernel
@pytest.mark.parametrize(
    "line",
    [
        "-A cali-a -p tcp --dprt 1 -j DROP",
        "-A cali-a -m set --match-set cali-absent src -j DROP",
        "-A cali-a -m nothing -j DROP",
        ":cali-a234567890123456789012345678 - [0:0]",
    ],
)
def test_a_refusal_shows_the_line_it_speaks_of(
    namespace: Namespace, backend: Backend, version: Version, line: str
) -> None:
    text = f"{HEAD}-A cali-a -j ACCEPT\n{line}\n-A cali-a -j DROP\nCOMMIT\n"
    with pytest.raises(IptablesError) as refusal:
        restore(backend, version, text)
    assert str(refusal.value).endswith(f": {line}")
    assert str(refusal.value).startswith(program_name(backend, version, "restore"))
    assert "\n" not in str(refusal.value)


@pytest.mark.kernel
def test_warnings_about_the_other_backend_are_no_part_of_an_error(namespace: Namespace) -> None:
    restore(Backend.LEGACY, 4, f"{HEAD}COMMIT\n")
    with pytest.raises(IptablesError) as refusal:
        restore(Backend.NFT, 4, f"{HEAD}-A cali-a -x\nCOMMIT\n")
    assert "Warning" not in str(refusal.value)


def test_a_missing_program_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(IptablesError, match=r"iptables-nft-save was not found: install iptables"):
        save(Backend.NFT, 4)


@pytest.mark.kernel
def test_saved_rules_of_ours_can_be_deleted_by_their_text(
    namespace: Namespace, backend: Backend, version: Version
) -> None:
    ours = '-A FORWARD ! -i v0 -p tcp -m tcp --dport 1:9 -j cali-a -m comment --comment "cali:abcd-_12"'
    others = '-A FORWARD -m comment --comment "not cali:abcd-_13" -j DROP'
    restore(backend, version, f"{HEAD}{ours}\n{others}\nCOMMIT\n")
    texts = saved_texts(save(backend, version, "filter"))
    assert list(texts) == ["abcd-_12"]
    (text,) = texts.values()
    restore(backend, version, f"*filter\n-D FORWARD {text}\nCOMMIT\n")
    assert saved_texts(save(backend, version, "filter")) == {}
    assert "not cali:" in save(backend, version, "filter")
