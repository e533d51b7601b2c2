"""One type for each kind of name, so that none is taken for another."""

from typing import NamedTuple, NewType

NodeName = NewType("NodeName", str)
NamespaceName = NewType("NamespaceName", str)
ProfileId = NewType("ProfileId", str)
TagName = NewType("TagName", str)
TierName = NewType("TierName", str)
NetsetName = NewType("NetsetName", str)
SelectorText = NewType("SelectorText", str)
"""A selector in the grammar's canonical form."""


HOST_NAMESPACE = NamespaceName("")
"""Of host endpoints: no pod has it."""


class EndpointId(NamedTuple):
    """A workload endpoint, the pod ``namespace/name`` on ``node``, or a host endpoint of the node."""

    node: NodeName
    namespace: NamespaceName
    """:data:`HOST_NAMESPACE` for a host endpoint."""
    name: str

    @property
    def is_host(self) -> bool:
        """Whether it is a host endpoint."""
        return self.namespace == HOST_NAMESPACE

    @property
    def pod(self) -> str:
        """``namespace/name``, as people and the command line write it."""
        return f"{self.namespace}/{self.name}"


class PolicyId(NamedTuple):
    """A policy object: same-named policies of different kinds or namespaces are distinct."""

    kind: str
    namespace: str
    """Empty for cluster-wide kinds."""
    name: str

    @property
    def path(self) -> str:
        """``kind/namespace/name``, or ``kind/name``, as people and the command line write it."""
        return "/".join(part for part in self if part)
