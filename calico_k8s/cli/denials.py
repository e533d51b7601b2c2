"""``denials``: which packets were denied or logged, and by which rule.

In: what the agent of this node, or every node of the cluster, tells.  Out: a row for each kind of
packet, the newest last; with ``--follow`` a line for each as it happens.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import msgspec

from calico_k8s.cli.node import denials_socket_option
from calico_k8s.cli.options import option, output_option
from calico_k8s.cli.present import Row, paint, print_data, table
from calico_k8s.errors import UnavailableError
from calico_k8s.felix.local_socket import ask
from calico_k8s.model.denial import Denial, Denials

LOOK_S = 0.25
_VERBS = {"deny": "denied", "log": "logged"}


class Told(NamedTuple):
    """A record, and the node that tells it."""

    node: str
    denial: Denial


@click.command("denials")
@option("--follow", "-f", is_flag=True, help="Go on with what happens, until Ctrl-C.")
@denials_socket_option("Where this node's agent answers.")
@output_option
def denials_command(*, follow: bool, denials_socket: str, output: str) -> None:
    r"""Print which packets were denied, and by which rule of which policy.

    On a node, as root: what its agent has seen since it started.  Felix tells it where its setting
    `denials` is on.

    \b
    Examples:
      calico-k8s denials
      calico-k8s denials --follow
    """
    path = Path(denials_socket)
    told = _read(path)
    if not follow:
        rows = [_row(each) for each in told]
        print_data(rows, output, lambda: table([_cells(row) for row in rows]))
        return
    for row in _follow(path):
        if output == "table":
            click.echo(_line(row))
        else:
            click.echo(msgspec.json.encode(row))


def _read(path: Path) -> list[Told]:
    """What is told now, the oldest first.

    Raises:
        UnavailableError: nobody tells anything.
    """
    answer = msgspec.json.decode(ask(path), type=Denials)
    if not answer.is_told:
        raise UnavailableError(
            f"node {answer.node} does not tell which packets it denies: start Felix with"
            " --denials on, or store that setting"
        )
    return sorted((Told(answer.node, each) for each in answer.denials), key=lambda t: t.denial.last)


def _follow(path: Path) -> Iterator[Row]:
    """Each record as it appears, and again whenever there were more packets; those alone count."""
    before: dict[tuple[object, ...], int] = {}
    while True:
        for told in _read(path):
            each = told.denial
            key = (told.node, each.action, each.src, each.dst, each.protocol, each.port, each.why)
            more = each.packets - before.get(key, 0)
            before[key] = each.packets
            if more > 0:
                yield _row(told) | {"packets": more}
        time.sleep(LOOK_S)


def _row(told: Told) -> Row:
    each = told.denial
    return {
        "node": told.node,
        "action": each.action,
        "direction": each.direction,
        "from": each.src_pod or each.src,
        "from_address": each.src,
        "to": each.dst_pod or each.dst,
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
    """As ``explain`` begins, with when, where and how often."""
    verb = _VERBS.get(row["action"], row["action"])
    times = "" if row["packets"] == 1 else f", {row['packets']} packets"
    sentence = f"{verb}: {row['from']} → {row['to']}, {_service(row)}: {row['why']}"
    return f"{_time(row)} {row['node']} {paint(sentence, 'deny')}{times}"


def _time(row: Row) -> str:
    return time.strftime("%H:%M:%S", time.localtime(row["last"]))


def _service(row: Row) -> str:
    return f"{row['protocol']} {row['port']}" if row["port"] else str(row["protocol"])
