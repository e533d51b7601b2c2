"""Options that several commands share, each also an environment variable ``CALICO_K8S_<OPTION>``."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from calico_k8s.config import ENVIRONMENT_PREFIX

_F = TypeVar("_F", bound=Callable[..., Any])  # Any: a command's function has any parameters


def option(name: str, *more: str, **settings: Any) -> Callable[[_F], _F]:  # Any: click's own
    """A click option that the environment can give as well; ``name`` is its long form."""
    variable = ENVIRONMENT_PREFIX + name.removeprefix("--").replace("-", "_").upper()
    return click.option(name, *more, envvar=variable, show_envvar=False, **settings)


def output_option(command: _F) -> _F:
    """``-o table|json|yaml``."""
    return option(
        "--output",
        "-o",
        type=click.Choice(["table", "json", "yaml"]),
        default="table",
        show_default=True,
        help="json is the stable interface; tables are for people.",
    )(command)


def datastore_options(command: _F) -> _F:
    """``--datastore`` and its TLS files."""
    for decorate in (
        option("--etcd-key", metavar="FILE", help="our private key for etcd, PEM"),
        option("--etcd-cert", metavar="FILE", help="our certificate for etcd, PEM"),
        option("--etcd-ca", metavar="FILE", help="the authority that signed etcd's, PEM"),
        option(
            "--datastore",
            metavar="URL",
            help="etcd://HOST:2379[,HOST:2379...][/calico] or sqlite:///PATH",
        ),
    ):
        command = decorate(command)
    return command
