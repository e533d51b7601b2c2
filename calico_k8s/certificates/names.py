"""Which service account is which user of etcd, and what each may do there.

======================= =================== =======================================================
service account         common name         may, as etcd's user of that name
======================= =================== =======================================================
calico-k8s-felix        ``node-NODE``       read ``/v1/``, write ``/felix/v2/host/NODE/``
calico-k8s-controller   ``controller``      read and write ``/v1/``, read ``/felix/v2/``
calico-k8s-etcd         ``etcd-member``     nothing, there is no such user: members of etcd know each
                                            other by it
(the signer itself)     ``root``            everything: whoever signs could do so anyway
======================= =================== =======================================================
"""

import enum
import hashlib
from collections.abc import Iterable

from calico_k8s.datastore.etcd.rights import ROOT_USER, Grant
from calico_k8s.model import keys
from calico_k8s.model.names import NodeName

SIGNER_NAME = "calico-k8s.io/etcd"
"""In ``spec.signerName`` of the requests that are ours."""
AUTHORITY_NAME = "calico-k8s-ca"
"""The Secret with the authority's key, and the ConfigMap with its certificate."""

CONTROLLER = "controller"
MEMBER = "etcd-member"
ROOT = ROOT_USER
COMMON_NAME_MAX = 64  # RFC 5280, ub-common-name
_NODE, _LONG_NODE = "node-", "node~"  # no node's name has a tilde


class Holder(enum.Enum):
    """Who may hold a certificate of ours: the value is its service account."""

    FELIX = "calico-k8s-felix"
    CONTROLLER = "calico-k8s-controller"
    MEMBER = "calico-k8s-etcd"


def common_name(holder: Holder, node: NodeName) -> str:
    """The subject of a holder's certificate."""
    match holder:
        case Holder.FELIX:
            return node_user(node)
        case Holder.CONTROLLER:
            return CONTROLLER
        case Holder.MEMBER:
            return MEMBER


def node_user(node: NodeName) -> str:
    """The user that a node is in etcd: two nodes are never one, however long their names."""
    user = f"{_NODE}{node}"
    if len(user) <= COMMON_NAME_MAX:
        return user
    return f"{_LONG_NODE}{hashlib.sha256(node.encode()).hexdigest()[:48]}"


def is_ours(user: str) -> bool:
    """Whether users and roles of that name are made and removed here."""
    return user == CONTROLLER or user.startswith((_NODE, _LONG_NODE))


def users_of(nodes: Iterable[NodeName]) -> dict[str, tuple[Grant, ...]]:
    """Every user but root, with what it may do."""
    users: dict[str, tuple[Grant, ...]] = {
        CONTROLLER: (Grant(keys.V1, can_write=True), Grant(keys.STATUS))
    }
    for node in nodes:
        own = Grant(f"{keys.STATUS}host/{node}/", can_write=True)
        users[node_user(node)] = (Grant(keys.V1), own)
    return users
