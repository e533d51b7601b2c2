"""``can``, ``explain``, ``matrix`` and ``affected``: what policy says, computed, without packets."""

import functools
from collections.abc import Callable
from typing import Any

import click
import msgspec

from calico_k8s.cli.options import option, output_option
from calico_k8s.cli.present import paint, print_data
from calico_k8s.cli.progress import progress_bar
from calico_k8s.cli.source import (
    Loaded,
    Source,
    chosen_services,
    load_source,
    source_options,
    tell,
)
from calico_k8s.errors import InputError
from calico_k8s.query.affected import affected, affected_lines, parse_object_name
from calico_k8s.query.domains import find_domain, is_domain
from calico_k8s.query.explain import explain_lines, headline, partly_denied, report
from calico_k8s.query.matrix import Matrix, compute_matrix, parse_service
from calico_k8s.query.matrix_text import matrix_lines
from calico_k8s.query.preview import preview, preview_lines
from calico_k8s.query.reach import Answer, Service, ask, find_party
from calico_k8s.query.turn import turn


class Question(msgspec.Struct, frozen=True):
    """Who asks for whom, and for what."""

    src: str
    dst: str
    service: Service


def question_options(command: Callable[..., None]) -> Callable[..., None]:
    """``--from``, ``--to``, ``--port`` and ``--protocol``, as the parameter ``question``."""

    @functools.wraps(command)
    def with_question(  # Any: the command's other parameters
        *, src: str, dst: str, port: str | None, protocol: str | None, **others: Any
    ) -> None:
        command(question=Question(src, dst, _service(port, protocol)), **others)

    with_question = option(
        "--protocol",
        type=click.Choice(["tcp", "udp", "sctp", "icmp"], case_sensitive=False),
        help="tcp unless given; icmp asks for an echo, and takes no port.",
    )(with_question)
    with_question = option("--port", metavar="PORT[/PROTOCOL]", help="As in 80, 53/udp, icmp.")(
        with_question
    )
    end = "NAMESPACE/POD, node/NAME, an address, or a CIDR, which is allowed only if all of it is."
    to = f"{end} Or a domain: whatever addresses its DNS answers give."
    with_question = option("--to", "dst", metavar="WHO", required=True, help=to)(with_question)
    return option("--from", "src", metavar="WHO", required=True, help=end)(with_question)


@click.command("can")
@source_options
@question_options
@option("--explain", "explains", is_flag=True, help="Show every tier, policy and rule looked at.")
@output_option
@click.pass_context
def can_command(
    ctx: click.Context, *, source: Source, question: Question, explains: bool, output: str
) -> None:
    r"""Say whether one pod can reach another: exit 0 if it can, 1 if not.

    \b
    Examples:
      calico-k8s can manifests/ --from web/a --to db/b --port 5432
      calico-k8s can manifests/ --from 203.0.113.0/24 --to web/a --port 8080 --explain
      calico-k8s can manifests/ --from 203.0.113.0/24 --to node/node-1:eth0 --port 22
      calico-k8s can manifests/ --from web/a --to api.example.com --port 443
      calico-k8s can --datastore sqlite:///state.db --from web/a --to db/b --protocol icmp
    """
    _answer(ctx, source, question, output, explains=explains)


@click.command("explain")
@source_options
@question_options
@output_option
@click.pass_context
def explain_command(ctx: click.Context, *, source: Source, question: Question, output: str) -> None:
    r"""Say whether one pod can reach another, and which rule of which object decides it.

    \b
    Example:
      calico-k8s explain manifests/ --from web/a --to db/b --port 5432
    """
    _answer(ctx, source, question, output, explains=True)


@click.command("matrix")
@source_options
@option(
    "--port",
    "ports",
    metavar="PORT[/PROTOCOL]",
    multiple=True,
    help="What to ask for, as in 80/tcp, 53/udp, icmp; all container ports unless given.",
)
@option("--nodes", type=click.IntRange(min=1), metavar="N", help="At least so many nodes.")
@option("--hosts", "with_hosts", is_flag=True, help="Ask about nodes too, as node/NAME.")
@option(
    "--diff",
    "other",
    metavar="OTHER_SOURCE",
    multiple=True,
    help="Show what changing SOURCE into OTHER_SOURCE opens and closes.",
)
@output_option
def matrix_command(
    *,
    source: Source,
    ports: tuple[str, ...],
    nodes: int | None,
    with_hosts: bool,
    other: tuple[str, ...],
    output: str,
) -> None:
    r"""Print who reaches whom, for every pair of pods, computed.

    \b
    Examples:
      calico-k8s matrix manifests/
      calico-k8s matrix manifests/ --port 80/tcp --port 53/udp -o json
      calico-k8s matrix manifests/ --diff changed/
      calico-k8s matrix manifests/ --hosts --port 22 --port 9100
    """
    now = load_source(source, nodes)
    if not other:
        matrix = _compute(now, chosen_services(ports, now), with_hosts=with_hosts)
        if not matrix.pods:
            tell("note", [f"{source.name}: no pod with an address of its own is there to ask"])
        print_data(matrix, output, lambda: matrix_lines(matrix, paint=paint))
        return
    then = load_source(msgspec.structs.replace(source, paths=other), nodes, now.objects)
    services = chosen_services(ports, now, then)
    before, after = (_compute(each, services, with_hosts=with_hosts) for each in (now, then))
    found = preview(before, after)
    print_data(found, output, lambda: preview_lines(found, paint))


@click.command("affected")
@source_options
@option(
    "--policy",
    metavar="KIND/NAMESPACE/NAME",
    required=True,
    help="Pod for an annotation, Service for a label; Namespace/NAME for a flag.",
)
@output_option
def affected_command(*, source: Source, policy: str, output: str) -> None:
    r"""Print the endpoints that a policy selects, and the peers that its rules resolve to.

    \b
    Examples:
      calico-k8s affected manifests/ --policy Pod/db/b
      calico-k8s affected manifests/ --policy Namespace/web
      calico-k8s affected manifests/ --policy Service/web/a -o json
    """
    name = parse_object_name(policy)
    found = affected(load_source(source).snapshot, name)
    print_data(found, output, lambda: affected_lines(found))


def _answer(
    ctx: click.Context, source: Source, question: Question, output: str, *, explains: bool
) -> None:
    snapshot = load_source(source).snapshot
    src = find_party(snapshot, question.src)
    if is_domain(question.dst):
        snapshot, dst = find_domain(snapshot, question.dst)
    else:
        dst = find_party(snapshot, question.dst)
    answer = ask(snapshot, src, dst, question.service)

    turned = turn(snapshot, answer.deciding) if explains else None

    part = partly_denied(answer)
    if part is not None and not explains:  # of two families, or of a CIDR, say
        tell("note", [f"{part} (see explain)"])

    def lines() -> list[str]:
        if explains:
            first, *rest = explain_lines(answer, src.name, dst.name, turned)
        else:
            first, rest = headline(answer, src.name, dst.name), []
        return [_painted(first, answer), *rest]

    print_data(report(answer, turned), output, lines)
    ctx.exit(0 if answer.allowed else 1)


def _painted(line: str, answer: Answer) -> str:
    """The line with its first word, the verdict, in colour."""
    word, colon, rest = line.partition(":")
    return paint(word, "allow" if answer.allowed else "deny") + colon + rest


def _service(port: str | None, protocol: str | None) -> Service:
    if port is None:
        if protocol != "icmp":
            raise InputError("give --port, as in --port 80 or --port 53/udp, or --protocol icmp")
        return parse_service("icmp")
    if "/" not in port and port.lower() != "icmp":
        return parse_service(f"{port}/{protocol or 'tcp'}")
    service = parse_service(port)
    if protocol is not None and port.lower().rpartition("/")[2] != protocol:
        raise InputError(f"--port {port} and --protocol {protocol} say different things: give one")
    return service


def _compute(cluster: Loaded, services: tuple[Service, ...], *, with_hosts: bool) -> Matrix:
    with progress_bar("judging") as advance:
        return compute_matrix(cluster.snapshot, services, advance, with_hosts=with_hosts)
