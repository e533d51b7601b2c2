"""``status``: how every node is, which pods it cannot enforce, and what has become of policies.

In: what each Felix has told under its lease, and the controller.  Out: a row for each node, and below
them a line for each thing that is wrong; or a row for each policy.  Exit code 1 if something is.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import click
import msgspec

from calico_k8s.cli.options import (
    DatastoreOptions,
    datastore_options,
    open_datastore,
    option,
    output_option,
)
from calico_k8s.cli.present import Row, paint, print_data, table
from calico_k8s.controller.policies import Policies, read_policies, read_webhook
from calico_k8s.datastore.store import Store
from calico_k8s.model import keys
from calico_k8s.model.names import EndpointId, NodeName
from calico_k8s.model.status import (
    ENFORCED,
    HOSTS,
    EndpointStatus,
    StoredStatus,
    WebhookStatus,
    decode_status,
    expired_sentence,
    parse_status_path,
)

SILENT = "silent"
"""The state of a node that Kubernetes has and whose agent tells nothing."""
NEVER_TOLD = "no agent has told its status: is Felix running there?"


POLICIES_SHOWN_MAX = 20
"""So many sentences about policies, unless they are asked for."""


class Told(NamedTuple):
    """What nodes have told."""

    nodes: dict[NodeName, StoredStatus]
    lacking: dict[EndpointId, EndpointStatus]
    """The endpoints of which there is something to say."""
    expected: frozenset[NodeName]
    """Every node that there is."""
    newest: int
    """The revision of the newest change for them."""
    policies: Policies
    webhook: WebhookStatus | None
    """None where there is none, or whoever asks may not know."""


@click.command("status")
@datastore_options
@option("--policies", is_flag=True, help="Print a row for each policy instead.")
@output_option
@click.pass_context
def status_command(
    ctx: click.Context, output: str, *, policies: bool, datastore: DatastoreOptions
) -> None:
    r"""Print every node: alive, revision, lag, endpoints, errors; exit 1 if something is not well.

    Pods whose policy a node cannot enforce are named, with the reason, and so are policies that are
    not accepted, that name what is not there, or that not all nodes have.

    \b
    Examples:
      calico-k8s status --datastore etcd://127.0.0.1:2379
      calico-k8s status --policies --datastore etcd://127.0.0.1:2379 -o json
    """
    with open_datastore(datastore) as store:
        told = _read(store)
    if policies:
        of_policies = [msgspec.to_builtins(row) for row in told.policies.rows]
        print_data(of_policies, output, lambda: table(of_policies))
        if told.policies.more:
            click.echo(f"note: {told.policies.more} more have trouble of their own", err=True)
    else:
        rows = [_row(node, told) for node in sorted(told.expected | told.nodes.keys())]
        door = list(_webhook_lines(told.webhook, time.time()))
        print_data(rows, output, lambda: (*_lines(rows), *_policy_lines(told.policies), *door))
        if not _is_served(told.webhook, time.time()) or any(
            row["state"] != "in-sync" or row["errors"] or row["not_enforced"] for row in rows
        ):
            ctx.exit(1)
    if told.policies.more or not all(r.accepted and r.is_everywhere for r in told.policies.rows):
        ctx.exit(1)


def _read(store: Store) -> Told:
    stored = store.read(keys.V1).entries
    nodes: dict[NodeName, StoredStatus] = {}
    lacking: dict[EndpointId, EndpointStatus] = {}
    for entry in store.read(HOSTS).entries:
        match parse_status_path(entry.key):
            case EndpointId() as endpoint:
                state = decode_status(entry.value, EndpointStatus)
                if state is not None and (state.state != ENFORCED or state.reason):
                    lacking[endpoint] = state
            case str() as node:
                status = decode_status(entry.value, StoredStatus)
                if status is not None:
                    nodes[node] = status
            case None:
                pass  # a newer version's
    found = (keys.parse_path(entry.key) for entry in stored)
    return Told(
        nodes,
        lacking,
        frozenset(key.node for key in found if isinstance(key, keys.NodeKey)),
        max((entry.mod_revision for entry in stored), default=0),
        read_policies(store, stored, nodes),
        read_webhook(store),
    )


def _row(node: NodeName, told: Told) -> Row:
    status = told.nodes.get(node)
    if status is None:
        return {"node": node, "state": SILENT, "errors": [NEVER_TOLD], "not_enforced": []}
    age_s = round(max(0.0, time.time() - status.applied), 1) if status.applied else None
    return {
        "node": node,
        "state": status.state,
        "revision": status.revision,
        "behind": max(0, told.newest - status.revision),
        "applied_s_ago": age_s,
        "endpoints": status.endpoints,
        "enforced": status.enforced,
        "groups": status.groups,
        "backend": status.backend,
        "drift_repaired": status.drift_repaired,
        "errors": list(status.errors),
        "not_enforced": [
            {"pod": endpoint.pod, "state": state.state, "reason": state.reason}
            for endpoint, state in sorted(told.lacking.items())
            if endpoint.node == node
        ],
    }


def _lines(rows: Sequence[Row]) -> Iterator[str]:
    """The nodes in columns, and what is wrong with each in sentences."""
    yield from table([_without(row, "errors", "not_enforced") for row in rows])
    for row in rows:
        for error in row["errors"]:
            yield paint(f"{row['node']}: error: {error}", "deny")
        for pod in row["not_enforced"]:
            word = "in part" if pod["state"] == ENFORCED else pod["state"]
            yield paint(f"{row['node']}: {pod['pod']}: {word}: {pod['reason']}", "deny")


def _policy_lines(policies: Policies) -> Iterator[str]:
    """How many policies there are and how they are, and a sentence for each that is not well."""
    rows = policies.rows
    counts = {
        "not accepted": sum(not row.accepted for row in rows) + policies.more,
        "naming what is not there": sum(not row.resolved for row in rows),
        "not on all nodes": sum(not row.is_everywhere for row in rows),
    }
    wrong = [f"{count} {what}" for what, count in counts.items() if count]
    if rows or policies.more:
        yield f"policies: {len(rows) + policies.more}, {', '.join(wrong) or 'all in force'}"
    unwell = [row for row in rows if row.message or not row.is_everywhere]
    for row in unwell[:POLICIES_SHOWN_MAX]:
        yield paint(f"{row.policy}: {row.message or row.count}", "deny")
    hidden = len(unwell[POLICIES_SHOWN_MAX:]) + policies.more
    if hidden:
        yield f"... and {hidden} more: status --policies"


def _is_served(webhook: WebhookStatus | None, now_s: float) -> bool:
    """Whether the API server is answered, or is not to ask at all."""
    return webhook is None or not (webhook.problem or webhook.expires <= now_s)


def _webhook_lines(webhook: WebhookStatus | None, now_s: float) -> Iterator[str]:
    """Until when the webhook's certificate holds; whether somebody renews it is not known here."""
    if webhook is None:
        return
    expires = datetime.fromtimestamp(webhook.expires, UTC)
    if webhook.expires and webhook.expires <= now_s:
        yield paint(f"webhook: {expired_sentence(expires)}", "deny")
    elif webhook.problem:
        yield paint(f"webhook: {webhook.problem}", "deny")
    else:
        yield f"webhook: its certificate holds until {expires:%Y-%m-%d %H:%M} UTC"


def _without(row: Mapping[str, object], *names: str) -> Row:
    return {name: value for name, value in row.items() if name not in names}
