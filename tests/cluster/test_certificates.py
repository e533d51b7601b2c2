"""Certificates on a real API server: renewed in time, by whoever signs, and kept while nobody does."""

import datetime as dt
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from calico_k8s.certificates import files, holder
from calico_k8s.certificates.authority import Subject, load_certificates, new_key, request_pem
from calico_k8s.certificates.checks import problem_of
from calico_k8s.certificates.holder import Keeper, Wish
from calico_k8s.certificates.kube import (
    REQUESTS,
    StoredRequest,
    file_request,
    list_requests,
    read_request,
)
from calico_k8s.certificates.names import AUTHORITY_NAME, Holder
from calico_k8s.certificates.requests import CLIENT_USAGES, SERVER_USAGES, Rules
from calico_k8s.certificates.signer import Options, Signer
from calico_k8s.controller.kube import connect
from calico_k8s.datastore.location import EtcdLocation
from tests.cluster.accounts import ADDRESS, Site, forget, running, site_up
from tests.cluster.controllers import wait_for
from tests.cluster.installation import NAMESPACE

pytestmark = pytest.mark.cluster

DAY = dt.timedelta(days=1)
MEMBER = Subject("etcd-member", (ADDRESS,))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site_up(tmp_path_factory.mktemp("certificates")) as up:
        yield up


@pytest.fixture
def sign(site: Site, tmp_path: Path) -> Iterator[Callable[..., Signer]]:
    """Starts signers; none of them finds an etcd."""
    with ExitStack() as stack:
        number = iter(range(10))

        def start(valid_for: dt.timedelta = DAY) -> Signer:
            rules = Rules(NAMESPACE, frozenset({ADDRESS}), valid_for)
            nobody = EtcdLocation(("127.0.0.1:1",), "/calico")
            api = stack.enter_context(closing(site.account("calico-k8s-signer")))
            signer = Signer(api, Options(rules, nobody, tmp_path / f"signer{next(number)}"))
            stack.enter_context(running(signer.run, signer.stop))
            return signer

        yield start


@pytest.fixture
def keep(site: Site, tmp_path: Path) -> Iterator[Callable[[], Path]]:
    """Starts the keeper of a member's certificate; where that is."""
    with ExitStack() as stack:

        def start() -> Path:
            api = stack.enter_context(closing(site.account(Holder.MEMBER.value)))
            directory = tmp_path / "certificate"
            keeper = Keeper(api, Wish(Holder.MEMBER, MEMBER, NAMESPACE, directory, DAY))
            stack.enter_context(running(keeper.run, keeper.stop))
            return directory

        yield start


def problem(directory: Path) -> str | None:
    return problem_of(directory, dt.datetime.now(dt.UTC))


def test_a_certificate_is_renewed_before_it_ends_with_a_key_of_its_own(
    sign: Callable[..., Signer], keep: Callable[[], Path]
) -> None:
    sign(dt.timedelta(seconds=6))
    directory = keep()
    wait_for(lambda: problem(directory) is None, lambda: str(problem(directory)))
    first = files.read(directory)
    assert first is not None
    wait_for(lambda: files.read(directory) not in (None, first))
    second = files.read(directory)
    assert second is not None
    (before,), (after,) = map(load_certificates, (first.certificate, second.certificate))
    assert dt.datetime.now(dt.UTC) < before.not_valid_after_utc, "in time"
    assert second.key != first.key
    assert after.not_valid_after_utc > before.not_valid_after_utc


def test_an_authority_that_was_replaced_ends_every_certificate_by_the_old_one(
    site: Site,
    sign: Callable[..., Signer],
    keep: Callable[[], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(holder, "CHECK_S", 0.2)
    sign()
    directory = keep()
    wait_for(lambda: problem(directory) is None, lambda: str(problem(directory)))
    first = files.read(directory)
    assert first is not None
    forget(site.objects.api, f"/api/v1/namespaces/{NAMESPACE}/secrets/{AUTHORITY_NAME}")
    sign()
    wait_for(lambda: (held := files.read(directory)) and held.authorities != first.authorities)
    assert problem(directory) is None


def test_what_is_there_is_used_while_nobody_can_be_asked(
    sign: Callable[..., Signer],
    keep: Callable[[], Path],
    site: Site,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(holder, "GRACE_S", 1.0)
    sign()
    directory = keep()
    wait_for(lambda: problem(directory) is None, lambda: str(problem(directory)))
    (directory / "looked-at-by").unlink()
    assert "has looked at it yet" in str(problem(directory))
    text = site.kube.kubeconfig().read_text().replace(site.kube.url, "https://127.0.0.1:1")
    (tmp_path / "away.kubeconfig").write_text(text)
    with closing(connect(str(tmp_path / "away.kubeconfig"))) as api:
        keeper = Keeper(api, Wish(Holder.MEMBER, MEMBER, NAMESPACE, directory, DAY))
        with running(keeper.run, keeper.stop):
            wait_for(lambda: problem(directory) is None, lambda: str(problem(directory)))


def test_two_signers_sign_by_one_authority(site: Site, sign: Callable[..., Signer]) -> None:
    secrets = f"/api/v1/namespaces/{NAMESPACE}/secrets"
    forget(site.objects.api, f"{secrets}/{AUTHORITY_NAME}")
    signers = [sign(), sign()]
    names = [f"twice-{number}" for number in range(8)]
    with closing(site.account(Holder.MEMBER.value)) as member:
        for name in names:
            file_request(member, name, request_pem(MEMBER, new_key()), SERVER_USAGES, DAY)
    requests = [wait_until_signed(site, name) for name in names]
    issuers = {load_certificates(each.status.certificate)[0].issuer for each in requests}
    assert len(issuers) == 1
    assert all(signer.is_live() is None for signer in signers)


def wait_until_signed(site: Site, name: str) -> StoredRequest:
    wait_for(lambda: read_request(site.objects.api, name).status.certificate)
    return read_request(site.objects.api, name)


def test_what_a_person_approves_that_is_not_the_askers_fails(
    site: Site, sign: Callable[..., Signer]
) -> None:
    admin, name = site.objects.api, "approved"
    file_request(admin, name, request_pem(Subject("root"), new_key()), CLIENT_USAGES, DAY)
    approved = {"type": "Approved", "status": "True", "reason": "Person", "message": "go"}
    admin.merge(f"{REQUESTS}/{name}/approval", {"status": {"conditions": [approved]}})
    sign()
    wait_for(lambda: read_request(admin, name).refusal)
    stored = read_request(admin, name)
    assert "NotOurServiceAccount" in str(stored.refusal)
    assert not stored.status.certificate


def test_a_client_waits_for_etcd_and_a_member_does_not(
    site: Site, sign: Callable[..., Signer]
) -> None:
    signer = sign()
    with closing(site.account(Holder.FELIX.value)) as felix:
        name = "waits"
        request = request_pem(Subject("node-rights-node"), new_key())
        file_request(felix, name, request, CLIENT_USAGES, DAY)
    with closing(site.account(Holder.MEMBER.value)) as member:
        file_request(member, "goes", request_pem(MEMBER, new_key()), SERVER_USAGES, DAY)
    wait_until_signed(site, "goes")
    wait_for(lambda: signer.metrics.waiting._value.get() > 0)
    assert "users" in str(signer.is_ready()) or "etcd" in str(signer.is_ready())
    (waiting,) = (each for each in list_requests(site.objects.api) if each.metadata.name == name)
    assert waiting.is_open
    assert not waiting.is_approved
