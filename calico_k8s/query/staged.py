"""What staged policies would open and close, computed.

In: a snapshot, and the ports to ask for.  Out: a :class:`StagedReport`, and its lines::

    StagedNetworkPolicy/shop/lock: would be CalicoNetworkPolicy/shop/lock, in tier default, for 2 pods
      closes 1 connection
        client/a → shop/db: 80/tcp
"""

from collections.abc import Callable, Iterable, Iterator
from collections.abc import Set as AbstractSet
from typing import NamedTuple

import msgspec

from calico_k8s.model.addresses import Version
from calico_k8s.model.names import EndpointId
from calico_k8s.model.resources import HostEndpoint, Policy, StagedAction
from calico_k8s.model.staging import target_of
from calico_k8s.policy.snapshot import Snapshot
from calico_k8s.policy.staging import enacted, staged_policies
from calico_k8s.query.matrix import Matrix, compute_matrix, node_row
from calico_k8s.query.matrix_text import Paint, plain
from calico_k8s.query.preview import ChangedCell, Preview, preview, preview_lines
from calico_k8s.query.reach import Service


class StagedEffect(msgspec.Struct, frozen=True):
    """One staged policy, and what enforcing it, and no other, would do."""

    policy: str
    """``Kind/namespace/name``."""
    action: StagedAction
    tier: str
    tier_exists: bool
    target: str
    """The policy that it would be, replace or delete."""
    target_exists: bool
    pods: int
    """Those that it, or the policy that it would replace or delete, selects ..."""
    host_endpoints: int
    """... and host endpoints: what is opened and closed has their nodes, then."""
    opened: tuple[ChangedCell, ...]
    closed: tuple[ChangedCell, ...]

    @property
    def changes_nothing(self) -> bool:
        """Whether that is plain without a look at any connection."""
        if self.action is StagedAction.DELETE:
            return not self.target_exists
        return self.action is StagedAction.IGNORE


class _About(NamedTuple):
    """Whom a staged policy, or the one that it would replace or delete, selects."""

    pods: frozenset[EndpointId]
    hosts: tuple[HostEndpoint, ...]

    def rows(self, snapshot: Snapshot) -> frozenset[EndpointId]:
        """The rows of the matrix whose cells may differ: of a node, all that may pass it."""
        nodes = {host.node for host in self.hosts}
        there = {each for each in snapshot.endpoints if each.node in nodes}
        return self.pods | there | {node_row(node) for node in nodes}


class StagedReport(msgspec.Struct, frozen=True):
    """``staged -o json``; ``opened`` and ``closed`` are by all of them together."""

    policies: tuple[StagedEffect, ...]
    families: tuple[Version, ...]
    """Those that were compared."""
    opened: tuple[ChangedCell, ...]
    closed: tuple[ChangedCell, ...]


def staged_report(
    snapshot: Snapshot,
    services: Iterable[Service],
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> StagedReport:
    """What each staged policy would do alone, and all together.

    Cost: a cell of the matrix for each pair of pods with one that a staged policy is about, twice
    and once more for each such policy.
    """
    wanted = tuple(services)
    staged = staged_policies(snapshot)
    about = {policy.id: _about(snapshot, policy) for policy in staged}
    rows = {policy: found.rows(snapshot) for policy, found in about.items()}
    everybody = frozenset[EndpointId]().union(*rows.values())
    with_hosts = any(found.hosts for found in about.values())
    total = len(staged) + 2
    now = compute_matrix(snapshot, wanted, with_hosts=with_hosts, among=everybody)
    progress(1, total)
    effects = []
    for done, policy in enumerate(staged, start=2):
        among, after = rows[policy.id], enacted(snapshot, [policy])
        then = compute_matrix(after, wanted, with_hosts=with_hosts, among=among)
        change = preview(_only(now, among), then)
        effects.append(_effect(snapshot, policy, about[policy.id], change))
        progress(done, total)
    after = enacted(snapshot, staged)
    then = compute_matrix(after, wanted, with_hosts=with_hosts, among=everybody)
    progress(total, total)
    whole = preview(now, then)
    return StagedReport(tuple(effects), whole.families, whole.opened, whole.closed)


def staged_lines(report: StagedReport, paint: Paint = plain) -> Iterator[str]:
    """The same for people."""
    if not report.policies:
        yield "no policy is staged"
    for effect in report.policies:
        yield paint(f"{effect.policy}: {_fate(effect)}", "heading")
        if not effect.changes_nothing:
            yield from _change_lines(report, effect, paint)
    acting = [each for each in report.policies if not each.changes_nothing]
    if len(acting) > 1:
        yield paint(f"all {len(acting)} together:", "heading")
        yield from _change_lines(report, report, paint)


def _change_lines(
    report: StagedReport, change: StagedReport | StagedEffect, paint: Paint
) -> Iterator[str]:
    found = Preview((), (), report.families, change.opened, change.closed)
    yield from (f"  {line}" for line in preview_lines(found, paint))


def _effect(snapshot: Snapshot, policy: Policy, about: _About, change: Preview) -> StagedEffect:
    assert policy.staged is not None, "only staged policies are asked for"
    target = target_of(policy.id)
    return StagedEffect(
        policy=policy.id.path,
        action=policy.staged,
        tier=policy.tier,
        tier_exists=policy.tier in snapshot.tiers,
        target=target.path,
        target_exists=any(key.policy == target for key in snapshot.policies),
        pods=len(about.pods),
        host_endpoints=len(about.hosts),
        opened=change.opened,
        closed=change.closed,
    )


def _fate(effect: StagedEffect) -> str:
    """What would become of the enforced policy of its name."""
    pods = "1 pod" if effect.pods == 1 else f"{effect.pods} pods"
    if hosts := effect.host_endpoints:
        pods += f" and {hosts} host endpoint{'' if hosts == 1 else 's'}"
    match effect.action:
        case StagedAction.IGNORE:
            return "ignored"
        case StagedAction.DELETE if not effect.target_exists:
            return f"would delete {effect.target}, and there is none: it changes nothing"
        case StagedAction.DELETE:
            return f"would delete {effect.target}, which is for {pods}"
        case _:
            verb = "replace" if effect.target_exists else "be"
            learns = ", and is being learnt" if effect.action is StagedAction.LEARN else ""
            where = f"in tier {effect.tier}"
            missing = "" if effect.tier_exists else ", which is not there"
            return f"would {verb} {effect.target}, {where}{missing}, for {pods}{learns}"


def _about(snapshot: Snapshot, policy: Policy) -> _About:
    if policy.staged is StagedAction.IGNORE:
        return _About(frozenset(), ())
    target = target_of(policy.id)
    selectors = {value.selector for key, value in snapshot.policies.items() if key.policy == target}
    if policy.staged is not StagedAction.DELETE:
        selectors.add(policy.selector)
    chosen = {
        each.id
        for each in snapshot.everybody.values()
        if any(snapshot.selects(selector, each) for selector in selectors)
    }
    hosts = tuple(host for name, host in snapshot.host_endpoints.items() if name in chosen)
    return _About(frozenset(name for name in chosen if not name.is_host), hosts)


def _only(matrix: Matrix, among: AbstractSet[EndpointId]) -> Matrix:
    """The cells of pairs with one of these pods."""
    names = {endpoint.pod for endpoint in among}
    cells = (cell for cell in matrix.probes if cell.src in names or cell.dst in names)
    return Matrix(matrix.pods, tuple(cells))
