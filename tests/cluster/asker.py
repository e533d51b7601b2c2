"""Asks an etcd as somebody, as a program: so that it can do so inside a network namespace.

In: a line of JSON on standard input, ``{"url": ..., "tls": [CA, CERT, KEY] or null, "asks": [[VERB,
KEY], ...]}``; a verb is ``read`` (a prefix), ``write`` or ``watch`` (a prefix).  Out: for each, a line with ``ok``
or the name of the error.
"""

import json
import sys
from contextlib import closing
from pathlib import Path

from calico_k8s.datastore.etcd.store import EtcdStore
from calico_k8s.datastore.location import EtcdLocation, TlsFiles, parse_url
from calico_k8s.datastore.store import Put, Revision, Store
from calico_k8s.errors import StoreError


def main() -> None:
    """Answers."""
    asked = json.loads(sys.stdin.readline())
    location = parse_url(asked["url"])
    assert isinstance(location, EtcdLocation)
    tls = TlsFiles(*map(Path, asked["tls"])) if asked["tls"] else None
    with closing(EtcdStore(location, tls)) as store:
        for verb, key in asked["asks"]:
            sys.stdout.write(f"{ask(store, verb, key)}\n")


def ask(store: Store, verb: str, key: str) -> str:
    """What became of it."""
    try:
        match verb:
            case "read":
                store.read(key)
            case "write":
                store.transact([Put(key, b"1")])
            case "watch":
                with closing(store.watch(key, Revision(1))) as watcher:
                    next(watcher)
            case _:
                raise ValueError(verb)
    except StoreError as error:
        return type(error).__name__
    return "ok"


if __name__ == "__main__":
    main()
