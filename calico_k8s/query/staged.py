"""What staged policies would open and close, computed.

In: a snapshot, and the ports to ask for.  Out: a :class:`StagedReport`, and its lines::

    StagedNetworkPolicy/shop/lock: would be CalicoNetworkPolicy/shop/lock, in tier default, for 2 pods
      closes 1 connection
        client/a → shop/db: 80/tcp
"""

from collections.abc import Callable, Iterable, Iterator
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from calico_k8s.model.addresses import Version
from calico_k8s.model.denial import Deciding, Denial, Denials
from calico_k8s.model.names import EndpointId, PolicyId
from calico_k8s.model.resources import EARLY_HOOKS, HostEndpoint, Policy, StagedAction
from calico_k8s.model.staging import target_of
from calico_k8s.policy.snapshot import Snapshot
from calico_k8s.policy.staging import enacted, staged_policies
from calico_k8s.query.matrix import Matrix, compute_matrix, node_row
from calico_k8s.query.matrix_text import Paint, plain
from calico_k8s.query.preview import ChangedCell, Preview, preview, preview_lines
from calico_k8s.query.reach import Service

SEEN_MAX = 8
"""Kinds of packets that a table shows; the JSON form has all that nodes keep."""
_WITH_RULES = frozenset({StagedAction.SET, StagedAction.LEARN})
_COMPUTED_ALONE = (
    "computed alone, no packet is counted: whom preDNAT or doNotTrack policy allows is not asked at"
    " the hooks after, and only enforced it spares anybody that"
)


class Seen(msgspec.Struct, frozen=True):
    """Packets of one kind that a staged policy would have decided on."""

    action: str
    """``would-allow`` or ``would-deny``."""
    src: str = msgspec.field(name="from")
    dst: str = msgspec.field(name="to")
    protocol: str
    port: int
    why: str
    packets: int
    last: float


class Counted(msgspec.Struct, frozen=True):
    """What nodes have counted of one staged policy; packets that asked for a connection."""

    nodes: int
    """Those that count at all."""
    would_allow: int
    would_deny: int
    since: float | None
    """When the first was seen; seconds since the epoch."""
    seen: tuple[Seen, ...]
    """The newest kinds of them, those with the most packets first."""


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
    is_rehearsed: bool
    """Whether nodes that count packets count for it: not where it would speak before DNAT, or
    untracked."""
    counted: Counted | None = None
    """None where no node is asked, or none counts, or none counts for it."""

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
        if not effect.is_rehearsed and effect.action in _WITH_RULES:
            yield f"  {_COMPUTED_ALONE}"
        elif effect.counted is not None and effect.action in _WITH_RULES:
            yield from (f"  {line}" for line in _counted_lines(effect.counted))
    acting = [each for each in report.policies if not each.changes_nothing]
    if len(acting) > 1:
        yield paint(f"all {len(acting)} together:", "heading")
        yield from _change_lines(report, report, paint)


def with_counts(report: StagedReport, answers: Iterable[Denials]) -> StagedReport:
    """The report with what nodes have counted."""
    telling = [answer for answer in answers if answer.is_told]
    if not telling:
        return report
    return msgspec.structs.replace(
        report,
        policies=tuple(
            msgspec.structs.replace(effect, counted=_counted(effect.policy, telling))
            if effect.is_rehearsed
            else effect
            for effect in report.policies
        ),
    )


def _counted(policy: str, telling: list[Denials]) -> Counted:
    counts = [each for answer in telling for each in answer.staged if each.policy == policy]
    seen = [
        _seen(each)
        for answer in telling
        for each in answer.rehearsed
        if each.deciding is not None and _path(each.deciding) == policy
    ]
    return Counted(
        nodes=len(telling),
        would_allow=sum(each.would_allow for each in counts),
        would_deny=sum(each.would_deny for each in counts),
        since=min((each.since for each in counts), default=None),
        seen=tuple(sorted(seen, key=lambda each: (-each.packets, -each.last))),
    )


def _path(deciding: Deciding) -> str:
    return PolicyId(deciding.kind, deciding.namespace, deciding.name).path


def _seen(each: Denial) -> Seen:
    return Seen(
        action=each.action,
        src=each.src_pod or each.src,
        dst=each.dst_pod or each.dst,
        protocol=each.protocol,
        port=each.port,
        why=each.why,
        packets=each.packets,
        last=each.last,
    )


def _counted_lines(counted: Counted) -> Iterator[str]:
    nodes = "1 node" if counted.nodes == 1 else f"{counted.nodes} nodes"
    if counted.since is None:
        yield f"counted on {nodes}: no packet yet"
        return
    since = datetime.fromtimestamp(counted.since, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    yield (
        f"counted on {nodes} since {since}, packets that ask for a connection: would allow"
        f" {counted.would_allow}, would deny {counted.would_deny}"
    )
    for each in counted.seen[:SEEN_MAX]:
        service = f"{each.protocol} {each.port}" if each.port else each.protocol
        what = each.action.replace("-", " ")
        yield f"  {what} {each.packets}: {each.src} → {each.dst}, {service}: {each.why}"
    if len(counted.seen) > SEEN_MAX:
        yield f"  and {len(counted.seen) - SEEN_MAX} kinds more"


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
        is_rehearsed=policy.host_hook not in EARLY_HOOKS,
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
