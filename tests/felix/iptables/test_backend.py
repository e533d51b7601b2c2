"""Which backend a node uses, and that cleaning takes what is ours and nothing else."""

import pytest

from calico_k8s.felix.iptables.backend import clean_tables, detect_backend
from calico_k8s.felix.iptables.driver import TableDriver
from calico_k8s.felix.iptables.programs import Backend, save
from calico_k8s.model.addresses import Version
from calico_k8s.render.tables import ChainName, RuleText, Table, TableName
from tests.namespaces import Namespace, run

pytestmark = pytest.mark.kernel


def test_the_backend_with_others_rules_is_chosen(namespace: Namespace, backend: Backend) -> None:
    run(f"ip6tables-{backend}", "-A", "INPUT", "-j", "ACCEPT")
    detection = detect_backend()
    assert detection.backend is backend
    assert not detection.is_mixed
    assert "move them" not in str(detection)


def test_rules_in_both_are_worth_a_warning_and_the_more_decide(namespace: Namespace) -> None:
    run("iptables-legacy", "-A", "INPUT", "-j", "ACCEPT")
    run("iptables-legacy", "-t", "nat", "-A", "OUTPUT", "-j", "ACCEPT")
    run("iptables-nft", "-A", "INPUT", "-j", "ACCEPT")
    detection = detect_backend()
    assert detection.backend is Backend.LEGACY
    assert detection.is_mixed
    assert str(detection).startswith(
        "iptables backend legacy (other programs' rules: legacy 2, nft 1); both backends hold"
    )


@pytest.mark.parametrize("chain", ["KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY"])
def test_a_kubelet_says_where_kube_proxy_will_be_whatever_else_is_there(
    namespace: Namespace, backend: Backend, chain: str
) -> None:
    (other,) = set(Backend) - {backend}
    run(f"iptables-{other}", "-A", "INPUT", "-j", "ACCEPT")
    run(f"iptables-{backend}", "-t", "mangle", "-N", chain)
    detection = detect_backend()
    assert detection.backend is backend
    assert str(detection).endswith(", the kubelet's")
    run(f"iptables-{other}", "-t", "mangle", "-N", chain)
    assert detect_backend().backend is other, "both say so: the rules decide"


def test_our_own_rules_decide_nothing_where_there_are_others(namespace: Namespace) -> None:
    run("iptables-nft", "-A", "INPUT", "-j", "ACCEPT")
    before = detect_backend()
    write_ours("mangle", 4, Backend.LEGACY)
    assert detect_backend() == before
    write_ours("mangle", 4, Backend.NFT)
    assert detect_backend() == before


def test_what_was_restored_after_a_boot_decides_before_there_are_others(
    namespace: Namespace, backend: Backend
) -> None:
    write_ours("mangle", 4, backend)
    assert detect_backend().backend is backend


def write_ours(table: TableName, version: Version, backend: Backend) -> None:
    driver = TableDriver(backend, version, table)
    rules = (RuleText("-j cali-x"),)
    driver.set_desired(
        Table(
            table, version, {ChainName("cali-x"): rules[:0]}, {"OUTPUT": rules}, {"OUTPUT": rules}
        )
    )
    driver.apply()
    driver.close()


def test_clean_leaves_what_is_not_ours_and_nothing_else(namespace: Namespace) -> None:
    places = [(b, v, t) for b in Backend for v in (4, 6) for t in ("raw", "mangle", "filter")]
    for backend, version, table in places:
        tool = f"{'iptables' if version == 4 else 'ip6tables'}-{backend}"
        run(tool, "-t", table, "-N", "OTHERS")
        run(tool, "-t", table, "-A", "OUTPUT", "-j", "OTHERS")
    before = [rules(save(backend, 4 if v == 4 else 6)) for backend, v, _ in places]
    for backend, version, table in places:
        write_ours(table, 4 if version == 4 else 6, backend)  # type: ignore[arg-type]  # a tuple's items
    assert clean_tables(lock_timeout_s=1) == []
    assert [rules(save(backend, 4 if v == 4 else 6)) for backend, v, _ in places] == before


def rules(saved: str) -> list[str]:
    return [line for line in saved.splitlines() if not line.startswith("#")]


def test_clean_says_which_chain_another_program_holds_on_to(namespace: Namespace) -> None:
    write_ours("filter", 4, Backend.NFT)
    run("iptables-nft", "-A", "FORWARD", "-i", "v0", "-j", "cali-x")
    assert clean_tables(lock_timeout_s=1) == [
        "chain cali-x of IPv4 nft filter stays: another program jumps to it"
    ]
