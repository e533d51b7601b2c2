"""How daemons log: one JSON object a line where no person looks on, columns on a terminal.

In: a level and a form.  Out: lines on standard error, each with ``timestamp`` (UTC), ``level`` and
``event`` first.  As JSON nothing is ever more than a line, a mistake of ours and the error that
ends the process included.
"""

import functools
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from importlib.metadata import version
from types import TracebackType
from typing import Any

import click
import msgspec

from calico_k8s.cli.options import option
from calico_k8s.cli.plain_structlog import structlog
from calico_k8s.errors import CalicoError

FIRST_KEYS = ("timestamp", "level", "event")


class LogOptions(msgspec.Struct, frozen=True):
    """What is logged, and how."""

    level: str = "info"
    form: str = "auto"

    @property
    def is_json(self) -> bool:
        """Whether lines are JSON: where nobody says, if standard error is no terminal."""
        return self.form == "json" or (self.form == "auto" and not sys.stderr.isatty())


def log_options(command: Callable[..., None]) -> Callable[..., None]:
    """``--log-level`` and ``--log-format``, as the parameter ``log``."""

    @functools.wraps(command)
    def with_log(*, log_level: str, log_format: str, **others: Any) -> None:  # Any: the command's
        command(log=LogOptions(log_level, log_format), **others)

    with_log = option(
        "--log-format",
        type=click.Choice(["auto", "json", "text"]),
        default="auto",
        show_default=True,
        help="auto is text on a terminal, and JSON elsewhere.",
    )(with_log)
    return option(
        "--log-level",
        type=click.Choice(["debug", "info", "warning", "error"]),
        default="info",
        show_default=True,
        help="What is worth a line.",
    )(with_log)


@contextmanager
def logging_of(daemon: str, options: LogOptions) -> Iterator[None]:
    """A daemon logs to standard error as the options say; as JSON, also what ends the block.

    Raises:
        click.exceptions.Exit: an error ended the block, and is logged.
    """
    set_up_logging(options)
    structlog.get_logger().info("starting", daemon=daemon, version=version("calico_k8s"))
    try:
        yield
    except CalicoError as error:
        if not options.is_json:
            raise
        structlog.get_logger().critical("ended by an error", error=str(error))
        raise click.exceptions.Exit(error.exit_code) from None
    except OSError as error:
        # Nothing that a daemon expects: with its traceback, where a command has a sentence.
        _log_mistake(type(error), error, error.__traceback__)
        raise click.exceptions.Exit(CalicoError.exit_code) from None


def set_up_logging(options: LogOptions) -> None:
    """Send structured logs of the options' level and above to standard error."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _order_keys,
            structlog.processors.JSONRenderer() if options.is_json else _console(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[options.level.upper()]
        ),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    if options.is_json:
        sys.excepthook = _log_mistake
        threading.excepthook = _log_mistake_in_thread


def _console() -> structlog.dev.ConsoleRenderer:
    has_colours = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    return structlog.dev.ConsoleRenderer(
        colors=has_colours, exception_formatter=structlog.dev.plain_traceback, sort_keys=False
    )


def _order_keys(
    _logger: object,
    _method: str,
    line: MutableMapping[str, Any],  # Any: structlog's
) -> Mapping[str, Any]:
    """The keys that every line has, first."""
    return {**{key: line[key] for key in FIRST_KEYS}, **line}


def _log_mistake(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    structlog.get_logger().critical("a mistake of ours", exc_info=(kind, error, trace))


def _log_mistake_in_thread(met: threading.ExceptHookArgs) -> None:
    if met.exc_value is not None and met.exc_type is not SystemExit:
        _log_mistake(met.exc_type, met.exc_value, met.exc_traceback)
