"""Which service account is which user of etcd; :mod:`.users` gives each what it may do there.

======================= =================== =======================================================
service account         common name         may, as etcd's user of that name
======================= =================== =======================================================
calico-k8s-felix        ``node-NODE``       read ``/v1/``, write ``/felix/v2/host/NODE/``
calico-k8s-controller   ``controller``      read and write ``/v1/``, read ``/felix/v2/``
calico-k8s-etcd         ``etcd-member``     nothing, there is no such user: members of etcd know each
                                            other by it
calico-k8s-etcd-proxy   (none)              nothing: whoever asks through it is ``proxy-reader``, by
                                            a password, and may read ``/v1/``
(the signer itself)     ``root``            everything: whoever signs could do so anyway
======================= =================== =======================================================
"""

import enum
import hashlib

from calico_k8s.model.names import NodeName

SIGNER_NAME = "calico-k8s.io/etcd"
"""In ``spec.signerName`` of the requests that are ours."""
AUTHORITY_NAME = "calico-k8s-ca"
"""The Secret with the authority's key, and the ConfigMap with its certificate."""

CONTROLLER = "controller"
MEMBER = "etcd-member"
COMMON_NAME_MAX = 64  # RFC 5280, ub-common-name
_NODE, _LONG_NODE = "node-", "node~"  # no node's name has a tilde
NODES = (_NODE, _LONG_NODE)
"""How the names of nodes' users begin."""


class Holder(enum.Enum):
    """Who may hold a certificate of ours: the value is its service account."""

    FELIX = "calico-k8s-felix"
    CONTROLLER = "calico-k8s-controller"
    MEMBER = "calico-k8s-etcd"
    PROXY = "calico-k8s-etcd-proxy"

    @property
    def serves(self) -> bool:
        """Whether others connect to it: then its certificate has addresses."""
        return self in (Holder.MEMBER, Holder.PROXY)


def common_name(holder: Holder, node: NodeName) -> str:
    """The subject of a holder's certificate."""
    match holder:
        case Holder.FELIX:
            return node_user(node)
        case Holder.CONTROLLER:
            return CONTROLLER
        case Holder.MEMBER:
            return MEMBER
        case Holder.PROXY:
            return ""


def node_user(node: NodeName) -> str:
    """The user that a node is in etcd: two nodes are never one, however long their names."""
    user = f"{_NODE}{node}"
    if len(user) <= COMMON_NAME_MAX:
        return user
    return f"{_LONG_NODE}{hashlib.sha256(node.encode()).hexdigest()[:48]}"
