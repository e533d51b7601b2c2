"""How commands print: tables for people, JSON and YAML for machines, colours for terminals only."""

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import click
import msgspec

Row = dict[str, Any]  # Any: what JSON can hold


def print_data(data: Any, output: str, as_table: Callable[[], Iterable[str]]) -> None:
    """Print data as ``output`` says; the table is only made when it is asked for."""
    if output == "json":
        click.echo(msgspec.json.format(msgspec.json.encode(data), indent=2).decode())
    elif output == "yaml":
        import yaml  # a daemon, which never prints any, is 10 ms sooner there without

        # The dumper of libyaml: a matrix of 200 pods takes the other one 26 s.
        text = yaml.dump(msgspec.to_builtins(data), Dumper=yaml.CSafeDumper, sort_keys=False)
        click.echo(text, nl=False)
    else:
        for line in as_table():
            click.echo(line)


def table(rows: Sequence[Row]) -> Iterable[str]:
    """Rows in columns, with the keys of the first as headings; lists joined, None as a dash."""
    if not rows:
        return ["nothing"]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    headings = [column.upper().replace("_", " ") for column in columns]
    widths = [max(len(line[n]) for line in [headings, *cells]) for n in range(len(columns))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in [headings, *cells]
    ]


def paint(text: str, kind: Literal["allow", "deny", "heading"]) -> str:
    """Text in the colour of its kind, where standard output is a terminal that wants colours."""
    if not has_colours():
        return text
    style = {"allow": {"fg": "green"}, "deny": {"fg": "red"}, "heading": {"bold": True}}[kind]
    return click.style(text, **style)  # type: ignore[arg-type]  # each value fits its own parameter


def has_colours() -> bool:
    """Whether colours are wanted.  Source: no-color.org."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def _cell(value: Any) -> str:
    match value:
        case None:
            return "-"
        case dict():
            return ",".join(f"{key}={one}" for key, one in sorted(value.items())) or "-"
        case list() | tuple():
            return ",".join(str(one) for one in value) or "-"
        case _:
            return str(value)
