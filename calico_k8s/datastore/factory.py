"""From a datastore's URL to the store.

In come a URL, certificates, and what the store is for; out goes the store, opened.
"""

from calico_k8s.datastore.location import (
    Access,
    EtcdLocation,
    LocalLocation,
    TlsFiles,
    parse_url,
    require_tls_beyond_loopback,
)
from calico_k8s.datastore.store import Store
from calico_k8s.errors import InputError


def open_store(
    url: str,
    tls: TlsFiles | None = None,
    access: Access = Access.READ_WRITE,
    proxies: tuple[str, ...] = (),
) -> Store:
    """Opens the store a URL means.  etcd is not contacted yet; a file is opened, or made.

    Raises: InputError for a URL that cannot be meant, files that cannot be read, or etcd beyond
    this machine without TLS; StoreForeign for a file that is not ours; StoreUnavailable for one
    that cannot be opened.
    """
    match parse_url(url):
        case EtcdLocation() as location:
            require_tls_beyond_loopback((*location.endpoints, *proxies), tls)
            # Imported here: etcd3 and grpc take 0.1 s and 24 MB that a local store does without.
            from calico_k8s.datastore.etcd.store import EtcdStore

            return EtcdStore(location, tls, proxies)
        case LocalLocation(path):
            if tls is not None:
                raise InputError(f"{url!r} is a file: it takes no TLS certificates")
            if proxies:
                raise InputError(f"{url!r} is a file: it is read without proxies")
            from calico_k8s.datastore.local.store import LocalStore

            return LocalStore(path, access)
