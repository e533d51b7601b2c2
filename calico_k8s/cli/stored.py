"""``get`` and ``status``: what is in the datastore, and how every node is."""

import time

import click
import msgspec

from calico_k8s.cli.options import (
    DatastoreOptions,
    datastore_options,
    open_datastore,
    output_option,
)
from calico_k8s.cli.present import Row, print_data, table
from calico_k8s.controller.stored import read_items
from calico_k8s.errors import InputError
from calico_k8s.felix.status import StoredStatus
from calico_k8s.model import keys
from calico_k8s.policy.snapshot import Snapshot
from calico_k8s.query.views import VIEWS


@click.command("get")
@click.argument("what", type=click.Choice(list(VIEWS)))
@click.argument("name", required=False)
@datastore_options
@output_option
def get_command(what: str, name: str | None, output: str, datastore: DatastoreOptions) -> None:
    r"""Print what is in the datastore: all of a kind, or those whose name holds NAME.

    \b
    Examples:
      calico-k8s get profiles --datastore etcd://127.0.0.1:2379
      calico-k8s get endpoints web/ --datastore sqlite:///var/lib/calico-k8s/state.db -o json
    """
    with open_datastore(datastore) as store:
        found = read_items(store)
    for problem in found.problems:
        click.echo(f"warning: {problem}", err=True)
    column, view = VIEWS[what]
    rows = [row for row in view(Snapshot.from_items(found.items)) if (name or "") in row[column]]
    if name is not None and not rows:
        raise InputError(f"there are no {what} whose name holds '{name}'")
    print_data(rows, output, lambda: table(rows))


@click.command("status")
@datastore_options
@output_option
@click.pass_context
def status_command(ctx: click.Context, output: str, datastore: DatastoreOptions) -> None:
    r"""Print every node: alive, revision, lag, endpoints, errors; exit 1 if one is not well.

    \b
    Example:
      calico-k8s status --datastore etcd://127.0.0.1:2379
    """
    with open_datastore(datastore) as store:
        items = read_items(store).items
        stored = store.read(keys.V1).entries
        newest = max((entry.mod_revision for entry in stored), default=0)
        entries = store.read(f"{keys.STATUS}host/").entries
    statuses = (
        msgspec.json.decode(entry.value, type=StoredStatus)
        for entry in entries
        if entry.key.endswith("/status")
    )
    told = {status.node: status for status in statuses}
    nodes = {str(key.node) for key in items if isinstance(key, keys.NodeKey)} | told.keys()
    rows = [_status_row(node, told.get(node), newest) for node in sorted(nodes)]
    print_data(rows, output, lambda: table(rows))
    if any(row["state"] != "in-sync" for row in rows):
        ctx.exit(1)


def _status_row(node: str, told: StoredStatus | None, newest: int) -> Row:
    if told is None:
        return {"node": node, "state": "silent", "errors": ["no agent has told its status"]}
    age_s = round(max(0.0, time.time() - told.applied), 1) if told.applied else None
    return {
        "node": node,
        "state": told.state,
        "revision": told.revision,
        "behind": max(0, newest - told.revision),
        "applied_s_ago": age_s,
        "endpoints": told.endpoints,
        "enforced": told.enforced,
        "groups": told.groups,
        "backend": told.backend,
        "drift_repaired": told.drift_repaired,
        "errors": list(told.errors),
    }
