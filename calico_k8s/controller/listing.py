"""All objects of a cluster as of now, for the commands that look once, and to be sure.

In: an API server.  Out: pages of one kind, or every object that translate uses.  A list is of one
revision and comes from etcd, past every cache.
"""

from collections.abc import Iterator
from typing import NamedTuple, TypeVar

import msgspec

from calico_k8s.controller.kube import KubeApi
from calico_k8s.controller.wire import DEFINED, PATHS, KindDecoder, Page
from calico_k8s.errors import KubeExpired, KubeForbidden, KubeNotFound
from calico_k8s.sources.expand import ClusterObjects
from calico_k8s.translate.findings import Finding
from calico_k8s.translate.objects import (
    EndpointSlice,
    KubeObject,
    Namespace,
    Node,
    Pod,
    PolicyObject,
    Service,
    ServiceAccount,
)

_Object = TypeVar("_Object", Node, Namespace, ServiceAccount, Service, EndpointSlice, Pod)

PAGE_OBJECTS = 500
"""As kubectl lists."""
LISTS_MAX = 3
"""A list whose rest has expired starts over, this many times."""


class Listing(msgspec.Struct, frozen=True):
    """Every object that can be used, and what is wrong with the others."""

    objects: tuple[KubeObject, ...]
    findings: tuple[Finding, ...]


def list_pages(api: KubeApi, decoder: KindDecoder) -> Iterator[Page]:
    """All objects of a kind, page by page.

    No resourceVersion is given: with 0 the server ignores the limit and answers from its cache.

    Raises: KubeError; KubeExpired when the rest cannot be had: start over.
    """
    rest = ""
    while True:
        query = {"limit": PAGE_OBJECTS} | ({"continue": rest} if rest else {})
        page = decoder.page(api.get(PATHS[decoder.kind], query))
        yield page
        rest = page.rest
        if not rest:
            return


def list_objects(api: KubeApi) -> Listing:
    """Everything, kind after kind; of a kind that the cluster has not got there is nothing.

    Raises: KubeError.
    """
    objects: list[KubeObject] = []
    findings: list[Finding] = []
    for kind in PATHS:
        for page in _pages_if_served(api, KindDecoder(kind)):
            for decoded in page.objects:
                findings += decoded.findings
                if decoded.object is not None:
                    objects.append(decoded.object)
    return Listing(tuple(objects), tuple(findings))


class LiveCluster(NamedTuple):
    """A cluster as commands take it, and what is wrong with objects that cannot be used."""

    objects: ClusterObjects
    findings: tuple[Finding, ...]


def list_cluster(api: KubeApi) -> LiveCluster:
    """The cluster as it is now; nothing is assumed or made up for it.

    Raises: KubeError.
    """
    listing = list_objects(api)

    def of(type_: type[_Object]) -> tuple[_Object, ...]:
        return tuple(value for value in listing.objects if isinstance(value, type_))

    objects = ClusterObjects(
        nodes=of(Node),
        namespaces=of(Namespace),
        accounts=of(ServiceAccount),
        services=of(Service),
        slices=of(EndpointSlice),
        pods=of(Pod),
        written={},
        policies=tuple(value for value in listing.objects if isinstance(value, PolicyObject)),
    )
    return LiveCluster(objects, listing.findings)


class _Resource(msgspec.Struct):
    name: str


class _Resources(msgspec.Struct):
    """``v1/APIResourceList``: what a group's version serves; everybody may read it."""

    resources: tuple[_Resource, ...] = ()


def _pages_if_served(api: KubeApi, decoder: KindDecoder) -> list[Page]:
    try:
        return _all_pages(api, decoder)
    except (KubeNotFound, KubeForbidden):
        # Whoever may not list a kind is refused, whether it is there or not.
        if decoder.kind in DEFINED and not _is_served(api, decoder.kind):
            return []
        raise


def _is_served(api: KubeApi, kind: str) -> bool:
    version, _, plural = PATHS[kind].rpartition("/")
    try:
        found = msgspec.json.decode(api.get(version), type=_Resources)
    except KubeNotFound:
        return False
    except (msgspec.DecodeError, UnicodeDecodeError):
        return True
    return any(resource.name == plural for resource in found.resources)


def _all_pages(api: KubeApi, decoder: KindDecoder) -> list[Page]:
    for _ in range(LISTS_MAX - 1):
        try:
            return list(list_pages(api, decoder))
        except KubeExpired:
            continue
    return list(list_pages(api, decoder))
