"""``denials``: which packets were denied or logged, and by which rule.

In: what the agent of this node tells over its socket, or those of a lab, or every node of a cluster
by its key in the datastore.  Out: a row for each kind of packet, the newest last; with ``--follow`` a
line for each as it happens.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import click
import msgspec

from calico_k8s.cli.node import DEFAULT_DENIALS, denials_socket_option
from calico_k8s.cli.options import (
    DatastoreOptions,
    datastore_options,
    open_datastore,
    option,
    output_option,
)
from calico_k8s.cli.present import Row, paint, print_data, table
from calico_k8s.datastore.store import Store
from calico_k8s.errors import InputError, UnavailableError
from calico_k8s.felix.local_socket import ask
from calico_k8s.lab.remote import find_lab
from calico_k8s.model.denial import Denial, Denials, parse_denials_path
from calico_k8s.model.status import HOSTS

LOOK_S = 0.25
LOOK_IN_STORE_S = 1.0
NODES_AGAIN_S = 15.0
"""Which nodes tell something is read from the datastore so often."""
FOLLOWED_FIRST = 10
"""So many are shown of what was before."""
_VERBS = {
    "deny": "denied",
    "log": "logged",
    "would-deny": "would deny",
    "would-allow": "would allow",
}

Read = Callable[[], list[Denials]]


class Told(NamedTuple):
    """A record, and the node that tells it."""

    node: str
    denial: Denial


@click.command("denials")
@option("--follow", "-f", is_flag=True, help="Go on with what happens, until Ctrl-C.")
@option("--staged", "asks_staged", is_flag=True, help="What staged policies would do instead.")
@option("--node", metavar="NAME", help="Only what this node tells.")
@option("--lab", is_flag=True, help="Ask the agents of the lab that runs on this machine.")
@option("--run", metavar="RUN", help="Which lab, where several run.")
@denials_socket_option("Where this node's agent answers.")
@datastore_options
@output_option
def denials_command(  # noqa: PLR0913 - one for each option
    *,
    follow: bool,
    asks_staged: bool,
    node: str | None,
    lab: bool,
    run: str | None,
    denials_socket: str,
    datastore: DatastoreOptions,
    output: str,
) -> None:
    r"""Print which packets were denied, and by which rule of which policy.

    On a node, as root: what its agent has seen since it started; a datastore has the newest of every
    node. Felix tells where its setting `denials` is on.

    \b
    Examples:
      calico-k8s denials --follow
      calico-k8s denials --datastore etcd://127.0.0.1:2379 --node worker-1
      calico-k8s denials --lab --follow
      calico-k8s denials --staged --follow
    """

    def chosen(answers: list[Denials]) -> list[Denials]:
        if not asks_staged:
            return answers
        return [msgspec.structs.replace(each, denials=each.rehearsed) for each in answers]

    # A container may have a datastore in its environment: a socket that is named comes first.
    if lab or datastore.url is None or denials_socket != DEFAULT_DENIALS:
        sockets = find_lab(run).denials if lab else {"this node": denials_socket}
        _print(lambda: chosen(_ask_all(sockets)), node, follow=follow, output=output, look_s=LOOK_S)
        return
    with open_datastore(datastore) as store:
        reader = StoreReader(store)
        _print(
            lambda: chosen(reader.read()),
            node,
            follow=follow,
            output=output,
            look_s=LOOK_IN_STORE_S,
        )


def _print(read: Read, node: str | None, *, follow: bool, output: str, look_s: float) -> None:
    if not follow:
        rows = [_row(each) for each in _newest_last(read(), node)]
        print_data(rows, output, lambda: table([_cells(row) for row in rows]))
        return
    for row in _follow(read, node, look_s):
        click.echo(_line(row) if output == "table" else msgspec.json.encode(row))


def _ask_all(sockets: Mapping[str, str]) -> list[Denials]:
    """What agents of this machine tell.

    Raises:
        UnavailableError: none answers.
    """
    paths = [Path(path) for path in sockets.values()]
    answers: list[Denials] = []
    for path in paths:
        try:
            answers.append(_decoded(ask(path)))
        except UnavailableError:
            if path is paths[-1] and not answers:
                raise
    return answers


class StoreReader:
    """Reads what the nodes of a cluster tell, and seldom which nodes those are."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._paths: list[str] = []
        self._look_again_s = 0.0

    def read(self) -> list[Denials]:
        """What the nodes tell now."""
        now_s = time.monotonic()
        if now_s >= self._look_again_s:
            entries = self._store.read(HOSTS).entries
            self._paths = [e.key for e in entries if parse_denials_path(e.key) is not None]
            self._look_again_s = now_s + NODES_AGAIN_S
        found = (self._store.get(path) for path in self._paths)
        return [_decoded(entry.value) for entry in found if entry is not None]


def _decoded(raw: bytes) -> Denials:
    try:
        return msgspec.json.decode(raw, type=Denials)
    except msgspec.DecodeError as error:
        raise UnavailableError(
            f"what a node tells of denials is not understood: {error}"
        ) from error


def _newest_last(answers: list[Denials], node: str | None) -> list[Told]:
    """What is told, the oldest first.

    Raises:
        InputError: the node that is asked for tells nothing.
        UnavailableError: no node tells.
    """
    telling = [answer for answer in answers if answer.is_told]
    if not telling:
        raise UnavailableError(
            "no node tells which packets it denies: start Felix with --denials on, or store the"
            " setting `denials`"
        )
    if node is not None and node not in (names := sorted(answer.node for answer in telling)):
        raise InputError(f"node '{node}' tells no denials; these do: {', '.join(names)}")
    found = [
        Told(answer.node, each)
        for answer in telling
        if node in (None, answer.node)
        for each in answer.denials
    ]
    return sorted(found, key=lambda told: told.denial.last)


def _follow(read: Read, node: str | None, look_s: float) -> Iterator[Row]:
    """Each record as it appears, and again whenever there were more packets: those alone count."""
    known: dict[tuple[object, ...], int] = {}
    is_first = True
    while True:
        answers: list[Denials] = []
        found: list[Told] = []
        try:
            answers = read()
            found = _newest_last(answers, node)
        except (InputError, UnavailableError):
            # An agent that is started anew, an etcd that fails over: they come back.
            if is_first:
                raise
        news: list[Row] = []
        now: dict[tuple[object, ...], int] = {}
        for told in found:
            key, packets = _identity(told), told.denial.packets
            before = known.get(key, 0)
            # An agent that was started anew counts from the beginning.
            more = packets - (before if before <= packets else 0)
            now[key] = packets
            if more:
                news.append(_row(told) | {"packets": more})
        # What an agent has forgotten it counts from the beginning, too.
        answered = {answer.node for answer in answers}
        known = {key: count for key, count in known.items() if key[0] not in answered} | now
        yield from news[-FOLLOWED_FIRST:] if is_first else news
        is_first = False
        time.sleep(look_s)


def _identity(told: Told) -> tuple[object, ...]:
    each = told.denial
    ends = (each.src, each.dst, each.protocol, each.port, each.icmp_type, each.icmp_code)
    return (told.node, each.action, each.why, *ends)


def _row(told: Told) -> Row:
    each = told.denial
    return {
        "node": told.node,
        "action": each.action,
        "direction": each.direction,
        "from": each.src_pod or each.src,
        "from_address": each.src,
        "to": each.dst_pod or each.dst_name or each.dst,
        "to_address": each.dst,
        "protocol": each.protocol,
        "port": each.port,
        "icmp_type": each.icmp_type,
        "icmp_code": each.icmp_code,
        "why": each.why,
        "deciding": msgspec.to_builtins(each.deciding),
        "packets": each.packets,
        "sampled": each.sampled,
        "first": each.first,
        "last": each.last,
    }


def _cells(row: Row) -> Row:
    """What a table shows of it."""
    return {
        "time": _time(row),
        "node": row["node"],
        "what": _VERBS.get(row["action"], row["action"]),
        "from": row["from"],
        "to": row["to"],
        "service": _service(row),
        "packets": row["packets"],
        "why": row["why"],
    }


def _line(row: Row) -> str:
    """As ``can`` says it, with when, where and how often."""
    verb = _VERBS.get(row["action"], row["action"])
    times = "" if row["packets"] == 1 else f" ({row['packets']} packets)"
    sentence = f"{verb}: {row['from']} → {row['to']}, {_service(row)}: {row['why']}"
    return f"{_time(row)} {row['node']} {paint(sentence, 'deny')}{times}"


def _time(row: Row) -> str:
    return time.strftime("%H:%M:%S", time.localtime(row["last"]))


def _service(row: Row) -> str:
    return f"{row['protocol']} {row['port']}" if row["port"] else str(row["protocol"])
