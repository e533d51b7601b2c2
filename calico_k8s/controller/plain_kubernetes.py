"""The ``kubernetes`` package's transport, credentials and errors, without the rest of it.

In: nothing.  Out: the names below, and a process in which ``kubernetes`` can be imported as ever.
The package brings everything along when it is imported: models, a dynamic client, informers, and
pydantic, requests and oauthlib for them, 0.16 s and 17 MB of each start, of which what is used here
takes 0.01 s and 1 MB.  So its packages are found, but not run.  What a refresh of OpenID credentials
needs beyond is imported when one is due.
"""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

_NOT_RUN = ("kubernetes", "kubernetes.client", "kubernetes.config", "kubernetes.utils")
"""Packages, each found by the one before."""


@contextmanager
def _packages_not_run() -> Iterator[None]:
    """Imports inside of it run the modules that are named, and no package around them.

    None of what was made here is there afterwards: whoever imports ``kubernetes`` gets all of it.
    """
    if "kubernetes" in sys.modules:
        yield
        return
    before = set(sys.modules)
    try:
        for name in _NOT_RUN:
            spec = find_spec(name)
            if spec is None:
                raise ModuleNotFoundError(f"no package named {name}", name=name)
            sys.modules[name] = module_from_spec(spec)
        sys.modules["kubernetes.client"].__dict__.update(
            ApiClient=partial(_call, "kubernetes.client", "ApiClient"),
            Configuration=importlib.import_module("kubernetes.client.configuration").Configuration,
        )
        with _openid_not_run():
            yield
    finally:
        for name in sys.modules.keys() - before:
            if name.partition(".")[0] == "kubernetes":
                del sys.modules[name]


@contextmanager
def _openid_not_run() -> Iterator[None]:
    """Stands for modules that a refresh of OpenID credentials uses, and nothing else."""
    names = ("oauthlib", "oauthlib.oauth2", "requests_oauthlib")
    made = {name: ModuleType(name) for name in names if name not in sys.modules}
    for name, module in made.items():
        module.__dict__["__getattr__"] = partial(_part, name)
    if "oauthlib" in made:
        made["oauthlib"].__dict__["oauth2"] = made["oauthlib.oauth2"]
    if "requests_oauthlib" in made:
        session: Callable[..., Any] = partial(_call, "requests_oauthlib", "OAuth2Session")
        made["requests_oauthlib"].__dict__["OAuth2Session"] = session
    sys.modules.update(made)
    try:
        yield
    finally:
        for name in made:
            del sys.modules[name]


def _part(module: str, name: str) -> Any:  # Any: whatever a module has
    """What a module has under a name; it is imported now."""
    if name.startswith("__"):  # what imports themselves ask for
        raise AttributeError(name)
    return getattr(importlib.import_module(module), name)


def _call(module: str, name: str, *arguments: object, **named: object) -> Any:  # Any: as _part's
    return _part(module, name)(*arguments, **named)


with _packages_not_run():
    from kubernetes.client.configuration import Configuration
    from kubernetes.client.exceptions import ApiException
    from kubernetes.client.rest import RESTClientObject
    from kubernetes.config.config_exception import ConfigException
    from kubernetes.config.incluster_config import SERVICE_TOKEN_FILENAME, load_incluster_config
    from kubernetes.config.kube_config import KUBE_CONFIG_DEFAULT_LOCATION, load_kube_config

__all__ = [
    "KUBE_CONFIG_DEFAULT_LOCATION",
    "SERVICE_TOKEN_FILENAME",
    "ApiException",
    "ConfigException",
    "Configuration",
    "RESTClientObject",
    "load_incluster_config",
    "load_kube_config",
]
