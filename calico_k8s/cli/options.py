"""Options that several commands share, each also an environment variable ``CALICO_K8S_<OPTION>``."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from calico_k8s.config import ENVIRONMENT_PREFIX
from calico_k8s.datastore.factory import open_store
from calico_k8s.datastore.location import Access, TlsFiles, parse_endpoints
from calico_k8s.datastore.store import Store
from calico_k8s.errors import InputError

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


def metrics_port_option(port: int) -> Callable[[_F], _F]:
    """``--metrics-port``."""
    return option(
        "--metrics-port",
        type=click.IntRange(0, 65535),
        default=port,
        show_default=True,
        help="For /metrics, /healthz and /readyz; 0 for none.",
    )


class DatastoreOptions(msgspec.Struct, frozen=True):
    """Which datastore, and the certificates it takes."""

    url: str | None = None
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    proxies: str = ""


def datastore_options(command: Callable[..., None]) -> Callable[..., None]:
    """``--datastore`` and its TLS files, as the parameter ``datastore``."""

    @functools.wraps(command)
    def with_datastore(  # Any: the command's other parameters
        *,
        datastore: str | None,
        etcd_ca: str | None,
        etcd_cert: str | None,
        etcd_key: str | None,
        **others: Any,
    ) -> None:
        command(datastore=DatastoreOptions(datastore, etcd_ca, etcd_cert, etcd_key), **others)

    with_datastore = option("--etcd-key", metavar="FILE", help="Our private key for etcd, PEM.")(
        with_datastore
    )
    with_datastore = option("--etcd-cert", metavar="FILE", help="Our certificate for etcd, PEM.")(
        with_datastore
    )
    with_datastore = option("--etcd-ca", metavar="FILE", help="The authority of etcd's, PEM.")(
        with_datastore
    )
    return option(
        "--datastore",
        metavar="URL",
        help="etcd://HOST:2379[,HOST:2379...][/calico] or sqlite:///PATH",
    )(with_datastore)


@contextmanager
def open_datastore(options: DatastoreOptions, access: Access = Access.READ_ONLY) -> Iterator[Store]:
    """The store that the options name, closed at the end.

    Raises:
        InputError: none is named, or only a part of the TLS files.
    """
    if options.url is None:
        raise InputError("give --datastore etcd://HOST:2379 or --datastore sqlite:///PATH")
    files = (options.ca, options.cert, options.key)
    given = [Path(name) for name in files if name]
    if given and len(given) < len(files):
        raise InputError("TLS to etcd takes --etcd-ca, --etcd-cert and --etcd-key together")
    proxies = parse_endpoints(options.proxies)
    store = open_store(options.url, TlsFiles(*given) if given else None, access, proxies)
    try:
        yield store
    finally:
        store.close()
