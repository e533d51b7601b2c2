"""``get``: what is in the datastore."""

import click

from calico_k8s.cli.options import (
    DatastoreOptions,
    datastore_options,
    open_datastore,
    output_option,
)
from calico_k8s.cli.present import print_data, table
from calico_k8s.controller.stored import read_items
from calico_k8s.errors import InputError
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
