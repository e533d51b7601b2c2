"""Which of the two iptables a node uses, and taking away all that is ours from both.

In: nothing.  Out: a :class:`Detection`; or what could not be removed.
"""

import re
import subprocess
from typing import Final, get_args

import msgspec

from calico_k8s.errors import IptablesError
from calico_k8s.felix.iptables.driver import TableDriver
from calico_k8s.felix.iptables.hashes import COMMENT_PREFIX, is_bare_jump
from calico_k8s.felix.iptables.programs import DEFAULT_LOCK_TIMEOUT_S, Backend, save
from calico_k8s.model.addresses import Version
from calico_k8s.render.tables import CHAIN_PREFIX, Table, TableName

VERSIONS: Final[tuple[Version, ...]] = (4, 6)
TABLES: Final[tuple[TableName, ...]] = get_args(TableName)

_KUBELET_CHAIN = re.compile(r"^:KUBE-(?:IPTABLES-HINT|KUBELET-CANARY) ", re.MULTILINE)
"""Chains that a kubelet makes, without a rule, where kube-proxy is to put its own.  Source: KEP-3178."""
_RULE = re.compile(r"^-A (\S+) (.*)$", re.MULTILINE)


class Detection(msgspec.Struct, frozen=True):
    """What the node's other programs use, rules of ours not counted."""

    backend: Backend
    rules: dict[Backend, int]
    is_kubelets: bool = False
    """Whether the kubelet's mark told, and not the number of rules."""

    @property
    def is_mixed(self) -> bool:
        """Both backends hold rules: a packet passes through both, which is worth a warning."""
        return all(self.rules.values())

    def __str__(self) -> str:
        counts = ", ".join(f"{backend} {count}" for backend, count in self.rules.items())
        text = f"iptables backend {self.backend} (other programs' rules: {counts})"
        if self.is_kubelets:
            text += ", the kubelet's"
        if self.is_mixed:
            text += "; both backends hold rules, a packet must pass both: move them to one"
        return text


def detect_backend() -> Detection:
    """The backend a kubelet has marked, which is kube-proxy's; else that with more rules of others.

    Where that does not decide, the one that holds ours: a node that was just booted has those that
    were restored, and no others yet.  Then that of plain ``iptables``.

    Raises:
        IptablesError: neither backend's programs are installed.
    """
    rules: dict[Backend, int] = {}
    with_ours: list[Backend] = []
    marked: set[Backend] = set()
    problems: list[str] = []
    for backend in Backend:
        try:
            saved = [save(backend, version) for version in VERSIONS]
            rules[backend] = sum(map(_count_foreign, saved))
            if any(f"\n:{CHAIN_PREFIX}" in text for text in saved):
                with_ours.append(backend)
            marked |= {backend} if any(map(_KUBELET_CHAIN.search, saved)) else set()
        except IptablesError as error:
            problems.append(str(error))
    if not rules:
        raise IptablesError("; ".join(problems))
    if len(marked) == 1:
        return Detection(marked.pop(), rules, is_kubelets=True)
    most = max(rules.values())
    leaders = [backend for backend, count in rules.items() if count == most]
    if len(leaders) > 1 and len(with_ours) == 1:
        leaders = with_ours
    backend = leaders[0] if len(leaders) == 1 else _plain_backend(leaders)
    return Detection(backend, rules)


def _count_foreign(saved: str) -> int:
    return sum(
        1
        for chain, text in _RULE.findall(saved)
        if not (chain.startswith(CHAIN_PREFIX) or COMMENT_PREFIX in text or is_bare_jump(text))
    )


def _plain_backend(choices: list[Backend]) -> Backend:
    """What ``iptables`` itself is linked to; nft where it does not say."""
    try:
        done = subprocess.run(
            ("iptables", "--version"), capture_output=True, text=True, check=False, timeout=10
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return choices[-1]
    backend = Backend.LEGACY if "legacy" in done.stdout else Backend.NFT
    return backend if backend in choices else choices[-1]


def clean_tables(lock_timeout_s: float = DEFAULT_LOCK_TIMEOUT_S) -> list[str]:
    """Remove every chain and rule of ours from both backends, families and all tables.

    Returns the problems met, one sentence each; what could be removed is removed all the same.
    """
    problems: list[str] = []
    for backend in Backend:
        for version in VERSIONS:
            for table in TABLES:
                try:
                    _clean_table(backend, version, table, lock_timeout_s, problems)
                except IptablesError as error:
                    problems.append(str(error))
    return problems


def sweep_backend(
    other: Backend, lock_timeout_s: float = DEFAULT_LOCK_TIMEOUT_S
) -> tuple[str, ...]:
    """Remove what an agent that used another backend left in this one; what it was, sorted.

    Cost: two processes where there is nothing.

    Raises:
        IptablesError: the backend is not installed, or refuses.
    """
    swept: list[str] = []
    problems: list[str] = []
    for version in VERSIONS:
        saved = save(other, version)
        swept += re.findall(rf"^:({CHAIN_PREFIX}\S+)", saved, re.MULTILINE)
        for table in TABLES if CHAIN_PREFIX in saved else ():
            _clean_table(other, version, table, lock_timeout_s, problems)
    if problems:
        raise IptablesError("; ".join(problems))
    return tuple(sorted(set(swept)))


def _clean_table(
    backend: Backend, version: Version, table: TableName, lock_timeout_s: float, problems: list[str]
) -> None:
    driver = TableDriver(backend, version, table, lock_timeout_s)
    try:
        driver.set_desired(Table(table, version, {}))
        driver.apply()
        problems += [
            f"chain {chain} of IPv{version} {backend} {table} stays: another program jumps to it"
            for chain in sorted(driver.kept_chains)
        ]
    finally:
        driver.close()
